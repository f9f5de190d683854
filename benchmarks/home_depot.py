"""Search against uniform sparsity, weights alone and random search on Home Depot relevance, at three latency budgets.

How that is compared says ``budget_search.py``. A seed takes an hour or two. Those that are not asked for stay in the
result as they are stored there, so that seeds may be run one after the other, also on several machines: budgets are
shares of the dense latency.

    python benchmarks/home_depot.py [--quick] [--report] [--seeds SEED ...] [--methods NAME ...] [--data FOLDER]
                                    [--work FOLDER]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from budget_search import METHODS, SHARES, asked, rows_of_seeds
from common import Target, write_result

from sparsefront.models.task import Task

GAINS = {
    "best uniform": {"1/3": 0.0086, "1/6": 0.015, "1/12": 0.02},
    "random joint": dict.fromkeys(SHARES, 0.0),
    "searched weights": dict.fromkeys(SHARES, 0.0),
}
"""AUC that is claimed, per rival and budget."""


def main() -> None:
    """Run what is missing, then report."""
    arguments = asked(__doc__, "home-depot", "home_depot", list(METHODS))
    work, quick = arguments.work, arguments.quick
    task = Task.from_file(write_task(work, arguments.data, quick))
    cells = [(method, share) for method in arguments.methods for share in SHARES]
    rows = rows_of_seeds("home_depot", work, task, quick, arguments.seeds, cells, only_there=arguments.report)
    write_result("home_depot", rows, targets(rows), sorted({row["seed"] for row in rows if "seed" in row}), quick)


def write_task(work: Path, data: Path, quick: bool) -> Path:
    """The task file; the quick one has a tenth of the rows."""
    source = data / "train.parquet"
    if not source.exists():
        raise SystemExit(f"{source}: no such file; give the folder of the data set with --data")
    if quick:
        import pandas as pd

        frame = pd.read_parquet(source)
        source = work / "rows.parquet"
        frame.iloc[::10].to_parquet(source)
    content = {
        "name": "home_depot",
        "data": str(source.resolve()),
        "text": ["search_term", "product_title"],
        "label": {"column": "relevance", "kind": "graded", "range": [1, 3], "positive": 2.5},
        "split": {"group": "search_term", "valid": 0.1, "test": 0.1, "seed": 0},
        "max_length": 48,
        "metric": "auc",
    }
    path = work / "task.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def targets(rows: list[dict[str, Any]]) -> list[Target]:
    """What is claimed: mean test AUC of the search against each rival, and that measured winners keep the budget."""

    claims = []
    for row in rows:
        if row["cell"] == "searched joint minus rival":
            where = "over all budgets" if row["at"] == "all" else f"at {row['at']} of the dense latency"
            name = f"test AUC {where}, searched joint minus {row['rival']}, mean of {len(row['seeds'])} seeds"
            gains = GAINS[row["rival"]]
            claimed = float(np.mean(list(gains.values()))) if row["at"] == "all" else gains[row["at"]]
            claims.append(Target(name, ">=", claimed, row["test_auc"]))
    winners = [row for row in rows if "budget_us" in row]
    chosen = max(row["measured_us"] / row["budget_us"] for row in winners)
    claims.append(Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, chosen))
    together = max(row["share_of_budget"] for row in winners)
    name = "largest latency of a winner at the end, share of the dense model's then, over the share asked"
    claims.append(Target(name, "<=", 1.0, together))
    return claims


if __name__ == "__main__":
    main()
