"""BAHE: histories as looked-up vectors against the same histories as one text, on MovieLens clicks.

What a step of training costs as histories grow is in ``bahe_training.py``. Here, per seed, what is learnt: 10,000
ratings drawn at random (seed 0, the same for all) from those whose user had liked five films before, split by time,
15 % the latest for testing, 15 % before those for validation; a history is the latest 24 films that were rated before
the rating's second, each with whether it was liked. All methods train the upper half of MiniLM's layers (ablations
aside) on the same rows, 16 a batch, and each takes the better of the same rates by validation AUC with the first seed,
and keeps it. Test rows decide nothing. The flat model reads up to 640 tokens of a history.

- Bahe: the films' vectors by the lower half, looked up; the seconds of its training include encoding all films once
- flat, as many epochs; flat, as many seconds: of Bahe's training on the same machine, with a schedule that ends then
- item alone: the same two models of rows without their histories
- ablations: one thing about Bahe is other; without order: each row's films are shuffled, in training and in scoring

Trainings take hours; each is made once. With ``--unreported`` several calls can train side by side, on a thread each
(the seconds are then those of a machine that is as busy for all methods); a later call without it finds what they made.

    python benchmarks/bahe.py [--quick] [--parts NAME ...] [--seeds SEED ...] [--methods NAME ...] [--data FOLDER]
                              [--work FOLDER] [--report | --unreported]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bahe_quality import EQUAL_EPOCHS, FROZEN, METHODS, OURS, SEEDS, Bench
from bahe_training import cost_targets, draw_growth, training_costs
from common import RESULTS, Target, write_result
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
REPOSITORY = Path(__file__).parent.parent
PARTS = ("costs", "auc", "ablation")
SPREAD_ROWS, QUICK_SPREAD_ROWS = 28_000, 126
"""Rows of a training, epochs counted, over which a step's cost spreads the encoding of all films."""
CLEAR_POINTS = 0.5
"""AUC points over a model without histories that count as a clear margin."""
DEPTHS = (OURS, "frozen 1/3", "frozen 2/3")
"""Bahe by how many of its layers are frozen."""
SCORES = ("valid_auc", "auc", "gauc", "log_loss", "calibration_error", "training_seconds", "encoding_seconds", "epochs")


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per method the mean over the seeds, and what Bahe has more, or Bahe otherwise than the flat model, in points.

    Compared are the seeds that both have. The standard error is that of the draw of test rows: a paired bootstrap.
    """
    found = []
    auc = {(row["method"], row["seed"]): np.array([row["auc"], *row["auc_draws"]]) for row in rows}
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        line = {"part": METHODS[name].part, "method": name, "seeds": len(own)}
        scores = [score for score in SCORES if all(score in row for row in own)]
        line |= {score: float(np.mean([row[score] for row in own])) for score in scores}
        if name != OURS and (points := _gains(auc, OURS, name)):
            line |= {"behind_bahe_points": points[0], "standard_error_points": points[1]}
        if not METHODS[name].flat and METHODS[name].history and (points := _gains(auc, name, EQUAL_EPOCHS)):
            line |= {"over_flat_points": points[0], "over_flat_standard_error_points": points[1]}
        found.append(line)
    return found


def _gains(auc: dict[tuple[str, int], FloatArray], winner: str, other: str) -> tuple[float, float] | None:
    """AUC points, and their standard error; None without a seed that both have."""
    gains = [own - auc[other, seed] for (name, seed), own in auc.items() if name == winner and (other, seed) in auc]
    points = 100 * np.mean(gains, axis=0) if gains else None
    return None if points is None else (float(points[0]), float(points[1:].std()))


def targets_of(lines: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of quality."""
    for line in lines:
        if line["part"] == "auc" and "behind_bahe_points" in line:
            least = 0.0 if METHODS[line["method"]].history else CLEAR_POINTS
            name = f"test AUC of Bahe minus {line['method']}, points, mean of {line['seeds']} seeds"
            yield Target(name, ">=", least, line["behind_bahe_points"])
    depths = [line for line in lines if line["method"] in DEPTHS and {"over_flat_points", "valid_auc"} <= set(line)]
    best = max(depths, key=lambda line: line["valid_auc"], default=None)
    if best is not None and best["method"] != OURS:
        name = f"test AUC of Bahe with the depth of the best validation AUC ({best['method']}) minus {EQUAL_EPOCHS}"
        yield Target(f"{name}, points, mean of {best['seeds']} seeds", ">=", 0.0, best["over_flat_points"])


Kept = dict[tuple[str, int], dict[str, Any]]


def stored(quick: bool) -> list[dict[str, Any]]:
    """Rows of the result."""
    path = RESULTS / "bahe.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["rows"] if path.exists() and not quick else []
    return rows


def main() -> None:
    """Make what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, one seed, hardly any training")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--report", action="store_true", help="make nothing new, report what is there")
    way.add_argument("--unreported", action="store_true", help="train what is missing, report nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "ml1m")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-bahe")
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    only_there = arguments.report or arguments.unreported or "costs" not in arguments.parts
    costs = training_costs(
        work, arguments.data, FROZEN, QUICK_SPREAD_ROWS if quick else SPREAD_ROWS, quick, only_there=only_there
    )
    costs = costs or [row for row in stored(quick) if "history_tokens" in row]
    kept: Kept = {(row["method"], row["seed"]): row for row in stored(quick) if "auc_draws" in row}
    names = [name for name in arguments.methods if METHODS[name].part in arguments.parts]
    if names and not arguments.report:
        bench = Bench(work, arguments.data, quick, {name: row["rate"] for (name, _), row in kept.items()})
        for seed in arguments.seeds[:1] if quick else arguments.seeds:
            for name in names:
                kept[name, seed] = bench.row(name, seed)
                if not arguments.unreported:
                    report(kept, costs, quick)
    if not arguments.unreported:
        report(kept, costs, quick)


def report(kept: Kept, costs: list[dict[str, Any]], quick: bool) -> None:
    """Write the result of what is there, and draw how costs grow."""
    rows = sorted(kept.values(), key=lambda row: (row["seed"], list(METHODS).index(row["method"])))
    lines = sorted(summary(rows), key=lambda line: list(METHODS).index(line["method"]))
    targets = [*cost_targets(costs), *targets_of(lines)]
    write_result("bahe", [*costs, *lines, *rows], targets, sorted({row["seed"] for row in rows}), quick)
    draw_growth(costs, quick)


if __name__ == "__main__":
    main()
