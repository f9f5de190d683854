"""Exploring a space on the supernet: the search itself, and the sweep over uniform genomes it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna
import torch
from optuna.samplers import BaseSampler
from threadpoolctl import threadpool_limits

from sparsefront.search.baselines import RandomSampler, SweepSampler
from sparsefront.search.budget import AIM_SHARE
from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.feasible import FeasibleSpace
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.front import Evaluated, evaluated_of
from sparsefront.search.loop import LoopReport, search_loop
from sparsefront.search.pool import EvaluationPool, RayPool, SerialPool
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.settings import SearchSettings
from sparsefront.search.studies import open_study
from sparsefront.search.watch import Watch
from sparsefront.spaces import Genome, InputError, SearchSpace, Widths
from sparsefront.spaces.genome import FIELDS

STUDY_FILE = "study.db"


@contextmanager
def fitness_pool(
    prepared: Prepared, settings: SearchSettings, *, address: str | None = None
) -> Iterator[EvaluationPool]:
    """What evaluates genomes of this supernet on the search's validation rows, on a thread each.

    Ray actors; where one at a time is asked for on this machine, this process, which needs no Ray for that.
    """
    rows = prepared.rows["valid"].stratified(settings.search_rows, settings.seed)
    data = FitnessData.of(prepared.supernet, rows, prepared.task.spec.metric)
    if settings.workers == 1 and address is None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield SerialPool(Fitness(data))
        finally:
            torch.set_num_threads(threads)
        return
    cpus = settings.cpus_per_worker
    with RayPool(Fitness, data, workers=settings.workers, cpus_per_worker=cpus, address=address) as pool:
        yield pool


def space_of(widths: Widths, settings: SearchSettings, name: str | None = None) -> SearchSpace:
    """The search space of these settings, or another preset with the same choices."""
    try:
        return SearchSpace.preset(
            name or settings.space,
            widths=widths,
            head_granule=settings.head_granule,
            ffn_granule=settings.ffn_granule,
            keep_percents=settings.keep_percents,
        )
    except ValueError as error:
        raise InputError(str(error)) from error


def sampler_of(
    settings: SearchSettings,
    space: SearchSpace,
    prepared: Prepared,
    budgets_us: Sequence[float],
    designs: Sequence[Genome] = (),
) -> BaseSampler:
    """The sampler that the settings name, ours beginning with the designs; Optuna's own know of no budget."""
    predict_many = prepared.measured.predict_many
    if settings.sampler == "random":
        return RandomSampler(space=space, predict_many=predict_many, budget_us=budgets_us, seed=settings.seed)
    if settings.sampler == "tpe":
        return optuna.samplers.TPESampler(seed=settings.seed, multivariate=True)
    if settings.sampler == "nsga2":
        return optuna.samplers.NSGAIISampler(seed=settings.seed)
    return ReinforcedEvolutionSampler(
        space=space,
        predict_many=predict_many,
        budget_us=budgets_us,
        importance=ImportanceCurves.of(prepared.order),
        designs=designs,
        seed=settings.seed,
    )


def explore(
    folder: Path,
    prepared: Prepared,
    settings: SearchSettings,
    budgets_us: Sequence[float],
    *,
    pool: EvaluationPool,
    reporter: Reporter,
    designs: Sequence[Genome] = (),
) -> tuple[LoopReport, list[Evaluated]]:
    """The search: evaluate ``settings.evaluations`` genomes; what is in the folder's study counts.

    It stays a little below every budget (``AIM_SHARE``): the best genomes lie close to whatever limit it has, and the
    table may err on any of them. It begins with the designs, brought to the choices of the space.
    """
    limits_us = [AIM_SHARE * budget_us for budget_us in budgets_us]
    space = space_of(prepared.backbone.widths, settings)
    offered = [] if space.tied else [space.below(one) for one in designs]
    sampler = sampler_of(settings, space, prepared, limits_us, offered)
    study = open_study(folder / STUDY_FILE, name="search", sampler=sampler)
    return _loop(study, space, pool, prepared, limits_us, settings.evaluations, settings, reporter, "searching")


def sweep_uniform(
    folder: Path,
    prepared: Prepared,
    settings: SearchSettings,
    budgets_us: Sequence[float],
    *,
    pool: EvaluationPool,
    reporter: Reporter,
) -> list[Evaluated]:
    """Evaluate uniform genomes: all within the largest budget, or per budget those that no other within exceeds."""
    space = space_of(prepared.backbone.widths, settings, "uniform")
    predict_many, budget_us = prepared.measured.predict_many, max(budgets_us)
    study = open_study(folder / STUDY_FILE, name="uniform")
    feasible = FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us).listed()
    if settings.uniform == "all":
        study.sampler = SweepSampler(space=space, predict_many=predict_many, budget_us=budget_us)
    else:
        latency_us = predict_many(feasible)
        within = [[one for one, us in zip(feasible, latency_us, strict=True) if us <= limit] for limit in budgets_us]
        feasible = tuple(dict.fromkeys(genome for one in within for genome in largest_only(one)))
        study.sampler = RandomSampler(space=space, predict_many=predict_many, budget_us=budget_us, seed=0)
        for genome in feasible:
            params = space.to_params(genome)
            study.enqueue_trial({name: params[name] for name in space.distributions()}, skip_if_exists=True)
    title = f"sweeping {len(feasible)} uniform genomes"
    return _loop(study, space, pool, prepared, budgets_us, len(feasible), settings, reporter, title)[1]


def largest_only(genomes: Sequence[Genome]) -> tuple[Genome, ...]:
    """Uniform genomes that no other of them matches or exceeds in every field."""
    others = [field for field in FIELDS if field != "ffn_units"]
    widest: dict[tuple[int, ...], Genome] = {}
    for genome in genomes:
        at = tuple(getattr(genome.layers[0], field) for field in others)
        if at not in widest or widest[at].layers[0].ffn_units < genome.layers[0].ffn_units:
            widest[at] = genome
    values = np.array([[*at, genome.layers[0].ffn_units] for at, genome in widest.items()])
    kept = {
        genome
        for genome, own in zip(widest.values(), values, strict=True)
        if (values >= own).all(axis=1).sum() == 1  # itself alone
    }
    return tuple(genome for genome in genomes if genome in kept)


def ahead_of(pool: EvaluationPool) -> int:
    """Genomes to ask before there is room for them: no worker waits, and the sampler's thinking serves several."""
    return max(1, pool.size // 4)


def _loop(
    study: optuna.Study,
    space: SearchSpace,
    pool: EvaluationPool,
    prepared: Prepared,
    budgets_us: Sequence[float],
    evaluations: int,
    settings: SearchSettings,
    reporter: Reporter,
    title: str,
) -> tuple[LoopReport, list[Evaluated]]:
    known = evaluated_of(study)
    watch = Watch(budgets_us, known, study.sampler)
    # The workers have the processors: more threads of the sampler's small products would only wait for each other.
    with reporter.step(title) as advance, threadpool_limits(limits=1):
        advance(min(len(known), evaluations), evaluations)

        def progressed(so_far: LoopReport) -> None:
            advance(so_far.complete, evaluations, watch.facts(so_far))

        report = search_loop(
            study,
            space,
            pool,
            predict_many=prepared.measured.predict_many,
            budget_us=max(budgets_us),
            evaluations=evaluations,
            ahead=ahead_of(pool),
            early_exit=True,
            most_failed_share=settings.most_failed_share,
            on_result=watch.add,
            on_progress=progressed,
        )
    return report, list(evaluated_of(study))
