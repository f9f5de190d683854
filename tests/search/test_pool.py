from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from tests.search.builders import (
    build_counting,
    build_dying,
    build_dying_of,
    build_importing,
    build_killed_once,
    build_with_bar,
)
from tests.search.landscape import Landscape

from sparsefront.search.loop import search_loop
from sparsefront.search.pool import RayPool, SerialPool, evaluate_all
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome, InputError, RunFailed

GENOMES = [Genome.uniform(2, heads=heads, ffn_units=8) for heads in range(5)]


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    """One Ray for all tests here, with two CPUs whatever the machine has."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


def test_serial_pool_evaluates_and_returns_errors() -> None:
    pool = SerialPool(build_counting({"base": 1.0, "raise_at": 3}))
    pool.submit(GENOMES[2])
    with pytest.raises(ValueError, match="holds 1 genome"):
        pool.submit(GENOMES[1])
    finished = pool.next_done()
    assert finished.genome == GENOMES[2] and isinstance(finished.outcome, dict)
    assert finished.outcome["quality"] == 3.0
    pool.submit(GENOMES[3])
    assert str(pool.next_done().outcome) == "no such layer"
    with pytest.raises(ValueError, match="under way"):
        pool.next_done()


def test_a_bar_reaches_the_fitness_of_a_serial_pool_where_there_is_one() -> None:
    pool, plain = SerialPool(build_with_bar(None)), SerialPool(build_counting({"base": 1.0}))
    outcomes = []
    for bar in (None, 0.0, 0.75):
        pool.submit(GENOMES[1], bar)
        outcomes.append(pool.next_done().outcome)
    assert outcomes == [{"quality": 1.0}, {"quality": 0.0}, {"quality": 0.75}]
    plain.submit(GENOMES[1])
    assert isinstance(plain.next_done().outcome, dict)
    plain.submit(GENOMES[1], 0.5)
    assert isinstance(plain.next_done().outcome, TypeError)  # it has no way to heed it


def test_a_bar_reaches_the_fitness_of_an_actor() -> None:
    bars = {GENOMES[1]: None, GENOMES[2]: 0.0, GENOMES[3]: 0.75}
    found = {}
    with RayPool(build_with_bar, None, workers=1) as pool:
        for genome, bar in bars.items():
            pool.submit(genome, bar=bar)
            found[genome] = pool.next_done().outcome
    assert list(found.values()) == [{"quality": 1.0}, {"quality": 0.0}, {"quality": 0.75}]


def test_evaluating_all_keeps_the_order_and_names_the_genome_that_fails() -> None:
    seen: list[tuple[int, int]] = []
    with RayPool(build_counting, {"base": 1.0, "raise_at": 4}, workers=2) as pool:
        found = evaluate_all(pool, GENOMES[3::-1], progress=lambda *done: seen.append(done))
        assert found == [4.0, 3.0, 2.0, 1.0] and seen[-1] == (4, 4)
        with pytest.raises(RunFailed, match=rf"genome {GENOMES[4].key()} could not be evaluated: .*no such layer"):
            evaluate_all(pool, GENOMES[4:], progress=lambda *done: None)


def test_serial_pool_lets_an_interrupt_through() -> None:
    def interrupted(genome: Genome) -> dict[str, float]:
        raise KeyboardInterrupt

    pool = SerialPool(interrupted)
    pool.submit(GENOMES[0])
    with pytest.raises(KeyboardInterrupt):
        pool.next_done()


def test_ray_pool_evaluates_everything_with_its_own_threads() -> None:
    with RayPool(build_counting, {"base": 1.0, "raise_at": 3}, workers=2) as pool:
        found = {}
        pool.submit(GENOMES[0])
        pool.submit(GENOMES[1])
        with pytest.raises(ValueError, match="all actors are busy"):
            pool.submit(GENOMES[2])
        for genome in GENOMES[2:]:
            finished = pool.next_done()
            found[finished.genome] = finished.outcome
            pool.submit(genome)
        for _ in range(2):
            finished = pool.next_done()
            found[finished.genome] = finished.outcome
    assert "no such layer" in str(found.pop(GENOMES[3]))
    assert {genome.layers[0].heads: outcome for genome, outcome in found.items()} == {
        heads: {"quality": 1.0 + heads, "threads": 1} for heads in (0, 1, 2, 4)
    }


def test_workers_have_the_priority_of_who_starts_them() -> None:
    asked = "print(ray.get(ray.remote(lambda: os.nice(0)).remote()), os.nice(0))"
    script = f"import os, ray; from sparsefront.search.pool import start_ray; start_ray(1, None); {asked}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    command = ["nice", "-n", "3", sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=True)
    worker, driver = (int(word) for word in done.stdout.split())
    assert worker == driver >= 3


def test_threads_per_worker() -> None:
    with RayPool(build_counting, {"base": 0.0}, workers=1, threads_per_worker=2) as pool:
        pool.submit(GENOMES[1])
        outcome = pool.next_done().outcome
    assert isinstance(outcome, dict) and outcome["threads"] == 2


def test_more_cpus_than_there_are_fails_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(InputError, match=r"6 CPUs asked for \(3 workers x 2\), the cluster has 2"):
        RayPool(build_counting, {}, workers=3, threads_per_worker=2)
    assert time.monotonic() - start < 2
    with pytest.raises(InputError, match="at least 0"):
        RayPool(build_counting, {}, workers=-1)


def test_as_many_workers_as_there_are_cpus_and_fractions_of_cpus() -> None:
    with RayPool(build_counting, {"base": 0.0}, workers=0) as pool:
        assert pool.size == 2
    with RayPool(build_counting, {"base": 0.0}, workers=0, cpus_per_worker=0.5) as pool:
        assert pool.size == 4
        assert evaluate_all(pool, GENOMES, progress=lambda *done: None) == [0.0, 1.0, 2.0, 3.0, 4.0]
    with pytest.raises(InputError, match="CPUs per worker more than 0"):
        RayPool(build_counting, {}, workers=1, cpus_per_worker=0)


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("ray://127.0.0.1:1", "no Ray cluster answers"),
        ("nowhere", "expected HOST:PORT"),
        ("host:", "expected HOST:PORT"),
    ],
)
def test_an_address_where_nothing_answers_is_said_at_once(
    address: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)  # as in a process that has not started Ray yet
    start = time.monotonic()
    with pytest.raises(InputError, match=line):
        RayPool(build_counting, {}, workers=1, address=address)
    assert time.monotonic() - start < 12


def test_a_worker_without_the_package_is_said() -> None:
    with pytest.raises(InputError, match="cannot import 'no_such_module': install the same sparsefront there"):
        RayPool(build_importing, "no_such_module", workers=1)


def test_more_cpus_than_are_free_fails_with_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.search.pool._RELEASE_SECONDS", 0.5)
    line = "only 0 of the cluster's 2 are free"
    with RayPool(build_counting, {"base": 0.0}, workers=2), pytest.raises(InputError, match=line):
        RayPool(build_counting, {}, workers=1)


def test_a_failing_build_is_raised_at_the_start() -> None:
    with pytest.raises(ray.exceptions.RayError, match="TypeError"):
        RayPool(build_dying, 5, workers=1)


def test_an_actor_that_is_killed_while_it_starts_is_started_again(tmp_path: Path) -> None:
    with RayPool(build_killed_once, str(tmp_path), workers=2) as pool:
        assert len(set(pool.pids)) == pool.size == 2
        pool.submit(GENOMES[0])
        assert isinstance(pool.next_done().outcome, dict)


def test_a_killed_actor_is_replaced_and_its_genome_reported() -> None:
    with RayPool(build_counting, {"base": 0.0}, workers=2) as pool:
        before = set(pool.pids)
        os.kill(min(before), 9)
        outcomes = {}
        for genome in GENOMES[:2]:
            pool.submit(genome)
        for _ in range(2):
            finished = pool.next_done()
            outcomes[finished.genome] = finished.outcome
        assert sum(isinstance(outcome, ray.exceptions.RayActorError) for outcome in outcomes.values()) == 1
        assert len(set(pool.pids)) == 2
        pool.submit(GENOMES[4])
        assert isinstance(pool.next_done().outcome, dict)


def test_what_waits_behind_a_genome_that_kills_its_actor_is_evaluated() -> None:
    with RayPool(build_dying_of, 0, workers=4, cpus_per_worker=0.5) as pool:
        assert (pool.size, pool.capacity) == (4, 6)
        genomes = [*GENOMES, Genome.uniform(2, heads=1, ffn_units=4)]
        for genome in genomes:  # the fifth waits behind the first, which kills
            pool.submit(genome)
        with pytest.raises(ValueError, match="6 genomes at a time"):
            pool.submit(GENOMES[0])
        outcomes = {finished.genome: finished.outcome for finished in (pool.next_done() for _ in genomes)}
        assert pool.size == 4
    assert isinstance(outcomes.pop(GENOMES[0]), ray.exceptions.RayActorError)
    assert outcomes == {genome: {"quality": 1.0} for genome in genomes[1:]}


def test_a_search_loses_nothing_when_an_actor_dies(tmp_path: Path) -> None:
    from sparsefront.search.baselines import RandomSampler

    landscape = Landscape()
    marks = tmp_path / "marks"
    marks.mkdir()
    sampler = RandomSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
    )
    study = open_study(tmp_path / "study.db", name="search", sampler=sampler)
    with RayPool(build_dying, (landscape, str(marks)), workers=2) as pool:
        report = search_loop(
            study,
            landscape.space,
            pool,
            predict_many=landscape.predict_many,
            budget_us=landscape.budget_us,
            evaluations=20,
        )
    assert (marks / "died").exists()
    assert report.failed_attempts >= 1
    assert report.evaluations == 20
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * 20
    for trial in study.trials:
        genome = landscape.space.from_params(trial.params)
        assert trial.values[0] == pytest.approx(landscape.quality(genome))
