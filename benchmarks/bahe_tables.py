"""The README's tables of ``bahe.py``, ``bahe_search.py`` and ``behaviour_store.py``."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from tables import missed_briefly, source


def bahe(result: dict[str, Any]) -> str:
    """What a step costs as histories grow, and what is learnt of them."""
    costs = [row for row in result["rows"] if "trained" in row]
    means = [row for row in result["rows"] if "seeds" in row]
    lines = ["**Behaviour histories** (MovieLens clicks; MiniLM, the upper half of its layers trained in all models)."]
    if costs:
        lines += [_bahe_costs(costs)]
    for part, about in (
        (
            "auc",
            "test rows, the latest of all; *behind*: AUC points of Bahe over it (± paired bootstrap over rows); "
            "*over flat*: over the flat model of as many epochs",
        ),
        ("ablation", "one thing about Bahe is other"),
    ):
        own = [row for row in means if row["part"] == part]
        if own:
            lines += ["", _bahe_quality(own, about)]
    picture = "![Cost of a training step as histories grow](benchmarks/results/bahe.png)"
    return "\n".join([*lines, "", *missed_briefly(result), source(result), *(["", picture] if costs else [])])


def _bahe_costs(costs: list[dict[str, Any]]) -> str:
    """A line per form, number of tokens and way."""
    first = costs[0]
    encoded = {row["form"]: row for row in costs if "encoding_seconds" in row}
    told = {"short": "title and genres", "long": "title and plot"}
    once = ", ".join(
        f"{row['encoding_seconds']:.0f} s for {row['encoded_texts']} films by {told[form]}"
        for form, row in encoded.items()
    )
    lines = [
        f"A training step over {first['rows']} rows, {first['threads']} thread, {first['precision']}, lookup included; "
        f"encoding is done once: {once}. Memory: peak of the step above model and rows.",
        "",
        "| behaviours | tokens of history | model | seconds | encoding spread | memory | over Bahe: time, memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in costs:
        spread = f"{row['step_seconds_with_encoding']:.3f} s" if "step_seconds_with_encoding" in row else ""
        over = ""
        if "times_the_seconds_of_bahe" in row:
            over = f"**{row['times_the_seconds_of_bahe']:.1f}x**, **{row['times_the_memory_of_bahe']:.1f}x**"
        cells = f"{row['trained']} | {row['step_seconds']:.3f} s | {spread} | {row['step_memory_mib']:.0f} MiB | {over}"
        lines.append(f"| {told[row['form']]} | {row['history_tokens']} | {cells} |")
    lines += ["", f"Costs: `python benchmarks/bahe.py --parts costs`, {first['date'][:10]}."]
    return "\n".join(lines)


def _bahe_quality(rows: list[dict[str, Any]], about: str) -> str:
    """A line per method."""
    lines = [
        f"Mean over seeds, {about}:",
        "",
        "| method | seeds | AUC valid | AUC | within users | log loss | behind | over flat | epochs | training |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        behind = ""
        if "behind_bahe_points" in row:
            behind = f"{row['behind_bahe_points']:+.2f} ± {row['standard_error_points']:.2f}"
        over = ""
        if "over_flat_points" in row:
            over = f"{row['over_flat_points']:+.2f} ± {row['over_flat_standard_error_points']:.2f}"
        valid = f"{row['valid_auc']:.4f}" if "valid_auc" in row else ""
        gauc = f"{row['gauc']:.4f}" if "gauc" in row else ""
        seconds = f"{row['training_seconds']:.0f} s"
        seconds += f" and {row['encoding_seconds']:.0f} s encoding" if row["encoding_seconds"] else ""
        cells = [
            row["method"],
            row["seeds"],
            valid,
            f"**{row['auc']:.4f}**",
            gauc,
            f"{row['log_loss']:.4f}",
            behind,
            over,
        ]
        lines.append("| " + " | ".join(map(str, [*cells, f"{row['epochs']:.2g}", seconds])) + " |")
    return "\n".join(lines)


def bahe_search(result: dict[str, Any]) -> str:
    """The search over the layers above the frozen ones, for more and for fewer of these."""
    lines = [
        "**The search over histories** (MovieLens clicks with the 50 latest films that were rated, vectors looked up; "
        "budgets are shares of the dense model's latency, looking up included). AUC on validation and test rows, mean "
        f"over seeds {result['seeds']}; *ahead*: points of test AUC over the best uniform genome (± paired bootstrap "
        "over rows):",
        "",
        "| layers searched | budget | | valid AUC | test AUC | microseconds | ahead |",
        "|---|---|---|---|---|---|---|",
    ]
    for frozen in sorted({row["frozen_layers"] for row in result["rows"]}):
        own = [row for row in result["rows"] if row["frozen_layers"] == frozen]
        gains = {row["at"]: row for row in own if "rival" in row}
        scored = [row for row in own if "median_us" in row or "budget" in row]
        for budget, cell in dict.fromkeys((row.get("budget", "dense"), row["cell"]) for row in scored):
            found = [row for row in scored if (row.get("budget", "dense"), row["cell"]) == (budget, cell)]
            us = fmean(row.get("remeasured_us", row.get("median_us")) for row in found)
            gain = gains.get(budget) if cell == "searched joint" else None
            ahead = "" if gain is None else f"{100 * gain['test_auc']:+.2f} ± {100 * gain['standard_error']:.2f}"
            valid, test = (fmean(row[name] for row in found) for name in ("valid_auc", "test_auc"))
            lines.append(f"| {6 - frozen} | {budget} | {cell} | {valid:.4f} | **{test:.4f}** | {us:.0f} | {ahead} |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def behaviour_store(result: dict[str, Any]) -> str:
    """What a store costs to fill, to read and to keep."""
    encode = next(row for row in result["rows"] if row["part"] == "encode")
    low, high = encode["ratio_quartiles"]
    lines = [
        "**The behaviour store** (vectors of 384 numbers in fp16; one process, one core). Encoding "
        f"{encode['texts']} texts of {encode['tokens_mean']:.0f} tokens into a store takes {encode['ratio']:.3f} times "
        f"the encoder's own forward passes (median of {encode['slices']} slices, quartiles {low:.3f} and {high:.3f}), "
        f"{encode['texts_per_second_store']:.0f} texts a second.",
        "",
        "| behaviours | | vectors a second | by text | by text, again | own memory | a behaviour |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        cells = [f"{row['rows'] / 1e6:g} million", row["part"]] if "rows" in row else []
        if row["part"] == "fill":
            kept = f"{row['bytes_per_behaviour']:.0f} bytes, {row['bytes_of_vector']} of them its vector"
            cells += [f"{row['vectors_per_second']:.3g}", "", "", f"{row['own_peak_mib']:.0f} MiB", kept]
        elif cells:
            cells += [f"{row[name]:.3g}" for name in ("vectors_per_second", "get_per_second", "again_per_second")]
            cells += [f"{row['own_peak_mib']:.0f} MiB", ""]
        if cells:
            lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "| Ray workers | texts | seconds | killed | lost | twice |", "|---|---|---|---|---|---|"]
    for row in result["rows"]:
        if "workers" in row:
            counts = [row[name] for name in ("killed", "lost", "twice")]
            cells = [row["workers"], row["texts"], f"{row['seconds']:.0f}", *counts]
            lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])
