"""README tables of text and features: how well they rank, what they cost, and what a search finds."""

from __future__ import annotations

from typing import Any

from tables import by_budget, missed_briefly, source


def bert4ctr_search(result: dict[str, Any]) -> str:
    """The search over text and features."""
    return by_budget(
        result,
        "**The search over text and features** (MovieLens clicks; budgets are shares of the dense model with features, "
        "and as many microseconds for the text alone).",
    )


def bert4ctr_search_ad_log(result: dict[str, Any]) -> str:
    """The same search where text and features each know half."""
    return by_budget(
        result,
        "**The search over text and features** of the ad log (32 tokens, 8 features, split by query; budgets are "
        "shares of the dense model with features, and as many microseconds for the text alone). Winners are within "
        "the same budget when they are chosen, and not equally fast; the text alone was measured in a run of its own.",
    )


def bert4ctr(result: dict[str, Any]) -> str:
    """Quality per way of joining text and features, and what that costs."""
    means = [row for row in result["rows"] if "seeds" in row]
    lines = [
        "**Text and features** (MiniLM 6x384; MovieLens: clicks split by time, 11 features; ad log: split by query; "
        "crossed ad log: the same, and by a feature some words count for or against an ad; its rows are seen twice)."
    ]
    if means:
        best = {row["task"]: row["best_possible_auc"] for row in means if "best_possible_auc" in row}
        lines += [
            "Test rows, mean over seeds; behind: AUC points of BERT4CTR in one step over it. What is not in the table "
            "has not been measured. The best possible AUC is known of "
            + " and ".join(f"{task} ({auc:.4f})" for task, auc in best.items())
            + ".",
            "",
            "| task | method | seeds | AUC | within users | log loss | calibration error | behind |",
            "|---|---|---|---|---|---|---|---|",
        ]
    else:
        lines.append("How well they rank has not been measured yet, what they cost has.")
    for row in means:
        behind = ""
        if "behind_bert4ctr_points" in row:
            behind = f"{row['behind_bert4ctr_points']:+.2f} ± {row['standard_error_points']:.2f}"
        cells = [row["task"], row["method"], row["seeds"], f"**{row['auc']:.4f}**", f"{row['gauc']:.4f}"]
        cells += [
            f"{row['log_loss']:.4f}",
            f"{row['calibration_error']:.2%}",
            behind,
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if ideas := [row for row in result["rows"] if "idea" in row]:
        plain = {
            row["method"]: row["valid_auc"]
            for row in result["rows"]
            if (row.get("task"), row.get("seed")) == ("ad_log", 0) and "method" in row
        }
        lines += [
            "",
            "Tried on validation rows of the ad log, seed 0, where BERT4CTR in one step has an AUC of "
            f"{plain['BERT4CTR, one step']:.4f} and the shallow interaction {plain['shallow interaction']:.4f}: "
            + "; ".join(f"{row['idea']} {row['valid_auc']:.4f}" for row in ideas)
            + ".",
        ]
    if curve := [row for row in result["rows"] if "train_rows" in row]:
        below = [f"{row['train_rows']:,}: {100 * (row['best_possible_auc'] - row['auc']):.2f}" for row in curve]
        lines += [
            "",
            "BERT4CTR by training rows of another ad log, each seen once, one seed: points below the best possible AUC "
            f"({curve[0]['best_possible_auc']:.4f}) {', '.join(below)}.",
        ]
    trained = [f"{row['trained']} {row['over_text_only']:.2f}" for row in result["rows"] if "trained" in row]
    lines += ["", f"A pass over the same rows in training, over the text alone: {', '.join(trained)}. Served:", ""]
    costs = next((row for row in result["rows"] if "served" in row), None)
    lines += [
        "| features | text alone | BERT4CTR | as tokens of the text | as words of the text |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row.get("served") == "growth":
            us = [row[f"{name}_us"] for name in ("text", "bert4ctr", "numbert_tokens", "numbert_words")]
            lines.append(f"| {row['features']} | " + " | ".join(f"{one:.0f} us" for one in us) + " |")
    lines += [
        "",
        "| candidates | pairs | one user, ads read before | of which collecting them | one ad, many users |",
        "|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if row.get("served") == "cached":
            us = [
                row[f"{name}_us"] for name in ("pairs", "one_user_many_ads", "of_which_collecting", "one_ad_many_users")
            ]
            lines.append(f"| {row['candidates']} | " + " | ".join(f"{one:.0f} us" for one in us) + " |")
    if costs is not None:
        told = f"{costs['machine']['cpu']}, {costs['machine']['cores']} cores, {costs['date'][:10]}"
        lines += ["", f"Costs: `python benchmarks/bert4ctr.py --parts costs`, {told}."]
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])
