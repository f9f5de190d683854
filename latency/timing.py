"""Timing sessions against each other, round by round, so that a slow minute hits all of them."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Session

Clock = Literal["wall", "cpu"]
Percentile = Literal[50, 95, 99]


@dataclass(frozen=True)
class LatencyStats:
    """Distribution of single calls, in microseconds."""

    median_us: float
    p95_us: float
    p99_us: float
    runs: int

    def at(self, percentile: Percentile) -> float:
        """One of the percentiles that are kept."""
        return {50: self.median_us, 95: self.p95_us, 99: self.p99_us}[percentile]

    @classmethod
    def of(cls, microseconds: npt.ArrayLike) -> LatencyStats:
        """Raises ``ValueError`` when there is nothing to summarise."""
        values = np.asarray(microseconds, dtype=np.float64)
        if not values.size:
            raise ValueError("microseconds must hold at least one run, got none")
        median, p95, p99 = np.percentile(values, [50, 95, 99])
        return cls(median_us=float(median), p95_us=float(p95), p99_us=float(p99), runs=int(values.size))


def time_interleaved(
    sessions: Sequence[Session],
    feeds: Sequence[Feeds],
    *,
    rounds: int,
    warmup: int = 1,
    repeats: int | Sequence[int] = 1,
    clock: Clock = "wall",
    tick: Callable[[], None] | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Microseconds of every timed call, one array of ``rounds * repeats`` per session.

    Args:
        sessions: what to time, in turn; the same session may appear with several feeds.
        feeds: one per session.
        rounds: how often all sessions are visited.
        warmup: calls per visit that are not timed, because the visit before has filled the caches with other weights.
        repeats: timed calls per visit, one number or one per session.
        clock: ``wall``, or ``cpu`` for the calling thread's own time: what other processes take away is not counted,
            so it is right for one-thread sessions only.
        tick: called after every visit.
    """
    if rounds < 1 or warmup < 0:
        raise ValueError(f"rounds must be at least 1 and warmup at least 0, got {rounds} and {warmup}")
    per_visit = [repeats] * len(sessions) if isinstance(repeats, int) else list(repeats)
    now = time.perf_counter_ns if clock == "wall" else time.thread_time_ns
    taken: list[list[int]] = [[] for _ in sessions]
    with _no_garbage_collection():
        for _ in range(rounds):
            for session, fed, times, calls in zip(sessions, feeds, taken, per_visit, strict=True):
                for _ in range(warmup):
                    session.run(fed)
                for _ in range(calls):
                    start = now()
                    session.run(fed)
                    times.append(now() - start)
                if tick is not None:
                    tick()
    return [np.array(times, np.float64) / 1000 for times in taken]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
