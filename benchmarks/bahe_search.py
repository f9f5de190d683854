"""The search over Bahe: MovieLens clicks with histories, winner against best uniform at equal measured latency.

What is searched are the layers above the frozen ones, how many behaviours enter them and which they keep; a budget is a
share of what the dense model takes for a row of 50 behaviours whose vectors are looked up. A behaviour is a film that
was rated, with whether it was liked. Everything else, from the teacher to the measurement at the end, is as in
benchmarks/budget_search.py; rows are drawn as those of benchmarks/bahe.py.

    python benchmarks/bahe_search.py [--quick] [--seeds SEED ...] [--data FOLDER] [--work FOLDER] [--report]
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import clicks
from budget_search import Cell, Effort, asked, differences, rows_of_seed, stored_rows
from common import Target, write_result

OURS, UNIFORM = "searched joint", "best uniform"
ROWS, QUICK_ROWS = 20_000, 1_500
SHARES = {"1/3": 1 / 3, "1/6": 1 / 6, "1/12": 1 / 12, "1/24": 1 / 24}
"""One tighter than elsewhere: at 1/12 the best uniform genome is still so near the dense model that nobody can be far
ahead of it."""
EFFORT = Effort(rows=3000, shares=SHARES)
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
    arguments = asked(__doc__, "bahe-search", "ml1m")
    work, quick, seeds = arguments.work, arguments.quick, arguments.seeds
    task = clicks.movielens_histories(arguments.data, QUICK_ROWS if quick else ROWS, verdicts=True)
    cells: list[Cell] = [(method, share) for share in reversed(SHARES) for method in (OURS, UNIFORM)]
    rows = [] if quick else [row for row in stored_rows("bahe_search") if row["seed"] not in seeds]
    for seed in seeds:
        rows += rows_of_seed(work, task, quick, seed, cells, only_there=arguments.report, effort=EFFORT)
    rows.sort(key=lambda row: int(row["seed"]))
    rows += differences(rows, (UNIFORM,))
    every = sorted({row["seed"] for row in rows if "seed" in row})
    write_result("bahe_search", rows, list(targets_of(rows)), every, quick)


if __name__ == "__main__":
    main()
