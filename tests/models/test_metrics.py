"""Metrics: higher is better, and bad rows are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from sparsefront.models.metrics import CORRELATIONS, DECIDING, METRICS, OF_CLASSES, OF_SPANS, missing_kind, quality

POSITIVE = np.array([False, True, False, True])
TARGET = POSITIVE.astype(np.float32)
NONE = np.zeros(4, bool)


def test_values_on_four_rows() -> None:
    logits = np.array([0.0, 1.0, 2.0, 3.0])
    assert quality("auc", POSITIVE, TARGET, logits) == pytest.approx(0.75)
    assert quality("average_precision", POSITIVE, TARGET, logits) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert quality("log_loss", POSITIVE, TARGET, np.zeros(4)) == pytest.approx(-np.log(2))
    told = np.array([-1.0, 0.0, 1.0, 2.0])  # the second is positive and not above 0
    assert quality("accuracy", POSITIVE, TARGET, told) == pytest.approx(0.5)
    assert quality("f1", POSITIVE, TARGET, told) == pytest.approx(2 * 0.5 * 0.5 / (0.5 + 0.5))
    assert quality("matthews", POSITIVE, TARGET, told) == pytest.approx(0.0)
    assert quality("matthews", POSITIVE, TARGET, np.array([-1.0, 1.0, -1.0, 1.0])) == pytest.approx(1.0)


def test_values_of_classes() -> None:
    true = np.array([0.0, 1.0, 2.0, 2.0])
    logits = np.array([[2.0, 1.0, 0.0], [5.0, 5.0, 0.0], [0.0, 1.0, 2.0], [0.0, 9.0, 8.0]])  # told 0, 0 (a tie), 2, 1
    assert quality("accuracy", NONE, true, logits) == pytest.approx(0.5)
    each = [2 / 3, 0.0, 2 / 3]
    assert quality("macro_f1", NONE, true, logits) == pytest.approx(np.mean(each))
    assert quality("macro_f1", NONE[:3], true[:3], logits[:3]) == pytest.approx(np.mean([2 / 3, 0.0, 1.0]))
    absent = np.array([0.0, 0.0, 2.0, 2.0])  # no row is of class 1, which one is taken for
    assert quality("macro_f1", NONE, absent, logits) == pytest.approx(np.mean([1.0, 2 / 3]))


def test_log_loss_takes_soft_targets_and_large_logits() -> None:
    probability = 1 / (1 + np.exp(-1.5))
    expected = -(0.3 * np.log(probability) + 0.7 * np.log(1 - probability))
    assert quality("log_loss", np.array([False]), np.array([0.3]), np.array([1.5])) == pytest.approx(-expected)
    assert quality("log_loss", np.array([True]), np.array([1.0]), np.array([-1e4])) == pytest.approx(-1e4)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 5), min_size=4, max_size=4))
def test_ranking_metrics_ignore_monotone_changes(values: list[int]) -> None:
    logits = np.array(values, dtype=float)
    for metric in ("auc", "average_precision", "spearman"):
        changed = quality(metric, POSITIVE, TARGET, np.exp(logits) * 3)
        assert quality(metric, POSITIVE, TARGET, logits) == pytest.approx(changed)


some_rows = st.lists(st.tuples(st.integers(0, 4), st.integers(-6, 6)), min_size=3, max_size=30)


@settings(deadline=None)
@given(some_rows)
def test_correlations_are_scipys(rows: list[tuple[int, int]]) -> None:
    target, logits = np.array(rows, np.float64).T / [[4], [2]]
    assume(len(set(target)) > 1 and len(set(logits)) > 1)
    pearson, spearman = pearsonr(target, expit(logits)).statistic, spearmanr(target, logits).statistic
    none = np.zeros(len(target), bool)
    assert quality("pearson", none, target, logits) == pytest.approx(pearson, abs=1e-9)
    assert quality("spearman", none, target, logits) == pytest.approx(spearman, abs=1e-9)
    assert quality("pearson_spearman", none, target, logits) == pytest.approx((pearson + spearman) / 2, abs=1e-9)


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_nothing_correlates_with_what_is_the_same_for_all_rows(metric: str) -> None:
    target = np.array([0.0, 0.2, 0.4, 1.0])
    rounded = np.float32(-2) * (1 + 1e-7 * np.arange(4, dtype=np.float32))
    assert len(set(rounded)) > 1
    for logits in (np.zeros(4), np.full(4, 0.3), rounded):
        assert quality(metric, NONE, target, logits) == 0.0
    far_up = np.arange(4) + 800.0  # their sigmoids are all 1
    assert quality(metric, NONE, target, far_up) == {"pearson": 0.0, "spearman": 1.0, "pearson_spearman": 0.5}[metric]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3).filter(bool)), min_size=2, max_size=30))
def test_two_classes_are_a_binary_task(rows: list[tuple[int, int]]) -> None:
    """Both are told by the same sign: of the logit, or of the second class's logit minus the first's."""
    true, logits = np.array(rows).T
    assume(len(set(true)) == 2)
    two = np.stack([np.ones(len(true)), 1.0 + logits], axis=1)
    told, none = logits > 0, np.zeros(len(true), bool)
    for metric, score in (("accuracy", accuracy_score), ("matthews", matthews_corrcoef)):
        found = quality(metric, true == 1, true, logits)
        assert found == quality(metric, none, true, two) == pytest.approx(score(true, told))
    assert quality("f1", true == 1, true, logits) == pytest.approx(f1_score(true, told))


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=40))
def test_metrics_of_classes_are_scikit_learns(rows: list[tuple[int, int]]) -> None:
    true, told = np.array([*rows, *((one, one) for one in range(4))]).T  # every class is there
    logits = np.eye(4)[told] * 3
    none = np.zeros(len(true), bool)
    assert quality("accuracy", none, true, logits) == pytest.approx(accuracy_score(true, told))
    assert quality("macro_f1", none, true, logits) == pytest.approx(f1_score(true, told, average="macro"))
    assert quality("matthews", none, true, logits) == pytest.approx(matthews_corrcoef(true, told))


@pytest.mark.parametrize(
    ("metric", "positive", "logits", "message"),
    [
        ("f2", [True, False], [0, 1], "metric must be one of auc, average_precision, log_loss, .*, got 'f2'"),
        ("auc", [True, True], [0, 1], "metric 'auc' needs positive and negative rows, all 2 are positive"),
        ("auc", [False], [0], "metric 'auc' needs positive and negative rows, all 1 are negative"),
        ("f1", [False, False], [0, 1], "metric 'f1' needs positive and negative rows, all 2 are negative"),
        ("matthews", [True, True], [0, 1], "metric 'matthews' needs positive and negative rows, all 2 are positive"),
        ("auc", [True, False], [0, np.nan], "1 of 2 logits are not finite, the first at row 1"),
        ("accuracy", [True, False], [[0, 1], [np.inf, 1]], "1 of 2 logits are not finite, the first at row 1"),
        ("log_loss", [], [], "metric 'log_loss' needs rows, got none"),
        ("auc", [True, False], [0], r"rows must agree, got shapes \(2,\), \(2,\) and \(1,\)"),
        ("accuracy", [True], [[[0]]], r"does not fit logits of shape \(1, 1, 1\)"),
        ("auc", [True, False], [[0, 1], [0, 1]], r"metric 'auc' does not fit logits of shape \(2, 2\)"),
        ("macro_f1", [True, False], [0, 1], r"metric 'macro_f1' does not fit logits of shape \(2,\)"),
        ("pearson", [True, True], [0, 1], "metric 'pearson' needs rows of different targets, all 2 are 1"),
        ("matthews", [True, True], [[0, 1], [0, 1]], "metric 'matthews' needs rows of different classes, all 2 are of"),
    ],
)
def test_bad_rows_are_refused(metric: str, positive: list[bool], logits: list[Any], message: str) -> None:
    flags = np.array(positive, dtype=bool)
    with pytest.raises(ValueError, match=message):
        quality(metric, flags, flags.astype(float), np.array(logits))


def test_what_a_split_lacks_is_said() -> None:
    target = np.array([0.0, 2.0, 2.0, 0.0])
    found = {
        metric: missing_kind(metric, NONE, target, with_classes=True, classes=("pop", "rock", "jazz"))
        for metric in OF_CLASSES
    }
    macro_f1 = "rows of every class, none of 4 is of class 'rock'"
    assert found == {"accuracy": None, "macro_f1": macro_f1, "matthews": None}
    assert missing_kind("log_loss", NONE, target, with_classes=False) is None


def test_every_metric_is_of_some_kind() -> None:
    others = {"auc", "average_precision", "log_loss"}
    assert {*DECIDING, *OF_CLASSES, *CORRELATIONS, *OF_SPANS, *others} == set(METRICS)
