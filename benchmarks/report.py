"""Writes the README's tables from benchmarks/results/*.json, so that no number in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

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
    dense = next(row for row in result["rows"] if row["cell"] == "dense teacher")
    lines = [
        "**Home Depot product relevance** (74,067 query-title pairs, split by query; MiniLM 6x384, ONNX Runtime fp32, "
        f"1 thread, batch 1, 48 tokens). Dense teacher: test AUC {dense['test_auc']:.4f}, {dense['median_us']:.0f} us. "
        f"Test AUC, mean over seeds {result['seeds']} (microseconds, measured together at the end; each seed):",
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
        budget_us = next(row["budget_us"] for row in rows if row["budget"] == budget)
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
        cells = {
            row["at"]: f"{row['test_auc']:+.4f} ± {row['standard_error']:.4f}" for row in gains if row["rival"] == rival
        }
        every = next(row["seeds"] for row in gains if row["rival"] == rival and row["at"] == "all")
        lines.append(f"| {rival}, seeds {every} | " + " | ".join(cells.get(at, "not run") for at in places) + " |")
    return "\n".join([*lines, "", *missed(result), source(result)])


def latency_table(result: dict[str, Any]) -> str:
    """Error of the table on held-out genomes."""
    lines = [
        "**Latency table** against whole models it was not fitted on:",
        "",
        "| what | target | measured |",
        "|---|---|---|",
    ]
    for target in result["targets"]:
        verdict = "" if target["holds"] else " (missed)"
        lines.append(f"| {target['name']} | {target['op']} {target['target']:g} | {target['measured']:.3g}{verdict} |")
    return "\n".join([*lines, "", source(result)])


def main_job(result: dict[str, Any]) -> str:
    """The README's first command, timed."""
    row = result["rows"][0]
    cells = [
        f"| {name} | {row[f'{key}_test_auc']:.4f} | {row[f'{key}_us']:.0f} |"
        for key, name in (("dense", "dense teacher"), ("uniform", "best uniform"), ("winner", "winner"))
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
    return "\n".join([*lines, "", source(result)])


def missed(result: dict[str, Any]) -> list[str]:
    """Targets that do not hold, said as plainly as the others."""
    lines = [
        f"- missed: {target['name']}: {target['measured']:+.4f}, target {target['op']} {target['target']:g}"
        for target in result["targets"]
        if not target["holds"]
    ]
    return [*lines, ""] if lines else []


def source(result: dict[str, Any]) -> str:
    """Where the numbers come from."""
    name = result["benchmark"]
    cpu = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    return f"`{result['command']}`, [JSON](benchmarks/results/{name}.json), {cpu}, {result['date'][:10]}."


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {
    "home_depot": home_depot,
    "latency_table": latency_table,
    "main_job": main_job,
}

if __name__ == "__main__":
    main()
