"""The search over BERT4CTR: winner against best uniform and against the searched text-only model.

Budgets are shares of what the dense model with its features takes, and the same microseconds for the model of the text
alone. Everything else, from the teacher to the measurement at the end, is as in benchmarks/budget_search.py; what is
known of a row is as in benchmarks/bert4ctr.py, where each row is seen once by a teacher. MovieLens clicks, whose
features alone rank nearly as well as both, or the ad log, where text and features each know half; each has a result of
its own.

    python benchmarks/bert4ctr_search.py [--quick] [--task NAME] [--seeds SEED ...] [--data FOLDER] [--work FOLDER]
                                         [--report]
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clicks
from bert4ctr_quality import EPOCHS, QUICK_ROWS
from budget_search import SHARES, Cell, Effort, asked, differences, rows_of_seed, stored_rows
from common import Target, write_result

from sparsefront.models.task import Task

RESULTS = {"movielens": "bert4ctr_search", "ad_log": "bert4ctr_search_ad_log"}
"""What a task's result is called."""
ROWS = {"movielens": 20_000, "ad_log": 32_000}

OURS, UNIFORM, TEXT = "searched joint", "best uniform", "searched joint, text only"
TIGHT = ("1/6", "1/12")
GAIN = 0.01
"""AUC over the best uniform genome that is claimed at the tight budgets."""


def task_of(name: str, data: Path, quick: bool, *, features: bool) -> Task:
    """The rows of a task, with what is known beside the text or without."""
    count = QUICK_ROWS if quick else ROWS[name]
    if name == "ad_log":
        return clicks.ad_log(count, features=features)
    return clicks.movielens(data, count, features=features)


def rows_of(name: str, work: Path, data: Path, quick: bool, seed: int, *, only_there: bool) -> list[dict[str, Any]]:
    """Of one seed: with features, then without at the same microseconds."""
    cells: list[Cell] = [(method, share) for method in (OURS, UNIFORM) for share in SHARES]
    task, effort = task_of(name, data, quick, features=True), Effort(teacher_epochs=EPOCHS)
    rows = rows_of_seed(work / "features", task, quick, seed, cells, only_there=only_there, effort=effort)
    budgets_us = {row["budget"]: row["budget_us"] for row in rows if "budget_us" in row}
    if not budgets_us:
        return rows
    share, budget_us = next(iter(budgets_us.items()))
    text_rows = rows_of_seed(
        work / "text",
        task_of(name, data, quick, features=False),
        quick,
        seed,
        [(OURS, share) for share in budgets_us],
        only_there=only_there,
        whole_us=budget_us / SHARES[share],
        effort=effort,
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
    arguments = asked(__doc__, "bert4ctr-search", "ml1m", tasks=list(RESULTS))
    name, work, quick, seeds = arguments.task, arguments.work / arguments.task, arguments.quick, arguments.seeds
    for part in ("features", "text"):
        (work / part).mkdir(parents=True, exist_ok=True)
    rows = [] if quick else [row for row in stored_rows(RESULTS[name]) if row["seed"] not in seeds]
    for seed in seeds:
        rows += rows_of(name, work, arguments.data, quick, seed, only_there=arguments.report)
    rows.sort(key=lambda row: int(row["seed"]))
    rows += differences(rows, (UNIFORM, TEXT))
    every = sorted({row["seed"] for row in rows if "seed" in row})
    write_result(RESULTS[name], rows, list(targets_of(rows)), every, quick)


if __name__ == "__main__":
    main()
