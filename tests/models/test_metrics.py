"""Metrics: higher is better, and bad rows are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsefront.models.metrics import METRICS, paired_error, quality, standard_error

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


def two_models(
    rows: int, rate: float, *, seed: int, levels: float = 100.0
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Labels, soft targets and the logits of two models that have much in common; few levels make ties."""
    rng = np.random.default_rng(seed)
    target = np.clip(rng.normal(rate, 0.1, rows), 0, 1)
    positive = rng.random(rows) < target
    common = rng.normal(size=rows) + positive
    first, second = common + 0.4 * rng.normal(size=rows), 0.8 * common + 0.7 * rng.normal(size=rows)
    return positive, target, np.round(first * levels) / levels, np.round(second * levels) / levels


def gain(metric: str, positive: NDArray[Any], target: NDArray[Any], first: NDArray[Any], second: NDArray[Any]) -> float:
    """By how much the first model is better."""
    return quality(metric, positive, target, first) - quality(metric, positive, target, second)


@pytest.mark.parametrize("levels", [1.0, 100.0])
@pytest.mark.parametrize("metric", METRICS)
def test_paired_error_is_that_of_a_bootstrap(metric: str, levels: float) -> None:
    positive, target, first, second = two_models(600, 0.3, seed=0, levels=levels)
    kinds = [np.flatnonzero(positive), np.flatnonzero(~positive)] if metric != "log_loss" else [np.arange(600)]
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(400):
        at = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        differences.append(gain(metric, positive[at], target[at], first[at], second[at]))
    error = paired_error(metric, positive, target, first, second)
    assert error == pytest.approx(np.std(differences), rel=0.12)
    apart = np.hypot(standard_error(metric, positive, target, first), standard_error(metric, positive, target, second))
    assert error < 0.8 * apart  # what the models have in common cancels out


@pytest.mark.parametrize("metric", METRICS)
def test_paired_error_matches_the_spread_over_draws(metric: str) -> None:
    values, errors = [], []
    for seed in range(200):
        positive, target, first, second = two_models(400, 0.1, seed=seed)
        values.append(gain(metric, positive, target, first, second))
        errors.append(paired_error(metric, positive, target, first, second))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_paired_error_of_auc_is_delongs() -> None:
    """Computed as in the paper, pair by pair."""
    positive, target, *models = two_models(40, 0.4, seed=3, levels=2.0)
    placements = []
    for logits in models:
        above = logits[positive][:, None] - logits[~positive][None, :]
        wins = (above > 0) + 0.5 * (above == 0)
        placements.append((wins.mean(1), wins.mean(0)))
    variance = sum(np.var(one - other, ddof=1) / len(one) for one, other in zip(*placements, strict=True))
    assert paired_error("auc", positive, target, *models) == pytest.approx(np.sqrt(variance))


@pytest.mark.parametrize("metric", METRICS)
def test_a_model_does_not_differ_from_itself(metric: str) -> None:
    positive, target, first, second = two_models(100, 0.3, seed=0)
    assert paired_error(metric, positive, target, first, first) == 0.0
    assert paired_error(metric, positive, target, first, second) == pytest.approx(
        paired_error(metric, positive, target, second, first)
    )


@pytest.mark.parametrize(
    ("metric", "positive", "message"),
    [
        ("auc", [True, False, False], "metric 'auc' needs 2 positive rows at least, got 1"),
        ("average_precision", [True, True, False], "metric 'average_precision' needs 2 negative rows at least, got 1"),
        ("log_loss", [True], "metric 'log_loss' needs 2 rows at least, got 1"),
    ],
)
def test_too_few_rows_have_no_paired_error(metric: str, positive: list[bool], message: str) -> None:
    flags, logits = np.array(positive), np.arange(len(positive))
    with pytest.raises(ValueError, match=message):
        paired_error(metric, flags, flags, logits, logits)
    with pytest.raises(ValueError, match="rows must agree"):
        paired_error(metric, flags, flags, logits, logits[:-1])


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
