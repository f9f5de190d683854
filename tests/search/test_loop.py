from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.trial import TrialState
from tests.search.landscape import Landscape
from tests.search.test_studies import room_for

from sparsefront.search.baselines import RandomSampler
from sparsefront.search.front import GENOME_ATTR, LINEAGE_ATTR, Evaluated
from sparsefront.search.loop import OVER_BUDGET, EvaluationFailed, LoopReport, StudyFailed, search_loop
from sparsefront.search.pool import Finished, SerialPool
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome


class ShuffledPool:
    """Holds three genomes and finishes the latest first."""

    size = capacity = 3

    def __init__(self, fitness: Callable[[Genome], dict[str, float]]) -> None:
        self.fitness = fitness
        self.flying: list[Genome] = []
        self.bars: list[float | None] = []
        self.most = 0

    def submit(self, genome: Genome, bar: float | None = None) -> None:
        self.flying.append(genome)
        self.bars.append(bar)
        self.most = max(self.most, len(self.flying))

    def next_done(self) -> Finished:
        genome = self.flying.pop()
        return Finished(genome, self.fitness(genome), 0.5)


@pytest.fixture
def landscape() -> Landscape:
    return Landscape()


def random_sampler(landscape: Landscape) -> BaseSampler:
    return RandomSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
    )


def study_of(sampler: BaseSampler) -> optuna.Study:
    return optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)


def search(
    study: optuna.Study,
    landscape: Landscape,
    count: int,
    *,
    fitness: Callable[[Genome], dict[str, float]] | None = None,
    on_result: Callable[[Evaluated], None] | None = None,
) -> LoopReport:
    return search_loop(
        study,
        landscape.space,
        SerialPool(fitness or landscape.fitness),
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=count,
        on_result=on_result,
    )


def test_every_evaluation_is_in_the_study_before_the_next_is_asked(landscape: Landscape) -> None:
    study = study_of(random_sampler(landscape))
    stored: list[int] = []

    def fitness(genome: Genome) -> dict[str, float]:
        stored.append(len(study.get_trials(states=(TrialState.COMPLETE,))))
        return landscape.fitness(genome)

    results: list[Evaluated] = []
    report = search(study, landscape, 10, fitness=fitness, on_result=results.append)
    assert stored == list(range(10))
    assert report.evaluations == report.complete == 10
    assert [one.number for one in results] == list(range(10))
    for trial, one in zip(study.trials, results, strict=True):
        assert trial.user_attrs[GENOME_ATTR] == one.genome.key()
        assert trial.user_attrs["rows"] == 10.0
        assert trial.user_attrs["seconds"] >= 0
        assert trial.values == [landscape.quality(one.genome), landscape.predict_many([one.genome])[0]]


def test_keeps_the_pool_full_and_counts_exactly(landscape: Landscape) -> None:
    study = study_of(random_sampler(landscape))
    pool = ShuffledPool(landscape.fitness)
    report = search_loop(
        study,
        landscape.space,
        pool,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=11,
    )
    assert pool.most == 3 and not pool.flying
    assert report.computing_seconds == pytest.approx(5.5)
    assert Counter(trial.state for trial in study.trials) == {TrialState.COMPLETE: 11}
    for trial in study.trials:
        assert trial.values[0] == landscape.quality(Genome.parse(trial.user_attrs[GENOME_ATTR]))


