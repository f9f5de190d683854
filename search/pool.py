"""Evaluation pools: where genomes are turned into qualities, in this process or on Ray actors.

The one module of the search that knows Ray. Ray Tune costs hundreds of milliseconds per evaluation; asking persistent
actors costs one or two, which is why fitness runs here.
"""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, cast

import ray
import torch

from sparsefront.spaces import Genome, InputError, RunFailed

Fitness = Callable[[Genome], dict[str, float]]
"""Genome -> metrics; ``"quality"`` must be among them, higher is better."""


class FitnessWithBar(Protocol):
    """A fitness that may spend less on a genome that misses the bar; what a pool needs that is given bars."""

    def __call__(self, genome: Genome, bar: float | None = None) -> dict[str, float]:
        """Metrics; those of a genome that misses the bar may be estimates."""


_RELEASE_SECONDS = 5.0
_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 5.0
"""Between looks at whether every actor still has a machine, while none is done."""
_STARTS = 4
"""Times that actors are started before one that is killed every time is an error."""


class Finished(NamedTuple):
    """One evaluation that has ended: metrics or the exception that ended it, and the seconds it computed."""

    genome: Genome
    outcome: dict[str, float] | Exception
    seconds: float


class EvaluationPool(Protocol):
    """Evaluates up to ``size`` genomes at a time."""

    @property
    def size(self) -> int:
        """Genomes that are evaluated at the same time."""

    @property
    def capacity(self) -> int:
        """Genomes that can be in flight together: those beyond ``size`` wait at a worker that is busy."""

    def submit(self, genome: Genome, bar: float | None = None) -> None:
        """Start an evaluation; at most ``capacity`` may be under way.

        Args:
            genome: what to evaluate.
            bar: quality below which a genome is not worth its full evaluation. Only a :class:`FitnessWithBar` can be
                given one; None asks any fitness for the full evaluation.
        """

    def next_done(self) -> Finished:
        """Wait for an evaluation to end. Failures are returned, not raised."""


class SerialPool:
    """Evaluates in this process, one genome at a time."""

    def __init__(self, fitness: Fitness) -> None:
        self._fitness = fitness
        self._waiting: deque[tuple[Genome, float | None]] = deque()

    @property
    def size(self) -> int:
        return 1

    @property
    def capacity(self) -> int:
        return 1

    def submit(self, genome: Genome, bar: float | None = None) -> None:
        if self._waiting:
            raise ValueError(f"the pool holds 1 genome at a time, and {self._waiting[0][0]} is under way")
        self._waiting.append((genome, bar))

    def next_done(self) -> Finished:
        if not self._waiting:
            raise ValueError("no evaluation is under way")
        genome, bar = self._waiting.popleft()
        start = time.perf_counter()
        try:
            outcome: dict[str, float] | Exception = _evaluate(self._fitness, genome, bar)
        except Exception as error:
            outcome = error
        return Finished(genome, outcome, time.perf_counter() - start)


def evaluate_all(
    pool: EvaluationPool, genomes: Sequence[Genome], *, progress: Callable[[int, int], None]
) -> list[float]:
    """Quality of every genome, in their order; the first evaluation that fails raises.

    Args:
        pool: with nothing under way.
        genomes: all different.
        progress: called with (evaluated, genomes in all).
    """
    waiting, found = deque(genomes), dict[Genome, float]()
    under_way = 0
    while len(found) < len(genomes):
        while waiting and under_way < pool.capacity:
            pool.submit(waiting.popleft())
            under_way += 1
        done = pool.next_done()
        under_way -= 1
        if isinstance(done.outcome, Exception):
            line = str(done.outcome).strip().splitlines()[-1]  # Ray puts the actor's traceback before it
            raise RunFailed(f"genome {done.genome.key()} could not be evaluated: {line}") from done.outcome
        found[done.genome] = done.outcome["quality"]
        progress(len(found), len(genomes))
    return [found[genome] for genome in genomes]


def _evaluate(fitness: Fitness, genome: Genome, bar: float | None) -> dict[str, float]:
    """The bar is passed on only where there is one, so that a fitness without bars need not know of them."""
    return fitness(genome) if bar is None else cast(FitnessWithBar, fitness)(genome, bar)


class _Worker:
    """What runs in an actor."""

    def __init__(self, build: Callable[[Any], Fitness], payload: Any, threads: int) -> None:
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS once per process, whatever an actor is given
        self._fitness = build(payload)

    def ready(self) -> int:
        return os.getpid()

    def evaluate(self, genome: Genome, bar: float | None) -> tuple[dict[str, float], float]:
        start = time.perf_counter()
        metrics = _evaluate(self._fitness, genome, bar)
        return metrics, time.perf_counter() - start


