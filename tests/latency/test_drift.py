from __future__ import annotations

import time

import numpy as np
import pytest

from sparsefront.latency.drift import VISITS, Reference, measure_session
from sparsefront.latency.runtime import Feeds, Logits
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.timing import TIMED_CALLS, WARM_CALLS

CALLS = 2 * (WARM_CALLS + TIMED_CALLS)  # of a visit to a model and its reference


class Machine:
    """Takes ``slowness`` times as long for everything; quiet again after a number of calls."""

    def __init__(self) -> None:
        self.slowness = 1.0
        self.calls_until_quiet = 10**9

    def work(self, microseconds: float) -> None:
        self.calls_until_quiet -= 1
        if self.calls_until_quiet < 0:
            self.slowness = 1.0
        end = time.perf_counter_ns() + 1000 * microseconds * self.slowness
        while time.perf_counter_ns() < end:
            pass


class Model:
    def __init__(self, machine: Machine, microseconds: float) -> None:
        self.machine, self.microseconds = machine, microseconds

    def run(self, feeds: Feeds) -> Logits:
        self.machine.work(self.microseconds)
        return np.zeros(1, np.float32)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def reference(machine: Machine) -> Reference:
    return Reference(Model(machine, 300), statistic=Statistic.of_length(8), usual_us=300)


def test_a_slow_minute_is_told_from_a_slow_model(machine: Machine, reference: Reference) -> None:
    machine.slowness = 2.0
    reading = reference.read(Model(machine, 500), visits=10)
    assert reading.stats.median_us == pytest.approx(1000, rel=0.2)
    assert reading.reference_us == pytest.approx(600, rel=0.2)
    assert reading.as_usual(reference.usual_us) == pytest.approx(500, rel=0.2)


def test_what_is_over_the_limit_is_taken_again_while_the_machine_is_slow(
    machine: Machine, reference: Reference
) -> None:
    machine.slowness = 3.0
    machine.calls_until_quiet = CALLS * VISITS
    assert reference.read_within(Model(machine, 200), 300).value_us == pytest.approx(200, rel=0.2)


def test_what_is_within_the_limit_or_over_it_on_a_quiet_machine_is_taken_once(
    machine: Machine, reference: Reference
) -> None:
    machine.calls_until_quiet = 0
    reference.read_within(Model(machine, 200), 100, visits=10)
    once = -machine.calls_until_quiet
    assert once == CALLS * 10
    machine.slowness, machine.calls_until_quiet = 3.0, 10 * once
    reference.read_within(Model(machine, 200), 1000, visits=10)
    assert machine.calls_until_quiet == 9 * once


def test_what_stays_slow_is_reported_as_it_is_once_patience_is_out(machine: Machine, reference: Reference) -> None:
    machine.slowness = 3.0
    reference.patience_seconds = 0.6
    assert reference.read_within(Model(machine, 200), 300, visits=10).value_us == pytest.approx(600, rel=0.2)
    assert reference.patience_seconds == 0
    calls = machine.calls_until_quiet = 10**6
    reference.read_within(Model(machine, 200), 300, visits=10)
    assert calls - machine.calls_until_quiet == CALLS * 10


def test_a_percentile_gets_more_calls_and_lengths_share_them(machine: Machine) -> None:
    median = measure_session(Model(machine, 50), statistic=Statistic.of_length(8), visits=12)
    high = measure_session(Model(machine, 50), statistic=Statistic.of_length(8, percentile=95), visits=12)
    traffic = measure_session(Model(machine, 50), statistic=Statistic((4, 8), (0.5, 0.5)), visits=12)
    assert (median.runs, high.runs, traffic.runs) == (12 * TIMED_CALLS, 120 * TIMED_CALLS, 12 * TIMED_CALLS)
