"""Evaluates thousands of genomes on a real supernet and keeps them, so that samplers can be compared in seconds.

A third are random, some are uniform, the rest are what real searches of several samplers looked at, at three budgets
and in two spaces; some are evaluated again on other validation rows, which gives the noise of an evaluation. All lie
within the largest of the budgets, as all that a search evaluates do (the stored one of ad_log, recorded before, has
costlier ones too). An interrupted recording goes on.

    python benchmarks/record_landscape.py TASK [--quick] [--data FOLDER] [--work FOLDER]

TASK is ``home_depot`` (its data, and what benchmarks/home_depot.py has prepared) or ``ad_log`` (the built-in task).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from budget_search import KEEP_PERCENTS, SHARES, Bench
from common import about_this_machine
from home_depot import write_task
from landscape import ABOUT, EVALUATIONS, LANDSCAPES, ORDER, TABLE, Landscape
from rivals import LocalSearch, optuna_sampler, uniform_space

from sparsefront.models.backbone import load_backbone
from sparsefront.models.task import Task
from sparsefront.search.curriculum import random_shape
from sparsefront.search.explore import fitness_pool, sampler_of, space_of
from sparsefront.search.feasible import FeasibleSpace
from sparsefront.search.loop import search_loop
from sparsefront.search.pool import EvaluationPool, Finished
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Rich
from sparsefront.search.run import Run
from sparsefront.search.seeds import enqueue_seeds
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome

REPOSITORY = Path(__file__).parent.parent
SEED, AGAIN_SEED = 0, 1
SAMPLERS = ("reinforced", "tpe", "nsga2", "local")


@dataclass(frozen=True)
class Counts:
    """How many genomes of each kind."""

    random: int
    uniform: int
    per_search: int
    again: int
    rows: int


FULL, QUICK = Counts(1100, 200, 90, 150, 1000), Counts(30, 10, 30, 10, 200)


class Recorder:
    """A pool that looks genomes up before it evaluates them, and writes down what it had to evaluate."""

    def __init__(self, pool: EvaluationPool, path: Path, *, seed: int, rows: int) -> None:
        self._pool, self._path, self._seed, self._rows = pool, path, seed, rows
        self.source = ""
        self.known = {one["genome"]: one for one in read_lines(path) if one["seed"] == seed}
        self._ready: list[Genome] = []

    @property
    def size(self) -> int:
        return self._pool.size

    @property
    def capacity(self) -> int:
        return self._pool.capacity

    def submit(self, genome: Genome, bar: float | None = None) -> None:
        if genome.key() in self.known:
            self._ready.append(genome)
        else:
            self._pool.submit(genome)

    def next_done(self) -> Finished:
        if self._ready:
            genome = self._ready.pop(0)
            return Finished(genome, {"quality": self.known[genome.key()]["quality"]}, 0.0)
        done = self._pool.next_done()
        if isinstance(done.outcome, Exception):
            raise done.outcome
        one = {
            "genome": done.genome.key(), "quality": done.outcome["quality"],
            "standard_error": done.outcome["standard_error"], "seconds": done.seconds, "seed": self._seed,
            "rows": self._rows, "source": self.source,
        }  # fmt: skip
        self.known[one["genome"]] = one
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n" + json.dumps(one))
        return done

    def evaluate(self, genomes: list[Genome], source: str) -> None:
        """All that are not known yet."""
        self.source = source
        waiting = [genome for genome in dict.fromkeys(genomes) if genome.key() not in self.known]
        under_way = 0
        for genome in waiting:
            if under_way == self.capacity:
                self.next_done()
                under_way -= 1
            self.submit(genome)
            under_way += 1
        for _ in range(under_way):
            self.next_done()
        print(f"{source}: {len(waiting)} evaluated, {len(self.known)} in all", flush=True)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """What is written down; a line that a kill has cut off is dropped."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def record(work: Path, prepared: Prepared, settings: SearchSettings, counts: Counts) -> None:
    """Evaluate what is missing."""
    settings = settings.model_copy(update={"search_rows": counts.rows, "seed": SEED})
    path = work / "evaluations.jsonl"
    with fitness_pool(prepared, settings) as pool:
        recorder = Recorder(pool, path, seed=SEED, rows=counts.rows)
        recorder.evaluate(random_genomes(prepared, settings, counts.random), "random")
        recorder.evaluate(uniform_genomes(prepared, settings, counts.uniform), "uniform")
        for share in SHARES.values():
            for preset in ("joint", "weights"):
                for name in SAMPLERS:
                    along_a_search(work, prepared, settings, recorder, preset, share, name, counts.per_search)
        everything = [Genome.parse(key) for key in recorder.known]
    again = settings.model_copy(update={"seed": AGAIN_SEED})
    chosen = np.random.default_rng(SEED).choice(len(everything), size=counts.again, replace=False)
    with fitness_pool(prepared, again) as pool:
        recorder = Recorder(pool, path, seed=AGAIN_SEED, rows=counts.rows)
        recorder.evaluate([everything[at] for at in chosen], "again")


def random_genomes(prepared: Prepared, settings: SearchSettings, count: int) -> list[Genome]:
    """Some of any shape within the largest budget, some close to one of them; about half of each keep all tokens."""
    rng = np.random.default_rng(SEED)
    spaces = [space_of(prepared.backbone.widths, settings, name) for name in ("joint", "weights")]
    predict_many, budgets_us = prepared.measured.predict_roughly, budgets_of(prepared)
    close = [
        FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us)
        for budget_us in budgets_us
        for space in spaces
    ]
    found: dict[Genome, None] = {}
    while len(found) < count:
        drawn = [random_shape(spaces[at % 2], rng) for at in range(2 * len(close))]
        within = predict_many(drawn) <= max(budgets_us)
        found |= dict.fromkeys(genome for genome, fits in zip(drawn, within, strict=True) if fits)
        found |= dict.fromkeys(one.random(rng) for one in close)
    return list(found)[:count]


