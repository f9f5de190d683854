"""Metrics: higher is better, and bad rows are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.models.metrics import METRICS, quality, standard_error

POSITIVE = np.array([False, True, False, True])
TARGET = POSITIVE.astype(np.float32)


def test_values_on_four_rows() -> None:
    logits = np.array([0.0, 1.0, 2.0, 3.0])
    assert quality("auc", POSITIVE, TARGET, logits) == pytest.approx(0.75)
    assert quality("average_precision", POSITIVE, TARGET, logits) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert quality("log_loss", POSITIVE, TARGET, np.zeros(4)) == pytest.approx(-np.log(2))


def test_log_loss_takes_soft_targets_and_large_logits() -> None:
    probability = 1 / (1 + np.exp(-1.5))
    expected = -(0.3 * np.log(probability) + 0.7 * np.log(1 - probability))
    assert quality("log_loss", np.array([False]), np.array([0.3]), np.array([1.5])) == pytest.approx(-expected)
    assert quality("log_loss", np.array([True]), np.array([1.0]), np.array([-1e4])) == pytest.approx(-1e4)


@given(st.lists(st.integers(-5, 5), min_size=4, max_size=4))
def test_ranking_metrics_ignore_monotone_changes(values: list[int]) -> None:
    logits = np.array(values, dtype=float)
    for metric in ("auc", "average_precision"):
        changed = quality(metric, POSITIVE, TARGET, np.exp(logits) * 3)
        assert quality(metric, POSITIVE, TARGET, logits) == pytest.approx(changed)


@pytest.mark.parametrize("metric", METRICS)
def test_standard_error_matches_the_spread_over_draws(metric: str) -> None:
    rng = np.random.default_rng(0)
    values, errors = [], []
    for _ in range(150):
        positive = rng.random(400) < 0.4
        logits = rng.normal(size=400) + positive
        values.append(quality(metric, positive, positive, logits))
        errors.append(standard_error(metric, positive, positive, logits))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)


@pytest.mark.parametrize(
    ("metric", "positive", "logits", "message"),
    [
        ("f1", [True, False], [0, 1], "metric must be one of auc, average_precision, log_loss, got 'f1'"),
        ("auc", [True, True], [0, 1], "metric 'auc' needs positive and negative rows, all 2 are positive"),
        ("auc", [False], [0], "metric 'auc' needs positive and negative rows, all 1 are negative"),
        ("auc", [True, False], [0, np.nan], "1 of 2 logits are not finite, the first at row 1"),
        ("log_loss", [], [], "metric 'log_loss' needs rows, got none"),
        ("auc", [True, False], [0], r"rows must agree, got shapes \(2,\), \(2,\) and \(1,\)"),
    ],
)
def test_bad_rows_are_refused(metric: str, positive: list[bool], logits: list[float], message: str) -> None:
    flags = np.array(positive, dtype=bool)
    with pytest.raises(ValueError, match=message):
        quality(metric, flags, flags.astype(float), np.array(logits))