class _Task(NamedTuple):
    """A genome that an actor has been given, and when."""

    genome: Genome
    bar: float | None
    since: float


@dataclass(eq=False)
class _Seat:
    """An actor and what it has been given, by what Ray answers with: the first is evaluated, the others wait."""

    actor: Any
    tasks: dict[Any, _Task] = field(default_factory=dict)


class RayPool:
    """Persistent Ray actors, each with its own fitness.

    The payload (weights, rows) is put into the object store once; all actors of a machine read the same copy. An
    actor that dies is replaced, or given up where its machine is gone, and its genome is returned as failed; what has
    waited behind it goes to another. Use it as a context manager, or call :meth:`shutdown`.

    Many actors would often wait for a driver that is busy with the results of others. So two of every four are given
    their next genome before they have finished: those that have computed for the longest, likely the next to finish.

    Args:
        build: payload -> fitness; runs once in every actor. Must be picklable by Ray.
        payload: whatever the fitness needs.
        workers: actors; 0: as many as there are CPUs for.
        threads_per_worker: torch threads of each.
        cpus_per_worker: CPUs that Ray reserves for each, also fractions; by default as many as its threads.
        address: a running cluster's; None starts Ray on this machine, or uses the one this process has started.

    Raises:
        InputError: more CPUs are asked for than there are, or than are free; no cluster answers at the address; a
            machine of the cluster cannot import what it should run.
    """

    def __init__(
        self,
        build: Callable[[Any], Fitness],
        payload: Any,
        *,
        workers: int,
        threads_per_worker: int = 1,
        cpus_per_worker: float | None = None,
        address: str | None = None,
    ) -> None:
        cpus = float(threads_per_worker) if cpus_per_worker is None else cpus_per_worker
        if workers < 0 or threads_per_worker < 1 or not (math.isfinite(cpus) and cpus > 0):
            raise InputError(
                "workers must be at least 0, threads at least 1 and CPUs per worker more than 0, got "
                f"{workers}, {threads_per_worker} and {cpus:g}"
            )
        self._threads, self._cpus_per_worker = threads_per_worker, cpus
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            start_ray(workers * cpus, address)
        try:
            workers = workers or max(1, int(cpus_in(ray.cluster_resources) / cpus))
            _require_free(workers, cpus)
            self._build = build
            self._starting: list[tuple[Any, Any]] = []  # replacements, and what says that they are ready
            self._payload = ray.put(payload)
            self._seats = [_Seat(self._start_actor()) for _ in range(workers)]
            self._await_start()
        except BaseException as error:
            self.shutdown()
            if missing := missing_module(error):
                raise InputError(
                    f"a machine of the cluster cannot import {missing!r}: install the same sparsefront there"
                ) from error
            raise
        self._given: dict[Any, _Seat] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.shutdown()

    @property
    def size(self) -> int:
        return len(self._seats)

    @property
    def capacity(self) -> int:
        return self.size + self.size // 4 * 2

    @property
    def pids(self) -> list[int]:
        """Process id of every actor."""
        return list(ray.get([seat.actor.ready.remote() for seat in self._seats]))

    def submit(self, genome: Genome, bar: float | None = None) -> None:
        if len(self._given) >= self.capacity:
            raise ValueError(f"the pool holds {self.capacity} genomes at a time, and all actors are busy")
        self._give(genome, bar)

    def next_done(self) -> Finished:
        if not self._given:
            raise ValueError("no evaluation is under way")
        while not (done := ray.wait(list(self._given), num_returns=1, timeout=_LOOK_SECONDS)[0]):
            self._end_homeless()
        answer = done[0]
        seat = self._given[answer]
        try:
            outcome, seconds = ray.get(answer)
        except ray.exceptions.RayActorError as error:
            return self._died(seat, error)
        except ray.exceptions.RayTaskError as error:
            outcome, seconds = error, time.perf_counter() - seat.tasks[answer].since
        del self._given[answer]
        return Finished(seat.tasks.pop(answer).genome, outcome, seconds)

    def shutdown(self) -> None:
        """Stop the actors, and Ray if this pool has started it. May be called twice."""
        for seat in getattr(self, "_seats", []):
            ray.kill(seat.actor)
        self._seats = []
        if self._owns_ray:
            ray.shutdown()
            self._owns_ray = False

    def _give(self, genome: Genome, bar: float | None) -> None:
        """To an idle actor, else to the one that has been at its only genome for the longest time."""
        fewest = min(len(seat.tasks) for seat in self._seats)
        seats = [seat for seat in self._seats if len(seat.tasks) == fewest]
        seat = min(seats, key=lambda one: min((task.since for task in one.tasks.values()), default=0.0))
        answer = seat.actor.evaluate.remote(genome, bar)
        seat.tasks[answer] = _Task(genome, bar, time.perf_counter())
        self._given[answer] = seat

    def _died(self, seat: _Seat, error: Exception) -> Finished:
        """Of an actor's genomes the first one has failed with it; the others go to other actors."""
        failed, *waited = seat.tasks.values()
        for answer in seat.tasks:
            del self._given[answer]
        self._replace(seat)
        for task in waited:
            self._give(task.genome, task.bar)
        return Finished(failed.genome, error, time.perf_counter() - failed.since)

    def _replace(self, dead: _Seat) -> None:
        """Put a new actor in the place of one that died; none where its machine is gone, since Ray would let it wait
        for ever."""
        self._seats.remove(dead)
        ray.kill(dead.actor)
        if len(self._seats) >= int(cpus_in(ray.cluster_resources) / self._cpus_per_worker):
            if not self._seats:
                raise RunFailed("the cluster has no CPU left for a worker; the same command goes on when it has")
            return
        self._seats.append(_Seat(self._start_actor()))
        self._starting.append((self._seats[-1].actor, self._seats[-1].actor.ready.remote()))

    def _end_homeless(self) -> None:
        """End replacements that nothing is left for: the cluster counts the CPUs of a machine for a while after its
        end, and Ray lets an actor that was started meanwhile wait for ever. Their genomes are then returned as failed.
        """
        self._starting = [one for one in self._starting if not ray.wait([one[1]], timeout=0)[0]]
        beyond = len(self._seats) - int(cpus_in(ray.cluster_resources) / self._cpus_per_worker)
        for actor, _ in self._starting[: max(0, beyond)]:
            ray.kill(actor)

    def _await_start(self) -> None:
        """Wait until every actor has its fitness; one that is killed (not one that fails) starts again."""
        for left in reversed(range(_STARTS)):
            ready = [(seat, seat.actor.ready.remote()) for seat in self._seats]
            dead = []
            for seat, started in ready:
                try:
                    ray.get(started)
                except ray.exceptions.RayActorError as error:
                    if error.actor_init_failed or not left:
                        raise
                    dead.append(seat)
            if not dead:
                return
            for seat in dead:
                self._replace(seat)

    def _start_actor(self) -> Any:
        remote = ray.remote(_Worker).options(num_cpus=self._cpus_per_worker)
        return remote.remote(self._build, self._payload, self._threads)


