"""Samplers against each other on the real supernet of Home Depot: no surrogate between them and the rows.

Ours and the two others that are best on the recorded landscape (benchmarks/samplers.py) search the joint space within
1/6 of the dense latency, from the same seeds, on the same validation rows; the winner of each is scored again on all
validation rows. A genome that any of them has evaluated is not evaluated again, so a run that was cut off goes on.

    python benchmarks/samplers_real.py [--quick] [--data FOLDER] [--work FOLDER] [--methods NAME ...]
"""

from __future__ import annotations

import argparse
import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from common import Target, save_picture, write_result
from record_landscape import FULL, QUICK, REPOSITORY, SEED, Recorder, home_depot, read_lines
from rivals import optuna_sampler
from samplers import QUALITY_REF, RIVALS

from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.explore import fitness_pool, space_of
from sparsefront.search.feasible import FeasibleSpace
from sparsefront.search.front import evaluated_of, hypervolume
from sparsefront.search.loop import search_loop
from sparsefront.search.prepare import Prepared
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.seeds import enqueue_seeds
from sparsefront.search.settings import SearchSettings
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome

BUDGET_SHARE = 1 / 6
EVALUATIONS, EVERY = 300, 10
SEEDS = (100, 101, 102)


def searched(
    work: Path, prepared: Prepared, settings: SearchSettings, recorder: Recorder, method: str, seed: int, count: int
) -> dict[str, Any]:
    """One search; what it has evaluated is the recorder's, so that a rerun costs nothing."""
    space = space_of(prepared.backbone.widths, settings)
    predict_many, budget_us = prepared.measured.predict_roughly, BUDGET_SHARE * prepared.measured.dense_us
    importance = ImportanceCurves.of(prepared.order)
    own: dict[str, Any] = {"space": space, "predict_many": predict_many, "budget_us": budget_us, "seed": seed}
    if method == "ours":
        sampler: Any = ReinforcedEvolutionSampler(**own, importance=importance)
    else:
        sampler = RIVALS[method](**own) if method in RIVALS else optuna_sampler(method, seed=seed)
    recorder.source = f"{method} {seed}"
    study = open_study(optuna.storages.InMemoryStorage(), name="search", sampler=sampler)
    if method != "ours":
        enqueue_seeds(study, FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us), importance)
    search_loop(study, space, recorder, predict_many=predict_many, budget_us=budget_us, evaluations=count, ahead=1)
    found = sorted(evaluated_of(study), key=lambda one: one.number)
    quality, us = np.array([one.quality for one in found]), np.array([one.latency_us for one in found])
    box = (prepared.teacher_quality - QUALITY_REF) * budget_us
    volume = [
        hypervolume(quality[:at], us[:at], quality_ref=QUALITY_REF, latency_ref_us=budget_us) / box
        for at in range(EVERY, count + 1, EVERY)
    ]
    best = [float(quality[:at].max()) for at in range(EVERY, count + 1, EVERY)]
    winner = found[int(np.argmax(quality))].genome.key()
    print(f"{method}, seed {seed}: best {best[-1]:.4f}, hypervolume {volume[-1]:.4f}", flush=True)
    return {"method": method, "seed": seed, "best": best, "hypervolume": volume, "winner": winner}


def rows_of(cells: list[dict[str, Any]], at: tuple[int, ...]) -> list[dict[str, Any]]:
    """Mean over the seeds, and each seed, per method."""
    rows = []
    for method in dict.fromkeys(one["method"] for one in cells):
        runs = [one for one in cells if one["method"] == method]
        row: dict[str, Any] = {"method": method, "seeds": len(runs)}
        for metric, count in itertools.product(("best", "hypervolume"), at):
            values = [one[metric][count // EVERY - 1] for one in runs]
            row[f"{metric}_at_{count}"] = float(np.mean(values))
            row[f"{metric}_at_{count}_each"] = values
        row["winner_on_all_validation_rows"] = float(np.mean([one["winner_quality"] for one in runs]))
        row["winners"] = [one["winner"] for one in runs]
        rows.append(row)
    return rows


def targets_of(rows: list[dict[str, Any]], at: tuple[int, ...]) -> list[Target]:
    """Ours first, as on the recorded landscape."""
    ours = next(row for row in rows if row["method"] == "ours")
    others = [row for row in rows if row is not ours]
    names = [f"{metric}_at_{count}" for metric, count in itertools.product(("best", "hypervolume"), at)]
    claims = []
    for name in [*names, "winner_on_all_validation_rows"]:
        rival = max(others, key=lambda row: row[name])
        claims.append(
            Target(f"{name.replace('_', ' ')}, ours, against {rival['method']}", ">", rival[name], ours[name])
        )
    return claims


def main() -> None:
    """Search, then score the winners on all validation rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 50 evaluations, few rows")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-landscapes")
    parser.add_argument("--methods", nargs="+", default=["ours", "tpe", "regularised evolution"])
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("home_depot" + ("-quick" if quick else ""))
    work.mkdir(parents=True, exist_ok=True)
    prepared, settings = home_depot(work, arguments.data, quick)
    prepared = replace(prepared, measured=replace(prepared.measured, anchors=()))
    rows_scored = (QUICK if quick else FULL).rows
    settings = settings.model_copy(update={"search_rows": rows_scored, "seed": SEED})
    count, at = (50, (20, 50)) if quick else (EVALUATIONS, (100, 200, 300))
    seeds = SEEDS[:1] if quick else SEEDS
    with fitness_pool(prepared, settings) as pool:
        recorder = Recorder(pool, work / "real.jsonl", seed=SEED, rows=rows_scored)
        recorder.known |= {one["genome"]: one for one in read_lines(work / "evaluations.jsonl") if one["seed"] == SEED}
        cells = [
            searched(work, prepared, settings, recorder, method, seed, count)
            for seed, method in itertools.product(seeds, arguments.methods)
        ]
    every = settings.model_copy(update={"search_rows": len(prepared.rows["valid"])})
    with fitness_pool(prepared, every) as pool:
        recorder = Recorder(pool, work / "real-winners.jsonl", seed=SEED, rows=every.search_rows)
        recorder.evaluate([Genome.parse(one["winner"]) for one in cells], "winners")
    for one in cells:
        one["winner_quality"] = recorder.known[one["winner"]]["quality"]
    rows = rows_of(cells, at)
    write_result("samplers_real", rows, targets_of(rows, at), list(seeds), quick)
    save_picture("samplers_real", quick, lambda _, axes: draw(axes, cells))


def draw(axes: Any, cells: list[dict[str, Any]]) -> None:
    """Best quality against evaluations, every search."""
    methods = list(dict.fromkeys(one["method"] for one in cells))
    for one in cells:
        label = one["method"] if one["seed"] == cells[0]["seed"] else None
        evaluations = EVERY * np.arange(1, len(one["best"]) + 1)
        axes.plot(evaluations, one["best"], color=f"C{methods.index(one['method'])}", label=label)
    axes.set(xlabel="evaluations", ylabel="best validation AUC in the supernet")
    axes.legend()


if __name__ == "__main__":
    main()
