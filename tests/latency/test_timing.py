from __future__ import annotations

import gc

import numpy as np
import pytest

from sparsefront.latency.runtime import Feeds, Logits
from sparsefront.latency.timing import LEAST_VISITS, TIMED_CALLS, WARM_CALLS, LatencyStats, time_interleaved


class Recorder:
    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def run(self, feeds: Feeds) -> Logits:
        assert not gc.isenabled()
        self.calls.append(self.name)
        return np.zeros(1, np.float32)


def test_sessions_take_turns_with_untimed_calls_first() -> None:
    calls: list[str] = []
    first, second = Recorder("a", calls), Recorder("b", calls)
    times = time_interleaved([first, second], [{}, {}], visits=2)
    each = WARM_CALLS + TIMED_CALLS
    assert "".join(calls) == 2 * ("a" * each + "b" * each)
    assert [each.shape for each in times] == [(2 * TIMED_CALLS,)] * 2
    assert all((each >= 0).all() for each in times)
    assert gc.isenabled()


def test_visits_end_with_the_time_but_not_before_the_least_of_them() -> None:
    session = Recorder("a", [])
    for seconds, visits, made in (
        (0.0, LEAST_VISITS + 5, LEAST_VISITS),
        (0.0, 2, 2),
        (60.0, LEAST_VISITS + 5, LEAST_VISITS + 5),
    ):
        (times,) = time_interleaved([session], [{}], visits=visits, seconds=seconds)
        assert times.shape == (made * TIMED_CALLS,) and (times > 0).all()


def test_arguments_are_checked() -> None:
    with pytest.raises(ValueError, match="visits"):
        time_interleaved([], [], visits=0)
    with pytest.raises(ValueError, match="at least one run"):
        LatencyStats.of([])


def test_stats() -> None:
    stats = LatencyStats.of(np.arange(101))
    assert (stats.median_us, stats.p95_us, stats.p99_us, stats.runs) == (50, 95, 99, 101)