def start_ray(wanted: float, address: str | None) -> None:
    if address is None:
        cpus = os.cpu_count() or 1
        if wanted > cpus:  # known before Ray spends seconds on starting
            raise InputError(f"{wanted:g} CPUs asked for (workers x CPUs per worker), this machine has {cpus}")
        # Ray's own 15 leaves its workers a thirtieth of a CPU that anything else wants too.
        os.environ.setdefault("RAY_worker_niceness", "0")
    else:
        _require_answer(address)
    variables = {}
    if "PYTHONPATH" in os.environ:  # a checkout runs from PYTHONPATH=src; actors start elsewhere
        parts = [os.path.abspath(part) for part in os.environ["PYTHONPATH"].split(os.pathsep) if part]
        variables["PYTHONPATH"] = os.pathsep.join(parts)
    try:
        ray.init(
            address=address,
            include_dashboard=False if address is None else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            runtime_env={"env_vars": variables} if variables else None,
        )
    except ConnectionError as error:
        raise InputError(f"no Ray cluster answers at {address!r}: {error}") from error


def _require_answer(address: str) -> None:
    """Ray tries a dead address for minutes; so knock first."""
    if address in ("auto", "local"):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise InputError(f"address {address!r}: expected HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {address!r}: {error}") from error


def missing_module(error: BaseException | None) -> str | None:
    """The module that an actor could not import, if that is why it did not start."""
    found = re.search(r"ModuleNotFoundError: No module named '([^']+)'", str(error))
    return found.group(1) if found else None


def _require_free(workers: int, cpus: float) -> None:
    """Ray lets an actor that does not fit wait for ever and says nothing; so ask first."""
    wanted = workers * cpus
    asked = f"{wanted:g} CPUs asked for ({workers} workers x {cpus:g})"
    there = cpus_in(ray.cluster_resources)
    if wanted > there:
        raise InputError(f"{asked}, the cluster has {there:g}")
    deadline = time.monotonic() + _RELEASE_SECONDS  # a pool that was just shut down frees its CPUs a moment later
    while (free := cpus_in(ray.available_resources)) < wanted:
        if time.monotonic() > deadline:
            raise InputError(f"{asked}, only {free:g} of the cluster's {there:g} are free")
        time.sleep(0.1)


def cpus_in(resources: Callable[[], dict[str, float]]) -> float:
    return float(resources().get("CPU", 0))