def uniform_genomes(prepared: Prepared, settings: SearchSettings, count: int) -> list[Genome]:
    """Drawn from those within the largest budget."""
    space = uniform_space(space_of(prepared.backbone.widths, settings))
    rng = np.random.default_rng(SEED)
    drawn = list(dict.fromkeys(space.sample(rng) for _ in range(100 * count)))
    within = prepared.measured.predict_roughly(drawn) <= max(budgets_of(prepared))
    return [genome for genome, fits in zip(drawn, within, strict=True) if fits][:count]


def budgets_of(prepared: Prepared) -> list[float]:
    """In microseconds."""
    return [share * prepared.measured.dense_us for share in SHARES.values()]


def along_a_search(
    work: Path,
    prepared: Prepared,
    settings: SearchSettings,
    recorder: Recorder,
    preset: str,
    share: float,
    name: str,
    evaluations: int,
) -> None:
    """A real search, its evaluations written down; one that was interrupted goes on."""
    space = space_of(prepared.backbone.widths, settings, preset)
    budget_us = share * prepared.measured.dense_us
    predict_many = prepared.measured.predict_roughly
    if name == "reinforced":
        sampler = sampler_of(settings, space, prepared, [budget_us])
    elif name == "local":
        sampler = LocalSearch(space=space, predict_many=predict_many, budget_us=budget_us, seed=SEED)
    else:
        sampler = optuna_sampler(name, seed=SEED)
    recorder.source = f"{name} {preset} {share:.3f}"
    study = open_study(work / "searches.db", name=recorder.source, sampler=sampler)
    if name != "reinforced" and not study.trials:
        enqueue_seeds(study, FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us))
    search_loop(study, space, recorder, predict_many=predict_many, budget_us=budget_us, evaluations=evaluations)
    print(f"{recorder.source}: {len(recorder.known)} in all", flush=True)


def store(work: Path, name: str, prepared: Prepared, settings: SearchSettings, counts: Counts) -> dict[str, Any]:
    """Write ``landscapes/NAME`` and say how well surrogates predict it."""
    folder = (LANDSCAPES if counts is FULL else work / "landscapes") / name
    folder.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(list(read_lines(work / "evaluations.jsonl")))
    frame.to_parquet(folder / EVALUATIONS, index=False)
    prepared.measured.table.save(folder / TABLE, overwrite=True)
    prepared.order.save(str(folder / ORDER))
    about = {
        "task": prepared.task.name, "metric": prepared.task.spec.metric, "backbone": prepared.backbone.name,
        "ffn_granule": settings.ffn_granule, "keep_percents": list(settings.keep_percents), "seed": SEED,
        "dense_us": prepared.measured.dense_us, "dense_quality": prepared.teacher_quality,
        "valid_rows": len(prepared.rows["valid"]), **about_this_machine(),
    }  # fmt: skip
    landscape = Landscape.of(folder, about)
    scores = landscape.held_out()
    about |= {
        "evaluations": len(frame), "genomes": len(landscape.first), "noise": landscape.noise, "held_out": scores,
        "surrogate": max(scores, key=lambda one: scores[one]["r2"]),
    }  # fmt: skip
    (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return about


def ad_log(work: Path) -> tuple[Prepared, SearchSettings]:
    """The built-in task, prepared for the three budgets as the command line would."""
    settings = SearchSettings(budget_share=SHARES["1/6"], ffn_granule=64)
    run = Run(
        work / "run",
        task=Task.builtin(),
        backbone=load_backbone("minilm"),
        settings=settings,
        preparation=PrepareSettings(focus_shares=tuple(SHARES.values())),
        reporter=Rich(),
    )
    run.folder.mkdir(parents=True, exist_ok=True)
    return run.prepare(run.measure()), settings


def home_depot(work: Path, data: Path, quick: bool) -> tuple[Prepared, SearchSettings]:
    """With the teacher and the supernet of benchmarks/home_depot.py."""
    bench_work = work.parent.parent / "benchmark-home-depot" / ("quick" if quick else "full")
    bench_work.mkdir(parents=True, exist_ok=True)
    bench = Bench(bench_work / "seed0", Task.from_file(write_task(bench_work, data, quick)), quick)
    return bench.prepared, SearchSettings(budget_share=SHARES["1/6"], ffn_granule=128, keep_percents=KEEP_PERCENTS)


def main() -> None:
    """Record one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("home_depot", "ad_log"))
    parser.add_argument("--quick", action="store_true", help="few genomes, kept in the work folder")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-landscapes")
    arguments = parser.parse_args()
    counts = QUICK if arguments.quick else FULL
    work = arguments.work / (arguments.task + ("-quick" if arguments.quick else ""))
    work.mkdir(parents=True, exist_ok=True)
    if arguments.task == "ad_log":
        prepared, settings = ad_log(work)
    else:
        prepared, settings = home_depot(work, arguments.data, arguments.quick)
    # A search sees the table as profiled, so that the replay sees what was recorded.
    prepared = replace(prepared, measured=replace(prepared.measured, anchors=()))
    record(work, prepared, settings, counts)
    print(json.dumps(store(work, arguments.task, prepared, settings, counts), indent=1))


if __name__ == "__main__":
    main()
