"""Load: how an export serves when one or several clients call it at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsefront.latency.runtime import Feeds, Session, feeds_for
from sparsefront.latency.timing import LatencyStats


@dataclass(frozen=True)
class Load:
    """What clients that call without a pause got.

    Attributes:
        clients: callers at a time, each with a session of its own.
        latency: wall-clock time of single calls, over all clients.
        rows_per_second: of all clients together.
    """

    clients: int
    latency: LatencyStats
    rows_per_second: float


def serve(sessions: Sequence[Session], feeds: Feeds, *, seconds: float, warmup: int = 20) -> Load:
    """One client per session, each in a thread of its own, for so many seconds.

    Serving runtimes release Python's lock while they compute, so threads are what a server would use. All clients start
    together after their warm-up calls; a call that is under way when the time is over still counts.
    """
    if not sessions or not seconds > 0:
        raise ValueError(f"serve needs a session and a positive time, got {len(sessions)} and {seconds}")
    taken: list[list[int]] = [[] for _ in sessions]
    errors: list[BaseException] = []
    gate = threading.Barrier(len(sessions))

    def client(session: Session, times: list[int]) -> None:
        try:
            fed = feeds_for(session, feeds)
            for _ in range(warmup):
                session.run(fed)
            gate.wait()
            until = time.perf_counter_ns() + int(seconds * 1e9)
            before = time.perf_counter_ns()
            while before < until:
                session.run(fed)
                after = time.perf_counter_ns()
                times.append(after - before)
                before = after
        except BaseException as error:  # told to the caller below; the others must not wait for this one
            errors.append(error)
            gate.abort()

    threads = [threading.Thread(target=client, args=pair) for pair in zip(sessions, taken, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise next((error for error in errors if not isinstance(error, threading.BrokenBarrierError)), errors[0])
    microseconds = np.concatenate([np.array(times) for times in taken]) / 1000
    rows = len(next(iter(feeds.values())))
    rate = sum(rows * len(times) / (sum(times) / 1e9) for times in taken)
    return Load(len(sessions), LatencyStats.of(microseconds), rate)
