"""What the README's tables have in common: results by budget, targets that were missed, and where numbers come from."""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_TOLD = 12


def by_budget(result: dict[str, Any], about: str) -> str:
    """Test AUC per budget and method."""
    rows = [row for row in result["rows"] if "budget" in row]
    methods = list(dict.fromkeys(row["cell"] for row in rows))
    lines = [
        f"{about} Test AUC, mean over seeds {result['seeds']} (microseconds):",
        "",
        "| budget | " + " | ".join(methods) + " |",
        "|---|" + "---|" * len(methods),
    ]
    for budget in dict.fromkeys(row["budget"] for row in rows):
        cells = []
        for method in methods:
            found = [row for row in rows if (row["cell"], row["budget"]) == (method, budget)]
            auc, us = (float(np.mean([row[key] for row in found])) for key in ("test_auc", "remeasured_us"))
            cells.append(f"**{auc:.4f}** ({us:.0f} us)")
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *missed_briefly(result), source(result)])


def missed(result: dict[str, Any]) -> list[str]:
    """Targets that do not hold, said as plainly as the others."""
    lines = [
        f"- missed: {target['name']}: {target['measured']:+.4f}, target {target['op']} {target['target']:g}"
        for target in result["targets"]
        if not target["holds"]
    ]
    return [*lines, ""] if lines else []


def missed_briefly(result: dict[str, Any]) -> list[str]:
    """How many targets do not hold, and which."""
    wrong = [target for target in result["targets"] if not target["holds"]]
    if not wrong:
        count = len(result["targets"])
        return ["The target holds." if count == 1 else f"All {count} targets hold.", ""]
    if len(wrong) > MOST_TOLD:
        return [f"Missed {len(wrong)} of {len(result['targets'])} targets; each is in the JSON with its number.", ""]
    each = "; ".join(f"{one['name']} {one['measured']:.3g} (target {one['op']} {one['target']:g})" for one in wrong)
    return [f"Missed {len(wrong)} of {len(result['targets'])} targets: {each}.", ""]


def source(result: dict[str, Any]) -> str:
    """Where the numbers come from."""
    name = result["benchmark"]
    cpu = f"{result['machine']['cpu']}, {result['machine']['cores']} cores"
    return f"`{result['command']}`, [JSON](benchmarks/results/{name}.json), {cpu}, {result['date'][:10]}."
