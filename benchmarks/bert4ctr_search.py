"""The search over BERT4CTR: MovieLens clicks, winner against best uniform and against the searched text-only model.

Budgets are shares of what the dense model with its features takes, and the same microseconds for the model of the text
alone. Everything else, from the teacher to the measurement at the end, is as in benchmarks/budget_search.py; rows and
features are those of benchmarks/bert4ctr.py.

    python benchmarks/bert4ctr_search.py [--quick] [--seeds SEED ...] [--data FOLDER] [--work FOLDER] [--report]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clicks
from bert4ctr_quality import QUICK_ROWS, ROWS
from budget_search import SHARES, Cell, asked, differences, rows_of_seed, stored_rows
from common import Target, write_result

OURS, UNIFORM, TEXT = "searched joint", "best uniform", "searched joint, text only"
TIGHT = ("1/6", "1/12")
GAIN = 0.01
"""AUC over the best uniform genome that is claimed at the tight budgets."""


def rows_of(work: Path, data: Path, quick: bool, seed: int, *, only_there: bool) -> list[dict[str, Any]]:
    """Of one seed: with features, then without at the same microseconds."""
    count = QUICK_ROWS if quick else ROWS["movielens"]
    cells: list[Cell] = [(method, share) for method in (OURS, UNIFORM) for share in SHARES]
    task = clicks.movielens(data, count)
    rows = rows_of_seed(work / "features", task, quick, seed, cells, only_there=only_there)
    budgets_us = {row["budget"]: row["budget_us"] for row in rows if "budget_us" in row}
    if not budgets_us:
        return rows
    share, budget_us = next(iter(budgets_us.items()))
    text_rows = rows_of_seed(
        work / "text",
        clicks.movielens(data, count, features=False),
        quick,
        seed,
        [(OURS, share) for share in budgets_us],
        only_there=only_there,
        whole_us=budget_us / SHARES[share],
    )
    renamed = [{**row, "cell": TEXT if row["cell"] == OURS else f"{row['cell']}, text only"} for row in text_rows]
    return [*rows, *renamed]


def targets_of(rows: list[dict[str, Any]]) -> Iterator[Target]:
    """Gains, and budgets that are kept."""
    for row in rows:
        if "rival" in row:
            least = GAIN if row["rival"] == UNIFORM and row["at"] in TIGHT else 0.0
            name = f"test AUC at {row['at']}, winner minus {row['rival']}, mean of {len(row['seeds'])} seeds"
            yield Target(name, ">=", least, row["test_auc"])
    shares = [row["measured_us"] / row["budget_us"] for row in rows if "budget_us" in row]
    yield Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, max(shares))


def main() -> None:
    """Run what is missing, then report."""
    arguments = asked(__doc__, "bert4ctr-search", "ml1m")
    work, quick, seeds = arguments.work, arguments.quick, arguments.seeds
    for part in ("features", "text"):
        (work / part).mkdir(parents=True, exist_ok=True)
    rows = [] if quick else [row for row in stored_rows("bert4ctr_search") if row["seed"] not in seeds]
    for seed in seeds:
        rows += rows_of(work, arguments.data, quick, seed, only_there=arguments.report)
    rows.sort(key=lambda row: int(row["seed"]))
    rows += differences(rows, (UNIFORM, TEXT))
    every = sorted({row["seed"] for row in rows if "seed" in row})
    write_result("bert4ctr_search", rows, list(targets_of(rows)), every, quick)


if __name__ == "__main__":
    main()
