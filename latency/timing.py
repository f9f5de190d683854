"""Timing sessions against each other, round by round, so that a slow minute hits all of them."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Session, feeds_for

Percentile = Literal[50, 95, 99]
WARM_CALLS = 5
"""Untimed calls of a visit: after them a call no longer knows what ran before."""
TIMED_CALLS = 4
"""Of a visit, one by one."""
LEAST_VISITS = 10
"""However long they take."""


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
    seconds: float = math.inf,
) -> list[npt.NDArray[np.float64]]:
    """Wall-clock microseconds of single calls, one array (visits * TIMED_CALLS,) per session, all sessions in turn.

    A visit calls the session :data:`WARM_CALLS` times untimed, then times single calls: warm ones, as a server in use
    makes them. The first calls after other models still fetch their weights; how long that takes repeats far worse.

    Args:
        sessions: what to time; the same session may appear with several feeds.
        feeds: one per session, of text; what features a model takes besides is filled in.
        visits: how often all sessions are visited.
        seconds: after which no visit begins, once there were :data:`LEAST_VISITS`.
    """
    if visits < 1:
        raise ValueError(f"visits must be at least 1, got {visits}")
    taken = np.zeros((len(sessions), visits, TIMED_CALLS), np.float64)
    feeds = [feeds_for(session, fed) for session, fed in zip(sessions, feeds, strict=True)]
    ends, made = time.perf_counter() + seconds, 0
    with _no_garbage_collection():
        while made < visits and (made < LEAST_VISITS or time.perf_counter() < ends):
            for index, (session, fed) in enumerate(zip(sessions, feeds, strict=True)):
                for _ in range(WARM_CALLS):
                    session.run(fed)
                for call in range(TIMED_CALLS):
                    start = time.perf_counter_ns()
                    session.run(fed)
                    taken[index, made, call] = time.perf_counter_ns() - start
            made += 1
    return list(taken[:, :made].reshape(len(sessions), -1) / 1000)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
