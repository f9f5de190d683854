"""Errors of qualities and of their differences, against what comes of drawing rows again and again."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsefront.models.metrics import CORRELATIONS, DECIDING, METRICS, OF_CLASSES, OF_SPANS, quality
from sparsefront.models.spans import span_index
from sparsefront.models.uncertainty import paired_error, standard_error

Case = tuple[str, int]
CASES: list[Case] = [
    *((metric, 0) for metric in METRICS if metric != "macro_f1"),
    *((metric, 3) for metric in OF_CLASSES),
]
BY_KIND = ("auc", "average_precision")
"""Their errors are those of a draw that has as many positive rows every time."""
cases = pytest.mark.parametrize(("metric", "classes"), CASES, ids=str)


class Drawn(NamedTuple):
    """Rows, and the logits of two models that have much in common."""

    positive: NDArray[np.bool_]
    target: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]

    def at(self, rows: NDArray[Any]) -> Drawn:
        return Drawn(*(array[rows] for array in self))

    def gain(self, metric: str) -> float:
        """By how much the first model is better."""
        return quality(metric, self.positive, self.target, self.first) - self.second_quality(metric)

    def second_quality(self, metric: str) -> float:
        return quality(metric, self.positive, self.target, self.second)

    def error(self, metric: str) -> float:
        return paired_error(metric, *self)


def two_models(rows: int, case: Case, *, rate: float = 0.3, seed: int, levels: float = 100.0) -> Drawn:
    """Some rows; few levels make ties."""
    metric, classes = case
    rng = np.random.default_rng(seed)
    shape: tuple[int, ...] = (rows, classes) if classes else (rows,)
    positive = np.zeros(rows, bool)
    if metric in OF_SPANS:
        shape = (rows, 8, 2)
        ends = np.sort(rng.integers(1, 8, (rows, 2)), axis=1)
        target = span_index(*ends.T).astype(np.float64)
        common = rng.normal(size=shape) + 2 * np.eye(8)[ends].transpose(0, 2, 1)
    elif classes:
        target = rng.choice(classes, rows, p=[0.5, 0.35, 0.15]).astype(np.float64)
        common = rng.normal(size=shape) + 1.2 * np.eye(classes)[target.astype(int)]
    elif metric in CORRELATIONS:
        score = rng.normal(size=rows)
        target = np.clip(np.round(2.5 + 1.5 * score), 0, 5) / 5
        common = score + 0.8 * rng.normal(size=rows)
    else:
        target = np.clip(rng.normal(rate, 0.1, rows), 0, 1)
        positive = rng.random(rows) < target
        common = rng.normal(size=rows) + positive
    first, second = common + 0.4 * rng.normal(size=shape), 0.8 * common + 0.7 * rng.normal(size=shape)
    return Drawn(positive, target, *(np.round(levels * one) / levels for one in (first, second)))


def kinds_of(metric: str, drawn: Drawn) -> list[NDArray[np.int64]]:
    every = np.arange(len(drawn.target))
    return [every[drawn.positive], every[~drawn.positive]] if metric in BY_KIND else [every]


@cases
def test_standard_error_matches_the_spread_over_draws(metric: str, classes: int) -> None:
    values, errors = [], []
    for seed in range(150):
        drawn = two_models(400, (metric, classes), rate=0.4, seed=seed)
        values.append(drawn.second_quality(metric))
        errors.append(standard_error(metric, drawn.positive, drawn.target, drawn.second))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35 if metric in BY_KIND else 0.2)


@cases
def test_errors_are_those_of_a_bootstrap(metric: str, classes: int) -> None:
    drawn = two_models(600, (metric, classes), seed=0, levels=1.0 if metric in ("spearman", "auc") else 100.0)
    kinds = kinds_of(metric, drawn)
    rng = np.random.default_rng(0)
    gains, values = [], []
    for _ in range(300):
        again = drawn.at(np.concatenate([rng.choice(kind, len(kind)) for kind in kinds]))
        gains.append(again.gain(metric))
        values.append(again.second_quality(metric))
    error = drawn.error(metric)
    assert error == pytest.approx(np.std(gains), rel=0.12)
    one, other = (standard_error(metric, drawn.positive, drawn.target, logits) for logits in drawn[2:])
    assert error < 0.8 * np.hypot(one, other)  # what the models have in common cancels out
    if metric not in BY_KIND:
        assert other == pytest.approx(np.std(values), rel=0.12)


@pytest.mark.parametrize("levels", [1.0, 100.0])
@pytest.mark.parametrize("metric", [*BY_KIND, "log_loss"])
def test_paired_error_of_ranked_rows_is_that_of_a_bootstrap_with_and_without_ties(metric: str, levels: float) -> None:
    drawn = two_models(600, (metric, 0), seed=0, levels=levels)
    kinds = kinds_of(metric, drawn)
    rng = np.random.default_rng(0)
    gains = [drawn.at(np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])).gain(metric) for _ in range(400)]
    assert drawn.error(metric) == pytest.approx(np.std(gains), rel=0.12)


@cases
def test_paired_error_matches_the_spread_over_draws(metric: str, classes: int) -> None:
    values, errors = [], []
    for seed in range(200):
        drawn = two_models(400, (metric, classes), rate=0.1, seed=seed)
        values.append(drawn.gain(metric))
        errors.append(drawn.error(metric))
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.15)


def test_paired_error_of_auc_is_delongs() -> None:
    """Computed as in the paper, pair by pair."""
    positive, target, *models = two_models(40, ("auc", 0), rate=0.4, seed=3, levels=2.0)
    placements = []
    for logits in models:
        above = logits[positive][:, None] - logits[~positive][None, :]
        wins = (above > 0) + 0.5 * (above == 0)
        placements.append((wins.mean(1), wins.mean(0)))
    variance = sum(np.var(one - other, ddof=1) / len(one) for one, other in zip(*placements, strict=True))
    assert paired_error("auc", positive, target, *models) == pytest.approx(np.sqrt(variance))


def test_errors_of_accuracy_are_binomial_and_mcnemars() -> None:
    drawn = two_models(500, ("accuracy", 3), seed=1)
    right = [one.argmax(axis=1) == drawn.target for one in (drawn.first, drawn.second)]
    share = right[1].mean()
    binomial = np.sqrt(share * (1 - share) / 500)
    assert standard_error("accuracy", drawn.positive, drawn.target, drawn.second) == pytest.approx(binomial)
    won, lost = (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
    mcnemar = np.sqrt(won + lost - (won - lost) ** 2 / 500) / 500
    assert drawn.error("accuracy") == pytest.approx(mcnemar, rel=0.01)


@pytest.mark.parametrize(("metric", "classes"), [case for case in CASES if case[0] not in BY_KIND], ids=str)
def test_leaving_each_row_out_tells_the_same(metric: str, classes: int) -> None:
    """The jackknife, which is the same to first order."""
    drawn = two_models(300, (metric, classes), seed=5)
    left_out = [drawn.at(np.delete(np.arange(300), row)).second_quality(metric) for row in range(300)]
    jackknife = np.std(left_out) * np.sqrt(299)
    assert standard_error(metric, drawn.positive, drawn.target, drawn.second) == pytest.approx(jackknife, rel=0.05)


@cases
def test_a_model_does_not_differ_from_itself(metric: str, classes: int) -> None:
    positive, target, first, second = two_models(100, (metric, classes), seed=0)
    assert paired_error(metric, positive, target, first, first) == 0.0
    assert paired_error(metric, positive, target, first, second) == pytest.approx(
        paired_error(metric, positive, target, second, first)
    )


@pytest.mark.parametrize("metric", DECIDING)
def test_models_that_decided_all_rows_alike_may_still_differ_on_the_next(metric: str) -> None:
    classes = 3 if metric == "macro_f1" else 0
    positive, target, first, _ = two_models(300, (metric, classes), seed=0)
    own = standard_error(metric, positive, target, first)
    assert paired_error(metric, positive, target, first, 1.01 * first) == pytest.approx(own * np.sqrt(2 / 300))


@pytest.mark.parametrize("metric", CORRELATIONS)
def test_what_is_the_same_for_all_rows_has_no_error(metric: str) -> None:
    positive, target, first, _ = two_models(300, (metric, 0), seed=0)
    constant = np.full(300, 0.7)
    assert standard_error(metric, positive, target, constant) == 0.0
    own = standard_error(metric, positive, target, first)
    assert paired_error(metric, positive, target, first, constant) == pytest.approx(own, rel=0.01)


@pytest.mark.parametrize(
    ("metric", "positive", "message"),
    [
        ("auc", [True, False, False], "metric 'auc' needs 2 positive rows at least, got 1"),
        ("average_precision", [True, True, False], "metric 'average_precision' needs 2 negative rows at least, got 1"),
        ("log_loss", [True], "metric 'log_loss' needs 2 rows at least, got 1"),
        ("accuracy", [True], "metric 'accuracy' needs 2 rows at least, got 1"),
    ],
)
def test_too_few_rows_have_no_paired_error(metric: str, positive: list[bool], message: str) -> None:
    flags, logits = np.array(positive), np.arange(len(positive))
    with pytest.raises(ValueError, match=message):
        paired_error(metric, flags, flags, logits, logits)
    with pytest.raises(ValueError, match="rows must agree"):
        paired_error(metric, flags, flags, logits, logits[:-1])


def test_models_of_other_classes_are_not_compared() -> None:
    positive, target, first, second = two_models(20, ("accuracy", 3), seed=0)
    with pytest.raises(ValueError, match=r"rows must agree, got logits of shapes \(20, 3\) and \(20, 2\)"):
        paired_error("accuracy", positive, target, first, second[:, :2])
