"""Writes the README's tables from benchmarks/results/*.json, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from bahe_tables import bahe, bahe_search, behaviour_store
from bert4ctr_tables import bert4ctr, bert4ctr_search, bert4ctr_search_ad_log
from latency_table import CELLS
from tables import by_budget, missed, missed_briefly, source

HERE = Path(__file__).parent
BEGIN, END = "<!-- tables -->", "<!-- /tables -->"


def main() -> None:
    """Replace what stands between the markers."""
    readme = HERE.parent / "README.md"
    text = readme.read_text(encoding="utf-8")
    parts = []
    for name, table in TABLES.items():
        path = HERE / "results" / f"{name}.json"
        if path.exists():
            parts.append(table(json.loads(path.read_text(encoding="utf-8"))))
    head, tail = text.split(BEGIN)[0], text.split(END)[1]
    readme.write_text("\n\n".join([head + BEGIN, *parts, END + tail]), encoding="utf-8")


def home_depot(result: dict[str, Any]) -> str:
    """Mean over seeds per budget and method."""
    rows = [row for row in result["rows"] if "budget" in row]
    dense = [row for row in result["rows"] if row["cell"] == "dense teacher"]
    dense_auc, dense_us = (float(np.mean([row[key] for row in dense])) for key in ("test_auc", "median_us"))
    lines = [
        "**Home Depot product relevance** (74,067 query-title pairs, split by query; MiniLM 6x384, ONNX Runtime fp32, "
        f"1 thread, batch 1, 48 tokens). Dense teacher: test AUC {dense_auc:.4f}, {dense_us:.0f} us. Test AUC, mean "
        f"over seeds {result['seeds']} (microseconds, measured together at the end of a seed; each seed):",
        "",
    ]
    methods = list(dict.fromkeys(row["cell"] for row in rows))
    lines.append("| budget | " + " | ".join(methods) + " |")
    lines.append("|---|" + "---|" * len(methods))
    for budget in dict.fromkeys(row["budget"] for row in rows):
        cells = []
        for method in methods:
            found = [row for row in rows if row["cell"] == method and row["budget"] == budget]
            if not found:
                cells.append("not run")
                continue
            auc, latency = (float(np.mean([row[key] for row in found])) for key in ("test_auc", "remeasured_us"))
            each = " / ".join(f"{row['test_auc']:.4f}" for row in found)
            cells.append(f"**{auc:.4f}** ({latency:.0f} us; {each})")
        budget_us = float(np.mean([row["budget_us"] for row in rows if row["budget"] == budget]))
        lines.append(f"| {budget}: {budget_us:.0f} us | " + " | ".join(cells) + " |")
    lines += [
        "",
        "Searched joint minus, in test AUC, over the seeds that both have run "
        "(± standard error over test rows, paired bootstrap):",
        "",
    ]
    gains = [row for row in result["rows"] if "rival" in row]
    places = list(dict.fromkeys(row["at"] for row in gains))
    lines += ["| | " + " | ".join(f"at {at}" if at != "all" else "all budgets" for at in places) + " |"]
    lines += ["|---|" + "---|" * len(places)]
    for rival in dict.fromkeys(row["rival"] for row in gains):
        gained = {
            row["at"]: f"{row['test_auc']:+.4f} ± {row['standard_error']:.4f}" for row in gains if row["rival"] == rival
        }
        every = next(row["seeds"] for row in gains if row["rival"] == rival and row["at"] == "all")
        lines.append(f"| {rival}, seeds {every} | " + " | ".join(gained.get(at, "not run") for at in places) + " |")
    return "\n".join([*lines, "", *missed(result), source(result)])


def latency_table(result: dict[str, Any]) -> str:
    """Error of the table on held-out genomes, one line per way of serving."""
    rows = result["rows"]
    lines = [
        f"**Latency table** against {rows[0]['heldout_models']} whole models per way of serving that it was not fitted "
        "on. *Repeat* is the difference between two measurements of those models, *drift* what all of them had in "
        "common then: a table cannot be more exact than its machine.",
        "",
        "| backbone, tokens | served by | mean error | within 5 % | within 10 % | tau | other lengths "
        "| repeat: mean, tau | drift | profile |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        way = f"{row['runtime']} {row['precision']}"
        way += f", {row['threads']} threads" * (row["threads"] > 1) + f", batch {row['batch']}" * (row["batch"] > 1)
        lines.append(
            f"| {row['backbone']}, {row['length_tokens']} | {way} | {row['mean_error']:.1%} "
            f"| {row['within_5_percent']:.1%} | {row['within_10_percent']:.1%} | {row['kendall_tau']:.3f} "
            f"| {row['other_lengths_mean_error']:.1%} "
            f"| {row['repeat_mean_error']:.1%}, {row['repeat_kendall_tau']:.3f} "
            f"| {row['repeat_common_drift']:+.1%} | {row['profile_seconds']:.0f} s |"
        )
    if len(rows) < len(CELLS):
        lines += ["", f"Measured so far: {len(rows)} of {len(CELLS)} ways of serving."]
    slowest = min(row["predictions_per_second"] for row in rows)
    lines += ["", f"Predictions: at least {slowest / 1e6:.1f} million genomes per second in one call.", ""]
    return "\n".join([*lines, *missed_briefly(result), source(result)])


def export_speed(result: dict[str, Any]) -> str:
    """Dense exports beside the runtimes' own tools, slim ones beside their share of the work."""
    dense = [row for row in result["rows"] if row["cell"] == "dense"]
    lengths = list(dict.fromkeys(row["length_tokens"] for row in dense))
    lines = [
        "**Dense export** over the fastest rival's time, same weights, same run (below 1: ours is faster); the rival "
        "is torch's export fused by `onnxruntime.transformers.optimizer` (int8: then `quantize_dynamic`), or "
        "OpenVINO's own conversion:",
        "",
        "| | " + " | ".join(f"{length} tokens" for length in lengths) + " |",
        "|---|" + "---|" * len(lengths),
    ]
    for way in dict.fromkeys((row["runtime"], row["precision"], row["shapes"]) for row in dense):
        cells = [
            f"{row['ours_over_fastest']:.2f} ({row['ours_us']:.0f} us)"
            for row in dense
            if (row["runtime"], row["precision"], row["shapes"]) == way
        ]
        lines.append(f"| {way[0]} {way[1]}, {way[2]} | " + " | ".join(cells) + " |")
    calls = [row for row in result["rows"] if row["cell"] == "call"]
    each = ", ".join(f"{row['runtime']} {row['precision']} {row['shapes']} {row['us']:.0f} us" for row in calls)
    lines += ["", f"A call of a model without heads and FFN units: {each}.", ""]
    lines += [
        "**Slim exports**, 48 tokens: share of the speed of the largest matrix product in the same runtime, and time "
        "over the share of the dense model's multiply-adds (1: as fast per product as the dense export), smallest to "
        "largest:",
        "",
        "| | uniform | winners of the search | winners of random search, which prune tokens |",
        "|---|---|---|---|",
    ]
    slim = [row for row in result["rows"] if row["cell"] == "slim"]
    for way in dict.fromkeys((row["runtime"], row["precision"], row["shapes"]) for row in slim):
        cells = []
        for kind in ("uniform", "searched joint", "random joint"):
            own = [
                row
                for row in slim
                if (row["runtime"], row["precision"], row["shapes"]) == way and row["kind"].startswith(kind)
            ]
            shares, over = ([row[key] for row in own] for key in ("share_of_largest_product", "time_over_work"))
            cells.append(f"{min(shares):.0%} to {max(shares):.0%}; {min(over):.2f} to {max(over):.2f}")
        lines.append(f"| {way[0]} {way[1]}, {way[2]} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def precision(result: dict[str, Any]) -> str:
    """What int8 and bf16 bring and cost."""
    ways = list(dict.fromkeys((row["runtime"], row["precision"], row["shapes"]) for row in result["rows"]))
    lines = [
        "**Precision** on Home Depot, 48 tokens, 1 thread: microseconds, test AUC (all test rows, by the runtime "
        "itself):",
        "",
        "| model | " + " | ".join(f"{way[0]} {way[1]}, {way[2]}" for way in ways) + " |",
        "|---|" + "---|" * len(ways),
    ]
    for name in dict.fromkeys(row["model"] for row in result["rows"]):
        cells = [f"{row['us']:.0f} us, {row['test_auc']:.4f}" for row in result["rows"] if row["model"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def main_job(result: dict[str, Any]) -> str:
    """The README's first command, timed."""
    row = result["rows"][0]
    cells = [
        f"| {name} | {row[f'{key}_test_auc']:.4f} | {row[f'{key}_us']:.0f} |"
        for key, name in (("dense", "dense teacher"), ("uniform", "best uniform"), ("winner", "winner"))
        if f"{key}_us" in row
    ]
    lines = [
        f"**The main job** (`sparsefront search --budget-us {row['budget_us']:.0f}`, the built-in task), after the "
        f"install: {row['total_seconds']:.0f} s on {result['machine']['cores']} cores, peak memory "
        f"{row['peak_memory_gib']:.1f} GiB, {row['seconds_per_evaluation']:.2f} s per evaluation.",
        "",
        "| model | test AUC | median us |",
        "|---|---|---|",
        *cells,
    ]
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def crash(result: dict[str, Any]) -> str:
    """What is left of a search that was killed again and again."""
    (row,) = result["rows"]
    victims = {"driver": "its driver", "actor": "an actor", "raylet": "a raylet"}
    kills = ", ".join(f"{count} of {victims[name]}" for name, count in row["kills"].items())
    lines = [
        f"**Killed again and again**: one search of {row['wanted']} evaluations with {sum(row['kills'].values())} "
        f"SIGKILLs at random moments ({kills}), started {row['starts']} times by the same command, "
        f"{row['seconds']:.0f} s in all. Finished evaluations lost: {row['lost']}; counted twice: {row['twice']}; "
        f"front of the result other than that of the stored trials: {'yes' if row['front_differs'] else 'no'}.",
        "",
    ]
    return "\n".join([*lines, *missed_briefly(result), source(result)])


def samplers(result: dict[str, Any]) -> str:
    """Every method at every count, with its interval; the ablations below."""
    rows = result["rows"]
    named = {key.rsplit("_", 1)[1] for row in rows for key in row if key.startswith("best_at_")}
    counts = sorted(int(name) for name in named if name.isdigit())
    lines = [
        f"**Samplers** on recorded landscapes, {len(result['seeds'])} seeds, budget 1/6 of the dense latency; every "
        "method starts from the same designs, never evaluates what is over the budget, and nothing twice. Noise-free "
        "validation AUC of the best in percent, and hypervolume (reference: AUC one half, the budget; share of the box "
        "up to the dense model's AUC) in percent, mean [95 % bootstrap interval]:",
    ]
    for landscape, space in dict.fromkeys((row["landscape"], row["space"]) for row in rows):
        own = [row for row in rows if (row["landscape"], row["space"]) == (landscape, space)]
        head = [f"{name} at {count}" for name in ("best", "hypervolume") for count in counts]
        lines += ["", f"| {landscape}, {space} | " + " | ".join(head) + " |", "|---|" + "---|" * len(head)]
        for row in own:
            cells = [_interval(row, f"{name}_at_{count}") for name in ("best", "hypervolume") for count in counts]
            fewer = f" ({row['seeds']} seeds)" if row["seeds"] != len(result["seeds"]) else ""
            lines.append(f"| {row['method']}{fewer} | " + " | ".join(cells) + " |")
    picture = "![Best of each sampler against evaluations](benchmarks/results/samplers.png)"
    return "\n".join([*lines, "", *missed_briefly(result), source(result), "", picture])


def _interval(row: dict[str, Any], name: str) -> str:
    """Of a mean, in percent."""
    if name not in row:
        return ""
    low, high = row[f"{name}_interval"]
    return f"{100 * row[name]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def samplers_real(result: dict[str, Any]) -> str:
    """The same on the real supernet."""
    counts = (100, 200, 300)
    lines = [
        "**Samplers on the real supernet** of Home Depot, joint space, 1/6 of the dense latency, seeds "
        f"{result['seeds']}: best validation AUC so far (on the rows that a search scores), hypervolume, and AUC of "
        "the winner on all validation rows:",
        "",
        "| method | "
        + " | ".join(f"{name} at {count}" for name in ("best", "hypervolume") for count in counts)
        + " | winner, all rows |",
        "|---|" + "---|" * (2 * len(counts) + 1),
    ]
    for row in result["rows"]:
        cells = [f"{row[f'{name}_at_{count}']:.4f}" for name in ("best", "hypervolume") for count in counts]
        lines.append(f"| {row['method']} | " + " | ".join(cells) + f" | {row['winner_on_all_validation_rows']:.4f} |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def scaling(result: dict[str, Any]) -> str:
    """Real and simulated workers, and a machine that is lost."""
    rows = result["rows"]
    lines = [
        "**Scaling** (simulated workers sleep as long as recorded evaluations took):",
        "",
        "| workers | evaluations/s | share of their time computing | the same while there is work | sampler, ms per "
        "evaluation | rest of the driver |",
        "|---|---|---|---|---|---|",
    ]
    for cell, workers in dict.fromkeys((row["cell"], row["workers"]) for row in rows if "workers" in row):
        own = [row for row in rows if (row["cell"], row.get("workers")) == (cell, workers)]
        mean = {name: np.mean([row[name] for row in own]) for name in own[0] if isinstance(own[0][name], float)}
        with_work = f"{mean['busy_with_work']:.1%}" if "busy_with_work" in mean else ""
        cells = f"{mean['evaluations_per_second']:.1f} | {mean['busy']:.1%} | {with_work} | {mean['sampler_ms']:.1f}"
        cells += f" | {mean['overhead_ms']:.1f} ms"
        lines.append(f"| {workers} {cell} | {cells} |")
    lost = rows[-1]
    lines += [
        "",
        f"One of two raylets killed in mid-search: {lost['evaluations']} evaluations finished, {lost['lost']} lost, "
        f"{lost['twice']} counted twice.",
        "",
    ]
    return "\n".join([*lines, *missed_briefly(result), source(result)])


def fidelity(result: dict[str, Any]) -> str:
    """Rank correlation of what a search sees and what it gets."""
    rows = [row for row in result["rows"] if "spearman" in row]
    lines = [
        "**Fidelity** on Home Depot: rank correlation, over random genomes near each budget, of validation AUC in the "
        "supernet and after fine-tuning:",
        "",
        "| genomes | Spearman | Kendall tau | mean gain by fine-tuning |",
        "|---|---|---|---|",
        *(
            f"| {row['genomes']}, {'all budgets' if row['at'] == 'all' else 'at ' + row['at']} | "
            f"{row['spearman']:.3f} | {row['kendall_tau']:.3f} | {row['mean_gain']:+.4f} |"
            for row in rows
        ),
        "",
    ]
    return "\n".join([*lines, *missed_briefly(result), source(result)])


def rungs(result: dict[str, Any]) -> str:
    """What a first look at a part of the rows saves, and how often it is wrong."""
    rows = [row for row in result["rows"] if "early_share" in row]
    lines = [
        "**Two rungs** on Home Depot, genomes that real searches met within 1/6 of the dense latency: how many are "
        "left after a part of the rows since they surely miss the front, what that saves, and how right the estimates "
        "are:",
        "",
        "| search | genomes | left early | time saved | left wrongly | error of the estimates, over the stated one |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = row["estimates_rms_error_over_stated"]
        cells = f"{row['genomes']} | {row['early_share']:.0%} | {row['time_saved']:.0%} | {row['wrong_exits']}"
        lines.append(f"| {row['at']} | {cells} | {'' if error is None else f'{error:.2f}'} |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def token_pruning(result: dict[str, Any]) -> str:
    """What schedules lose and save per task, and the other ways of choosing tokens."""
    means = [row for row in result["rows"] if "seeds" in row]
    of = {(row["task"], row["method"]): row for row in means}
    methods = list(dict.fromkeys(row["method"] for row in means))
    measured = [name for name in methods if any("speed_up" in row for row in means if row["method"] == name)]
    lines = [
        "**Token pruning** (MiniLM 6x384, ONNX Runtime fp32, 1 thread, batch 1; official dev rows, of the reviews test "
        "rows; schedules learned for three shares of dense latency). The share: score (loss in points), multiply-adds "
        "saved without padding / over rows padded as in the paper, with every token in the last layer (the others need "
        "[CLS] alone there), measured speed-up likewise / without padding, of 16 rows in a call. "
        "Every task was a call of its own, of which the command below is the latest:",
        "",
        "| task, seeds | dense | " + " | ".join(measured) + " |",
        "|---|---|" + "---|" * len(measured),
    ]
    for task in dict.fromkeys(row["task"] for row in means):
        cells, dense = [], of[task, "dense"]
        for name in measured:
            row = of.get((task, name))
            cells.append(
                "not run"
                if row is None
                else f"{row['target']:g}: **{row['score']:.1f}** ({row['loss']:+.1f}), "
                f"{'' if row['seeds'] == dense['seeds'] else told_seeds(row['seeds'])}"
                f"{row['flops_reduction']:.1f}x / {row['flops_reduction_padded']:.1f}x, "
                + (
                    f"{row['speed_up']:.1f}x / {row['speed_up_padded']:.1f}x / {row['speed_up_together']:.1f}x"
                    if "speed_up" in row
                    else "not timed"
                )
            )
        lines.append(f"| {task}, {dense['seeds']} | {dense['score']:.1f} | " + " | ".join(cells) + " |")
    others = [name for name in methods if name not in (*measured, "dense")]
    if others:
        lines += ["", "Other ways at the high target, score (points behind the learned schedule, seeds of both):", ""]
        lines.append("| task | " + " | ".join(others) + " |")
        lines.append("|---|" + "---|" * len(others))
        for task in dict.fromkeys(row["task"] for row in means if row["method"] in others):
            own = [of.get((task, name)) for name in others]
            cells = [f"{r['score']:.1f} ({r['behind_ranking']:+.1f}, {r['seeds']})" if r else "not run" for r in own]
            lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def told_seeds(seeds: int) -> str:
    """Of a cell whose seeds are not those of its line."""
    return f"{seeds} seed, " if seeds == 1 else f"{seeds} seeds, "


def movielens(result: dict[str, Any]) -> str:
    """Joint and weights-only search on long rows."""
    return by_budget(
        result,
        "**MovieLens** (a reader's taste and a film's title and plot, 256 tokens, split by user; else as Home Depot).",
    )


def unpadded(result: dict[str, Any]) -> str:
    """Rows of one length against rows of similar length."""
    lines = [
        "**Scoring without padding**, in torch on 1 thread: rows of one length that have 1024 tokens together in "
        "batches of their own; time over that of batches of rows of similar length, all of them padded:",
        "",
        "| rows, genome | padding | batches | time |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        batches = f"{row['batches_unpadded']} instead of {row['batches_similar']}"
        padding = f"{row['padding_share']:.1%}"
        lines.append(f"| {row['traffic']}, {row['genome']} | {padding} | {batches} | {row['ratio']:.2f} |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def span_answers(result: dict[str, Any]) -> str:
    """What becomes of SQuAD's answers under a schedule."""
    rows = result["rows"]
    layers = len(rows[0]["answer_seen"])
    lines = [
        "**Where SQuAD's answers go**: held-back rows, the supernet before any tuning. Share of the right answer's "
        "tokens that a layer's attention sees / share of the context's, which chance would keep of both:",
        "",
        "| schedule | tokens kept, % | latency | F1 of tokens | "
        + " | ".join(f"layer {layer}" for layer in range(1, layers))
        + " |",
        "|---|---|---|---|" + "---|" * (layers - 1),
    ]
    for row in rows:
        name = "" if row["schedule"] == ", ".join(map(str, row["keep_percents"])) else row["schedule"]
        kept = " / ".join(map(str, row["keep_percents"]))
        both = zip(row["answer_seen"][1:], row["context_seen"][1:], strict=True)
        seen = " | ".join(f"{answer:.0%} / {context:.0%}" for answer, context in both)
        lines.append(f"| {name} | {kept} | {row['latency_share']:.2f} | {100 * row['f1']:.1f} | {seen} |")
    return "\n".join([*lines, "", *missed(result), source(result)])


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "home_depot": home_depot,
    "latency_table": latency_table,
    "export_speed": export_speed,
    "precision": precision,
    "main_job": main_job,
    "samplers": samplers,
    "samplers_real": samplers_real,
    "fidelity": fidelity,
    "rungs": rungs,
    "scaling": scaling,
    "crash": crash,
    "token_pruning": token_pruning,
    "span_answers": span_answers,
    "movielens": movielens,
    "unpadded": unpadded,
    "bert4ctr": bert4ctr,
    "bert4ctr_search": bert4ctr_search,
    "bert4ctr_search_ad_log": bert4ctr_search_ad_log,
    "bahe": bahe,
    "bahe_search": bahe_search,
    "behaviour_store": behaviour_store,
}

if __name__ == "__main__":
    main()
