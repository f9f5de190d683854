"""The search over Bahe: MovieLens clicks with histories, winner against best uniform at equal measured latency.

What is searched are the layers above the frozen ones, how many behaviours enter them and which they keep; a budget is a
share of what the dense model takes for a row of 50 behaviours whose vectors are looked up. A behaviour is a film that
was rated, with whether it was liked. Everything else, from the teacher to the measurement at the end, is as in
benchmarks/home_depot.py; rows are drawn as those of benchmarks/bahe.py.

    python benchmarks/bahe_search.py [--quick] [--seeds SEED ...] [--data FOLDER] [--work FOLDER] [--report]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clicks
from common import Target, write_result
from home_depot import REPOSITORY, SHARES, Cell, differences, rows_of_seed, stored_rows

OURS, UNIFORM = "searched joint", "best uniform"
ROWS, QUICK_ROWS = 20_000, 1_500
TIGHTEST = min(SHARES, key=lambda name: SHARES[name])
GAIN = 0.0086
"""AUC over the best uniform genome that is claimed at the tightest budget."""


def targets_of(rows: list[dict[str, Any]]) -> Iterator[Target]:
    """Gains, and budgets that are kept."""
    for row in rows:
        if "rival" in row:
            least = GAIN if row["at"] == TIGHTEST else 0.0
            name = f"test AUC at {row['at']}, winner minus {row['rival']}, mean of {len(row['seeds'])} seeds"
            yield Target(name, ">=", least, row["test_auc"])
    shares = [row["measured_us"] / row["budget_us"] for row in rows if "budget_us" in row]
    if shares:
        yield Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, max(shares))


def main() -> None:
    """Run what is missing, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, evaluations and seeds; minutes")
    parser.add_argument("--report", action="store_true", help="make nothing new, report the cells that are there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "ml1m")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-bahe-search")
    arguments = parser.parse_args()
    quick, seeds = arguments.quick, arguments.seeds[:1] if arguments.quick else arguments.seeds
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    task = clicks.movielens_histories(arguments.data, QUICK_ROWS if quick else ROWS, verdicts=True)
    cells: list[Cell] = [(method, share) for method in (OURS, UNIFORM) for share in SHARES]
    rows = [] if quick else [row for row in stored_rows("bahe_search") if row["seed"] not in seeds]
    for seed in seeds:
        rows += rows_of_seed(work, task, quick, seed, cells, only_there=arguments.report)
    rows.sort(key=lambda row: int(row["seed"]))
    rows += differences(rows, (UNIFORM,))
    every = sorted({row["seed"] for row in rows if "seed" in row})
    write_result("bahe_search", rows, list(targets_of(rows)), every, quick)


if __name__ == "__main__":
    main()
