"""Timing sessions against each other, round by round, so that a slow minute hits all of them."""

from __future__ import annotations

import functools
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Session

Percentile = Literal[50, 95, 99]
EVICTED_BYTES = 64 * 2**20
"""More than the caches of one core and its share of the last level hold."""


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
    visits: int,
    tick: Callable[[], None] | None = None,
) -> list[npt.NDArray[np.float64]]:
    """Wall-clock microseconds of single calls, one array (visits,) per session, all sessions in turn.

    A visit reads :data:`EVICTED_BYTES` of other memory, calls the session once untimed and once timed: a call that
    comes after other work, which is what a server sees. In a tight loop a small model is faster, by as much
    as other tenants of the machine leave it of the last-level cache, which comes and goes.

    Args:
        sessions: what to time; the same session may appear with several feeds.
        feeds: one per session.
        visits: how often all sessions are visited.
        tick: called after every round of visits.
    """
    if visits < 1:
        raise ValueError(f"visits must be at least 1, got {visits}")
    other = _other_memory()
    taken = np.zeros((len(sessions), visits), np.float64)
    with _no_garbage_collection():
        for visit in range(visits):
            for index, (session, fed) in enumerate(zip(sessions, feeds, strict=True)):
                other.max()
                session.run(fed)
                start = time.perf_counter_ns()
                session.run(fed)
                taken[index, visit] = time.perf_counter_ns() - start
            if tick is not None:
                tick()
    return list(taken / 1000)


@functools.cache
def _other_memory() -> npt.NDArray[np.float32]:
    return np.ones(EVICTED_BYTES // 4, np.float32)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
