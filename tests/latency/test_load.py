from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from sparsefront.latency.load import serve
from sparsefront.latency.runtime import Feeds, Logits, feeds_of_length


class Sleeper:
    """Answers after a fixed time, and counts who is in it."""

    inside, most = 0, 0
    lock = threading.Lock()

    def run(self, feeds: Feeds) -> Logits:
        with Sleeper.lock:
            Sleeper.inside += 1
            Sleeper.most = max(Sleeper.most, Sleeper.inside)
        time.sleep(0.004)
        with Sleeper.lock:
            Sleeper.inside -= 1
        return np.zeros(len(feeds["input_ids"]), np.float32)


def test_clients_call_side_by_side_and_rows_are_counted() -> None:
    feeds = feeds_of_length(3, batch=5)
    alone = serve([Sleeper()], feeds, seconds=0.2, warmup=1)
    together = serve([Sleeper() for _ in range(3)], feeds, seconds=0.2, warmup=1)
    assert (alone.clients, together.clients, Sleeper.most) == (1, 3, 3)
    assert alone.latency.median_us >= 4000 and alone.rows_per_second <= 5 / 0.004
    assert together.rows_per_second > 1.5 * alone.rows_per_second
    assert together.latency.runs > alone.latency.runs > 1


def test_a_client_that_fails_stops_the_others() -> None:
    class Broken(Sleeper):
        def run(self, feeds: Feeds) -> Logits:
            raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        serve([Sleeper(), Broken()], feeds_of_length(3), seconds=30.0)


def test_wrong_requests_are_refused() -> None:
    for sessions, seconds in (([], 1.0), ([Sleeper()], 0.0)):
        with pytest.raises(ValueError, match="a session and a positive time"):
            serve(sessions, feeds_of_length(3), seconds=seconds)
