"""The search over Bahe: MovieLens clicks with histories, winner against best uniform at equal measured latency.

What is searched are the layers above the frozen ones, how many behaviours enter them and which they keep; a budget is a
share of what the dense model takes for a row of 50 behaviours whose vectors are looked up. One layer is frozen, or as
many as --frozen-layers says. A behaviour is a film that was rated, with whether it was liked. Everything else, from the
teacher to the measurement at the end, is as in benchmarks/budget_search.py; rows are drawn as those of
benchmarks/bahe.py.

    python benchmarks/bahe_search.py [--quick] [--frozen-layers N ...] [--seeds SEED ...] [--data FOLDER]
                                     [--work FOLDER] [--report]
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import clicks
from budget_search import Cell, Effort, asked, differences, rows_of_seed, stored_rows
from common import Target, write_result

from sparsefront.models.frozen_layers import FrozenLayers

OURS, UNIFORM = "searched joint", "best uniform"
ROWS, QUICK_ROWS = 20_000, 1_500
SHARES = {"1/12": 1 / 12, "1/24": 1 / 24, "1/48": 1 / 48}
"""Tighter than elsewhere: at 1/12 the best uniform genome is still so near the dense model that nobody can be far ahead
of it."""
TIGHTEST = min(SHARES, key=lambda name: SHARES[name])
EFFORT = Effort(evaluations=300, rows=3000, finalists=12, finetune_epochs=2.0, elastic_epochs=4.0, shares=SHARES)
FROZEN = (1, 2, 3)
"""Of six layers: the fewer, the more there are to search."""
GAIN = 0.0086
"""AUC over the best uniform genome that is claimed at the tightest budget."""


def targets_of(rows: list[dict[str, Any]]) -> Iterator[Target]:
    """Gains, and budgets that are kept."""
    for row in rows:
        if "rival" in row:
            least = GAIN if row["at"] == TIGHTEST else 0.0
            name = f"test AUC at {row['at']}, {row['frozen_layers']} of 6 layers frozen, winner minus {row['rival']}"
            yield Target(f"{name}, mean of {len(row['seeds'])} seeds", ">=", least, row["test_auc"])
    shares = [row["measured_us"] / row["budget_us"] for row in rows if "budget_us" in row]
    if shares:
        yield Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, max(shares))


def main() -> None:
    """Run what is missing, then report."""
    arguments = asked(__doc__, "bahe-search", "ml1m", frozen_layers=FROZEN)
    quick, chosen = arguments.quick, {(frozen, seed) for frozen in arguments.frozen_layers for seed in arguments.seeds}
    task = clicks.movielens_histories(arguments.data, QUICK_ROWS if quick else ROWS, verdicts=True)
    cells: list[Cell] = [(method, share) for share in reversed(SHARES) for method in (OURS, UNIFORM)]
    stored = [] if quick else [row for row in stored_rows("bahe_search") if "frozen_layers" in row]
    rows = [row for row in stored if (row["frozen_layers"], row["seed"]) not in chosen]
    for frozen, seed in sorted(chosen):
        effort = replace(EFFORT, frozen=FrozenLayers(layers=frozen))
        work = arguments.work / f"frozen{frozen}"
        work.mkdir(exist_ok=True)
        found = rows_of_seed(work, task, quick, seed, cells, only_there=arguments.report, effort=effort)
        rows += [{"frozen_layers": frozen, **row} for row in found]
    rows.sort(key=lambda row: (row["frozen_layers"], row["seed"]))
    for frozen in sorted({row["frozen_layers"] for row in rows}):
        own = [row for row in rows if row["frozen_layers"] == frozen]
        rows += [{"frozen_layers": frozen, **row} for row in differences(own, (UNIFORM,))]
    every = sorted({row["seed"] for row in rows if "seed" in row})
    write_result("bahe_search", rows, list(targets_of(rows)), every, quick)


if __name__ == "__main__":
    main()
