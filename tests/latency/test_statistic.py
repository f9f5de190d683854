from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.latency.synthetic import LAYERS, LENGTH, synthetic_table

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.refit import refitted
from sparsefront.latency.runtime import Feeds, Logits
from sparsefront.latency.statistic import GROUPS_OF_A_MEAN, AtLength, Statistic
from sparsefront.latency.timing import TIMED_CALLS, LatencyStats, Percentile
from sparsefront.spaces import Genome, InputError

LENGTHS = np.array([3] * 10 + [5] * 70 + [9] * 14 + [40] * 6)


@pytest.mark.parametrize(("at", "length"), [("max", 12), ("p50", 5), ("p95", 12)])
def test_one_length_of_the_traffic(at: AtLength, length: int) -> None:
    found = Statistic.of_traffic(LENGTHS, at=at, longest=12)
    assert (found.lengths, found.weights) == ((length,), (1.0,))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(1, 40))
def test_a_mean_stands_for_all_rows_cut_to_the_longest(lengths: list[int], longest: int) -> None:
    found = Statistic.of_traffic(lengths, at="mean", longest=longest)
    cut = np.minimum(lengths, longest)
    assert sum(found.weights) == pytest.approx(1)
    assert len(found.lengths) <= GROUPS_OF_A_MEAN
    assert cut.min() <= min(found.lengths) and max(found.lengths) <= cut.max()
    assert np.dot(found.weights, found.lengths) == pytest.approx(cut.mean(), abs=0.5)


def test_a_mean_weighs_predictions_of_every_length() -> None:
    table = synthetic_table()
    genomes = [Genome.uniform(LAYERS, heads=1, ffn_units=4), Genome.uniform(LAYERS, heads=2, ffn_units=8)]
    found = Statistic((5, 12), (0.25, 0.75)).predict_many(table, genomes)
    each = [table.predict_many(genomes, length_tokens=length) for length in (5, 12)]
    np.testing.assert_allclose(found, 0.25 * each[0] + 0.75 * each[1])
    assert Statistic.of_length(LENGTH).predict_many(table, genomes) == pytest.approx(table.predict_many(genomes))


def test_refitting_in_a_statistic_keeps_its_own_microseconds() -> None:
    table = synthetic_table()
    statistic = Statistic((5, 12), (0.5, 0.5), percentile=95)
    genomes = [Genome.uniform(LAYERS, heads=1 + k % 3, ffn_units=2 * k) for k in range(6)]
    asked = 1.4 * statistic.predict_many(table, genomes)
    again = statistic.predict_many(refitted(table, genomes, asked, statistic=statistic), genomes)
    np.testing.assert_allclose(again, asked, rtol=1e-6)


def test_summaries_average_percentiles_by_weight() -> None:
    statistic = Statistic((4, 8), (0.25, 0.75), percentile=99)
    calls = [np.arange(1.0, 102), np.arange(1.0, 102) * 10]
    found = statistic.summary(calls)
    assert found == LatencyStats(0.25 * 51 + 0.75 * 510, 0.25 * 96 + 0.75 * 960, 0.25 * 100 + 0.75 * 1000, 202)
    assert statistic.value_us(found) == found.p99_us


class Sleeper:
    """Remembers the shapes it was called with."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def run(self, feeds: Feeds) -> Logits:
        self.shapes.append(feeds["input_ids"].shape)
        return np.zeros(len(feeds["input_ids"]), np.float32)


@pytest.mark.parametrize(("percentile", "runs"), [(50, 20 * TIMED_CALLS), (95, 200 * TIMED_CALLS)])
def test_every_length_is_called_in_batches_and_a_tail_more_often(percentile: Percentile, runs: int) -> None:
    session = Sleeper()
    statistic = Statistic((4, 9), (0.5, 0.5), percentile, batch=3)
    stats = measure_sessions([session], statistic=statistic, visits=20)[0]
    assert set(session.shapes) == {(3, 4), (3, 9)}
    assert stats.runs == runs


def test_json_round_trip() -> None:
    statistic = Statistic((4, 8), (0.25, 0.75), 99, 2)
    assert Statistic.from_json(json.loads(json.dumps(statistic.to_json()))) == statistic
    with pytest.raises(ValueError, match=r"not a statistic: .*4"):
        Statistic.from_json({"lengths": 4})


@pytest.mark.parametrize(
    ("lengths", "weights", "percentile", "batch"),
    [((), (), 50, 1), ((4,), (0.5,), 50, 1), ((0,), (1.0,), 50, 1), ((4,), (1.0,), 90, 1), ((4,), (1.0,), 50, 0)],
)
def test_what_is_no_statistic_is_refused(
    lengths: tuple[int, ...], weights: tuple[float, ...], percentile: Any, batch: int
) -> None:
    with pytest.raises(ValueError, match="must be"):
        Statistic(lengths, weights, percentile, batch)


def test_an_unknown_length_of_the_traffic_is_refused() -> None:
    with pytest.raises(InputError, match="at-length must be one of max, p50, p95, mean, got 'p10'"):
        Statistic.of_traffic(LENGTHS, at="p10", longest=12)  # type: ignore[arg-type]