def test_what_is_asked_ahead_is_started_before_a_result_is_told_and_never_lost(landscape: Landscape) -> None:
    pool = ShuffledPool(landscape.fitness)
    study = open_study(optuna.storages.InMemoryStorage(), name="search", sampler=random_sampler(landscape))
    told: list[int] = []
    busy: list[int] = []

    def tell(one: Evaluated) -> None:
        told.append(one.number)
        busy.append(len(pool.flying))

    report = search_loop(
        study,
        landscape.space,
        pool,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=20,
        ahead=2,
        on_result=tell,
    )
    assert report.complete == 20 and len(set(told)) == 20 and pool.most == 3
    assert busy[:15] == [3] * 15  # while a result is told no worker is idle
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.TPESampler(seed=0, multivariate=True),
        optuna.samplers.NSGAIISampler(seed=0, population_size=10),
        optuna.samplers.RandomSampler(seed=0),
    ],
    ids=["tpe", "nsga2", "random"],
)
def test_any_sampler_evaluates_feasible_genomes_once(sampler: BaseSampler) -> None:
    landscape = Landscape(preset="uniform", budget=0.15)
    study = study_of(sampler)
    evaluated: list[Genome] = []

    def fitness(genome: Genome) -> dict[str, float]:
        evaluated.append(genome)
        return landscape.fitness(genome)

    report = search(study, landscape, 30, fitness=fitness)
    assert len(evaluated) == len(set(evaluated)) == report.evaluations == 30
    assert landscape.predict_many(evaluated).max() <= landscape.budget_us
    pruned = study.get_trials(states=(TrialState.PRUNED,))
    reasons = Counter("reason" if "reason" in trial.user_attrs else "duplicate" for trial in pruned)
    assert reasons == {"reason": report.rejected_infeasible, "duplicate": report.duplicates_avoided}
    assert report.rejected_infeasible > 0
    for trial in pruned:
        if "duplicate_of" in trial.user_attrs:
            original = study.trials[trial.user_attrs["duplicate_of"]]
            assert original.params == trial.params and original.state == TrialState.COMPLETE


def test_a_stuck_sampler_gives_way_to_random_genomes_until_nothing_is_left() -> None:
    landscape = Landscape(preset="uniform", budget=0.08)
    fitting = [one for one in landscape.space if landscape.predict_many([one])[0] <= landscape.budget_us]
    stuck = optuna.samplers.PartialFixedSampler(
        dict.fromkeys(landscape.space.distributions(), 0), optuna.samplers.RandomSampler(seed=0)
    )
    study = study_of(stuck)
    report = search(study, landscape, 1000)
    assert report.exhausted
    assert report.evaluations == len(fitting) > 3
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_the_same_call_continues(landscape: Landscape, tmp_path: Path) -> None:
    for count, new in ((6, 6), (6, 0), (10, 4)):
        study = open_study(tmp_path / "study.db", name="search", sampler=random_sampler(landscape))
        assert search(study, landscape, count).evaluations == new
    assert len(study.trials) == 10


@pytest.mark.parametrize("interrupt_at", [0, 7])
def test_an_interrupt_leaves_a_study_that_goes_on(landscape: Landscape, interrupt_at: int) -> None:
    study = study_of(random_sampler(landscape))
    calls: list[Genome] = []

    def fitness(genome: Genome) -> dict[str, float]:
        calls.append(genome)
        if len(calls) == interrupt_at + 1:
            raise KeyboardInterrupt
        return landscape.fitness(genome)

    with pytest.raises(KeyboardInterrupt):
        search(study, landscape, 12, fitness=fitness)
    assert not study.get_trials(states=(TrialState.RUNNING,))
    assert search(study, landscape, 12, fitness=fitness).complete == 12
    assert calls[interrupt_at + 1] == calls[interrupt_at]  # first what was in flight
    assert len(set(calls)) == 12


def test_trials_of_a_killed_driver_are_evaluated_again(tmp_path: Path) -> None:
    script = """
        import os, sys
        from tests.search.test_loop import *
        landscape = Landscape()
        sampler = ReinforcedEvolutionSampler(
            space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
        )
        study = open_study(sys.argv[1], name="search", sampler=sampler)
        def fitness(genome):
            if len(study.get_trials(states=(TrialState.COMPLETE,))) == 25:
                os.kill(os.getpid(), 9)
            return landscape.fitness(genome)
        search(study, landscape, 60, fitness=fitness)
    """
    path = tmp_path / "study.db"
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(path)], env=dict(os.environ), check=False, timeout=120
    )
    assert ended.returncode == -9
    landscape = Landscape()
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
    )
    study = open_study(path, name="search", sampler=sampler)
    assert len(study.get_trials(states=(TrialState.COMPLETE,))) == 25
    (left,) = study.get_trials(states=(TrialState.RUNNING,))
    report = search(study, landscape, 30)
    assert (report.recovered, report.evaluations, report.complete) == (1, 5, 30)
    again = study.trials[left.number + 1]
    assert study.trials[left.number].state == TrialState.FAIL
    assert again.params == left.params and again.state == TrialState.COMPLETE
    assert again.user_attrs[LINEAGE_ATTR] == left.user_attrs[LINEAGE_ATTR]


