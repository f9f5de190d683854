"""The search over BERT4CTR: winner against best uniform and against the searched text-only model.

Budgets are shares of what the dense model with its features takes, and the same microseconds for the model of the text
alone. Everything else, from the teacher to the measurement at the end, is as in benchmarks/budget_search.py; what is
known of a row is as in benchmarks/bert4ctr.py, where each row is seen once by a teacher. MovieLens clicks, whose
features alone rank nearly as well as both, or the ad log, where text and features each know half; each has a result of
its own.

    python benchmarks/bert4ctr_search.py [--quick] [--task NAME] [--seeds SEED ...] [--methods NAME ...]
                                         [--data FOLDER] [--work FOLDER] [--report]
"""

from __future__ import annotations

import argparse
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

OURS, UNIFORM, WITHOUT = "searched joint", "best uniform", ", text only"
TEXT = OURS + WITHOUT
TIGHT = ("1/6", "1/12")
GAIN = 0.01
"""AUC over the best uniform genome that is claimed at the tight budgets."""


def task_of(name: str, data: Path, quick: bool, *, features: bool) -> Task:
    """The rows of a task, with what is known beside the text or without."""
    count = QUICK_ROWS if quick else ROWS[name]
    if name == "ad_log":
        return clicks.ad_log(count, features=features)
    return clicks.movielens(data, count, features=features)


def effort_of(name: str) -> Effort:
    """Of a search over a task: a teacher sees its rows as often as in benchmarks/bert4ctr.py."""
    return Effort(teacher_epochs=EPOCHS[name])


def featured_rows(arguments: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """Of one seed, with features."""
    cells: list[Cell] = [(method, share) for method in arguments.methods if method != TEXT for share in SHARES]
    task = task_of(arguments.task, arguments.data, arguments.quick, features=True)
    work, effort = arguments.work / arguments.task / "features", effort_of(arguments.task)
    return rows_of_seed(work, task, arguments.quick, seed, cells, only_there=arguments.report, effort=effort)


def text_rows(arguments: argparse.Namespace, seed: int, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of one seed, without features, at the microseconds of the rows with them."""
    budgets_us = {row["budget"]: row["budget_us"] for row in rows if row["seed"] == seed and "budget_us" in row}
    if not budgets_us:
        return []
    share, budget_us = next(iter(budgets_us.items()))
    found = rows_of_seed(
        arguments.work / arguments.task / "text",
        task_of(arguments.task, arguments.data, arguments.quick, features=False),
        arguments.quick,
        seed,
        [(OURS, share) for share in budgets_us],
        only_there=arguments.report,
        whole_us=budget_us / SHARES[share],
        effort=effort_of(arguments.task),
    )
    return [{**row, "cell": TEXT if row["cell"] == OURS else f"{row['cell']}{WITHOUT}"} for row in found]


def targets_of(rows: list[dict[str, Any]]) -> Iterator[Target]:
    """Gains, and budgets that are kept."""
    for row in rows:
        if "rival" in row:
            least = GAIN if row["rival"] == UNIFORM and row["at"] in TIGHT else 0.0
            name = f"test AUC at {row['at']}, winner minus {row['rival']}, mean of {len(row['seeds'])} seeds"
            yield Target(name, ">=", least, row["test_auc"])
    shares = [row["measured_us"] / row["budget_us"] for row in rows if "budget_us" in row]
    if shares:
        yield Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, max(shares))


def main() -> None:
    """Run what is missing, report after each half."""
    arguments = asked(__doc__, "bert4ctr-search", "ml1m", [OURS, UNIFORM, TEXT], list(RESULTS))
    for part in ("features", "text"):
        (arguments.work / arguments.task / part).mkdir(parents=True, exist_ok=True)
    rows = [] if arguments.quick else stored_rows(RESULTS[arguments.task])
    for seed in arguments.seeds:
        if set(arguments.methods) != {TEXT}:
            others = [row for row in rows if row["seed"] != seed or row["cell"].endswith(WITHOUT)]
            rows = others + featured_rows(arguments, seed)
            report(arguments, rows)
        if TEXT in arguments.methods:
            others = [row for row in rows if row["seed"] != seed or not row["cell"].endswith(WITHOUT)]
            rows = others + text_rows(arguments, seed, rows)
            report(arguments, rows)


def report(arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the result of what is there."""
    ordered = sorted(rows, key=lambda row: (int(row["seed"]), row["cell"].endswith(WITHOUT)))
    ordered += differences(rows, (UNIFORM, TEXT))
    targets = list(targets_of(ordered))
    write_result(RESULTS[arguments.task], ordered, targets, sorted({row["seed"] for row in rows}), arguments.quick)


if __name__ == "__main__":
    main()