def test_a_passing_error_is_tried_again(landscape: Landscape) -> None:
    study = study_of(random_sampler(landscape))
    calls: list[Genome] = []

    def fitness(genome: Genome) -> dict[str, float]:
        calls.append(genome)
        if len(calls) in (2, 3):
            raise OSError("the disk is away")
        return landscape.fitness(genome)

    report = search(study, landscape, 5, fitness=fitness)
    assert report.failed_attempts == 2
    assert calls[1] == calls[2] == calls[3]
    assert len(study.trials) == report.complete == 5


@pytest.mark.parametrize(
    ("metrics", "line"),
    [
        ({"auc": 0.7}, r"no 'quality', only \['auc'\]"),
        ({"quality": float("nan")}, "quality nan, expected a finite number"),
    ],
)
def test_when_everything_fails_the_search_ends_with_the_first_error(
    landscape: Landscape, metrics: dict[str, float], line: str
) -> None:
    study = study_of(random_sampler(landscape))
    with pytest.raises(EvaluationFailed, match=rf"3 of 3 evaluations failed; the first, genome h.*{line}"):
        search(study, landscape, 5, fitness=lambda genome: metrics)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL] * 3


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), OSError("gone")])
def test_a_genome_that_keeps_failing_is_given_up_and_counted_and_never_asked_again(wrong: object) -> None:
    landscape = Landscape(preset="uniform", budget=0.08)
    fitting = sum(landscape.predict_many([one])[0] <= landscape.budget_us for one in landscape.space)
    bad: list[Genome] = []

    def fitness(genome: Genome) -> dict[str, float]:
        if not bad or genome in bad:
            bad.append(genome)
            if isinstance(wrong, Exception):
                raise wrong
            return {"quality": float(str(wrong))}
        return landscape.fitness(genome)

    study = study_of(random_sampler(landscape))
    report = search(study, landscape, fitting, fitness=fitness)
    assert (report.failed, report.complete, report.exhausted) == (1, fitting - 1, True)
    assert len(bad) == (3 if isinstance(wrong, Exception) else 1)
    (failed,) = (trial for trial in study.trials if "error" in trial.user_attrs)
    assert failed.state == TrialState.FAIL
    resumed = study_of(random_sampler(landscape))
    resumed.add_trials(study.trials)
    again = search(resumed, landscape, fitting, fitness=fitness)
    assert (again.failed, again.evaluations, again.exhausted) == (1, 0, True)


def test_how_many_may_fail_is_a_setting(landscape: Landscape) -> None:
    def fitness(genome: Genome) -> dict[str, float]:
        asked.append(genome)
        return {"quality": float("nan")} if len(asked) % 2 else landscape.fitness(genome)

    asked: list[Genome] = []
    with pytest.raises(EvaluationFailed, match="3 of 5 evaluations failed"):
        search(study_of(random_sampler(landscape)), landscape, 20, fitness=fitness)
    asked.clear()
    report = search_loop(
        study_of(random_sampler(landscape)),
        landscape.space,
        SerialPool(fitness),
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=20,
        most_failed_share=0.6,
    )
    assert (report.failed, report.complete) == (20, 20)


def test_the_policy_learns_through_the_loop(landscape: Landscape) -> None:
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
    )
    study = study_of(sampler)
    pool = ShuffledPool(landscape.fitness)
    search_loop(
        study,
        landscape.space,
        pool,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=40,
    )
    assert float(sampler.mutator.net.slopes.detach().abs().max()) > 0
    assert len({trial.user_attrs[GENOME_ATTR] for trial in study.trials}) == 40


def test_a_proposal_over_the_budget_is_told_as_a_constraint(landscape: Landscape) -> None:
    study = study_of(optuna.samplers.RandomSampler(seed=0))
    assert search(study, landscape, 5).rejected_infeasible > 0
    for trial in study.trials:
        if trial.state == TrialState.COMPLETE:
            assert trial.constraints == {}
        elif "reason" in trial.user_attrs:
            assert trial.constraints[OVER_BUDGET] > 0


def test_a_full_disk_loses_nothing_and_the_same_call_goes_on(landscape: Landscape, tmp_path: Path) -> None:
    path, told = tmp_path / "study.db", []

    def keep(one: Evaluated) -> None:
        told.append(one.number)

    def opened() -> optuna.Study:
        return open_study(path, name="search", sampler=random_sampler(landscape))

    search(opened(), landscape, 5, on_result=keep)
    with (
        room_for(path, 100_000),
        pytest.raises(StudyFailed, match=r"the study cannot be written: .*large.*; .*the same command goes on"),
    ):
        search(opened(), landscape, 10_000, on_result=keep)
    assert 5 < len(told) < 10_000
    study = opened()
    complete = [trial.number for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert set(told) <= set(complete)
    report = search(study, landscape, len(complete) + 5, on_result=keep)
    assert report.complete == len(complete) + 5
    genomes = [trial.user_attrs[GENOME_ATTR] for trial in study.trials if trial.state == TrialState.COMPLETE]
    assert len(genomes) == len(set(genomes))


def test_an_sqlite_study_that_a_reader_locks_for_a_while_only_delays_the_search(
    landscape: Landscape, tmp_path: Path
) -> None:
    path = tmp_path / "study.sqlite"
    study = open_study(f"sqlite:///{path}", name="search", sampler=random_sampler(landscape))
    locked = threading.Event()

    def lock() -> None:
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN EXCLUSIVE")
        locked.set()
        time.sleep(1.5)
        reader.execute("ROLLBACK")
        reader.close()

    thread = threading.Thread(target=lock)
    started = time.monotonic()
    thread.start()
    locked.wait()
    assert search(study, landscape, 3).complete == 3
    assert time.monotonic() - started > 1.4
    thread.join()


def test_each_genome_has_the_front_s_quality_at_its_latency_as_its_bar(landscape: Landscape) -> None:
    study, pool = study_of(random_sampler(landscape)), ShuffledPool(landscape.fitness)
    for evaluations in (8, 12):  # a bar knows what an earlier call has evaluated
        report = search_loop(
            study, landscape.space, pool, predict_many=landscape.predict_many, budget_us=landscape.budget_us,
            evaluations=evaluations, early_exit=True,
        )  # fmt: skip
    assert report.ended_early == 0
    assert pool.bars[:3] == [None] * 3 and sum(bar is not None for bar in pool.bars) > 3
    done = {trial.user_attrs[GENOME_ATTR]: trial.values for trial in study.trials}
    for trial, bar in zip(study.trials, pool.bars, strict=True):
        below = {quality for quality, latency_us in done.values() if latency_us <= trial.values[1]}
        assert bar is None or bar in below


def test_evaluations_that_ended_early_are_counted(landscape: Landscape) -> None:
    def fitness(genome: Genome, bar: float | None = None) -> dict[str, float]:
        quality = landscape.quality(genome)
        return {"quality": quality, "estimate_error": 0.0 if bar is None or quality > bar else 0.01}

    report = search_loop(
        study_of(random_sampler(landscape)), landscape.space, SerialPool(fitness),
        predict_many=landscape.predict_many, budget_us=landscape.budget_us, evaluations=20, early_exit=True,
    )  # fmt: skip
    assert 0 < report.ended_early < 20
