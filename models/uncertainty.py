"""How sure a quality is, and how sure the difference of two.

Rows were drawn from all there could be. To first order a quality moves as the mean of what each row adds to it (its
influence), so its standard error is that of a mean: exact for means, the delta method for what is computed of means
(F1, Matthews, correlations; Hampel 1974, "The influence curve and its role in robust estimation").
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata

from sparsefront.models.metrics import (
    DECIDING,
    OF_SPANS,
    Floats,
    Scored,
    checked,
    decisions,
    losses,
    of_spans,
    quality,
    told_alike,
)


def standard_error(metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]) -> float:
    """Standard error of ``quality`` over the draw of rows.

    AUC: Hanley & McNeil (1982), "The meaning and use of the area under a ROC curve". Average precision: the binomial
    approximation over the positives, as in Boyd, Eng & Page (2013). Log loss and accuracy: of a mean, which for
    accuracy is the binomial one. All others: the delta method.

    ``positive``, ``target``, ``logits``: as for ``quality``.
    """
    rows = checked(metric, positive, target, logits)
    if metric not in ("auc", "average_precision"):
        return float(_influence(metric, rows).std() / math.sqrt(len(rows.target)))
    value = quality(metric, positive, target, logits)
    positives = int(rows.positive.sum())
    negatives = len(rows.positive) - positives
    if metric == "average_precision":
        return math.sqrt(max(0.0, value * (1 - value)) / positives)
    both_positives_above = value / (2 - value)
    both_negatives_below = 2 * value**2 / (1 + value)
    variance = value * (1 - value)
    variance += (positives - 1) * (both_positives_above - value**2)
    variance += (negatives - 1) * (both_negatives_below - value**2)
    return math.sqrt(max(0.0, variance) / (positives * negatives))


def paired_error(
    metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any], reference: NDArray[Any]
) -> float:
    """Standard error, over the draw of rows, of the quality of ``logits`` minus that of ``reference`` on the same rows.

    What both models find easy or hard about the rows cancels out, so for models that are much alike it is far smaller
    than either's own ``standard_error``. AUC: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the areas under two or
    more correlated receiver operating characteristic curves". Average precision: the same to first order, by the delta
    method. All others: of the mean difference of what rows add. Every kind of rows that the metric tells apart needs
    two of them.

    Where a metric counts decisions, models that decide all rows alike may differ on the next one. One row more is
    therefore taken to be decided by each on its own, unless the logits themselves are the same.

    ``positive``, ``target``, ``logits``: as for ``quality``; ``reference``: logits of the other model, of that shape.
    """
    first, second = checked(metric, positive, target, logits), checked(metric, positive, target, reference)
    if first.logits.shape != second.logits.shape:
        raise ValueError(f"rows must agree, got logits of shapes {first.logits.shape} and {second.logits.shape}")
    ours, theirs = (_shares(metric, rows) for rows in (first, second))
    variance = 0.0
    for kind, our in ours.items():
        their = theirs[kind]
        if len(our) < 2:
            raise ValueError(f"the paired error of metric {metric!r} needs 2 {kind} at least, got {len(our)}")
        variance += float(np.var(our - their, ddof=1)) / len(our)
        if metric in (*DECIDING, *OF_SPANS) and not np.array_equal(first.logits, second.logits):
            variance += float(np.var(our) + np.var(their)) / len(our) ** 2
    return math.sqrt(variance)


def _shares(metric: str, rows: Scored) -> dict[str, Floats]:
    """What every row adds to the quality, by the kind of rows that were drawn independently of other kinds.

    To first order the quality moves as the sum of the kinds' means.
    """
    if metric not in ("auc", "average_precision"):
        return {"rows": _influence(metric, rows)}
    of_positives, of_negatives = _of_ranks(metric, rows)
    return {"positive rows": of_positives, "negative rows": of_negatives}


def _influence(metric: str, rows: Scored) -> Floats:
    """(rows,) what each row adds to the quality, up to a constant.

    Zeros where the quality is 0 by definition, whatever rows come: of correlations with what is the same for all rows.
    """
    if metric in (*OF_SPANS, "log_loss"):
        return of_spans(metric, rows) if metric in OF_SPANS else -losses(rows)
    if metric in DECIDING:
        return _of_decisions(metric, *decisions(rows))
    if told_alike(rows.logits):
        return np.zeros_like(rows.logits)
    if metric == "pearson_spearman":
        return np.asarray((_influence("pearson", rows) + _influence("spearman", rows)) / 2, np.float64)
    if metric == "pearson":
        return _of_correlation(rows.target, expit(rows.logits))
    return _of_rank_correlation(rows.target, rows.logits)


def _of_decisions(metric: str, true: NDArray[np.int64], told: NDArray[np.int64]) -> Floats:
    if metric == "accuracy":
        return np.asarray(true == told, np.float64)
    if metric == "f1":
        return _of_f1(true == 1, told == 1)
    if metric == "macro_f1":
        return np.asarray(np.mean([_of_f1(true == one, told == one) for one in np.unique(true)], axis=0), np.float64)
    return _of_matthews(true, told)


def _of_f1(true: NDArray[np.bool_], told: NDArray[np.bool_]) -> Floats:
    """F1 is the mean of twice the hits over the mean of true plus told rows."""
    sizes = true.astype(np.float64) + told
    hits = 2.0 * (true & told)
    return np.asarray((hits - hits.mean() / sizes.mean() * sizes) / sizes.mean(), np.float64)


def _of_matthews(true: NDArray[np.int64], told: NDArray[np.int64]) -> Floats:
    """Matthews is the covariance of indicators of true and told classes over the root of both variances."""
    count = int(max(true.max(), told.max())) + 1
    true_share, told_share = (np.bincount(one, minlength=count) / len(one) for one in (true, told))
    hit = (true == told).astype(np.float64)
    covariance = float(hit.mean() - true_share @ told_share)
    moved = hit - true_share[told] - told_share[true]
    return _of_ratio(
        (covariance, moved),
        (float(1 - true_share @ true_share), -2 * true_share[true]),
        (float(1 - told_share @ told_share), -2 * told_share[told]),
    )


def _of_correlation(first: Floats, second: Floats) -> Floats:
    """Pearson is the covariance over the root of both variances."""
    first, second = first - first.mean(), second - second.mean()
    products = (first * second, first**2, second**2)
    covariance, one, other = ((float(product.mean()), product) for product in products)
    return _of_ratio(covariance, one, other)


def _of_rank_correlation(first: Floats, second: Floats) -> Floats:
    """Spearman is Pearson of ranks, and a row also moves the ranks of all rows above it.

    With U and V a row's ranks over the rows there are, ties shared, the mean of UV moves by UV and by what the row adds
    to the U and V of the others; likewise the means of UU and VV (those move where there are ties).
    """
    one, other = ((rankdata(values) - 0.5) / len(values) for values in (first, second))
    means = ((one, other), (one, one), (other, other))
    covariance, variance, other_variance = (
        (float((a * b).mean()) - 0.25, a * b + _mean_above(a, b) + _mean_above(b, a)) for a, b in means
    )
    return _of_ratio(covariance, variance, other_variance)


def _mean_above(ranks: Floats, values: Floats) -> Floats:
    """(rows,) over all rows, the mean of their values where their rank is above, half of them where it is equal."""
    order = np.argsort(ranks, kind="stable")
    ascending, sums = ranks[order], np.concatenate([[0.0], np.cumsum(values[order])])
    below, at_most = (sums[np.searchsorted(ascending, ranks, side=side)] for side in ("left", "right"))
    return np.asarray((sums[-1] - (below + at_most) / 2) / len(ranks), np.float64)


def _of_ratio(covariance: tuple[float, Floats], one: tuple[float, Floats], other: tuple[float, Floats]) -> Floats:
    """What rows add to ``covariance / sqrt(one * other)``, given each one's value and what rows add to that.

    Zero where a variance is: the quality is then 0 by definition, whatever rows come.
    """
    scale = math.sqrt(max(0.0, one[0]) * max(0.0, other[0]))
    if scale < 1e-12:
        return np.zeros_like(covariance[1])
    ratio = covariance[0] / scale
    return np.asarray(covariance[1] / scale - ratio / 2 * (one[1] / one[0] + other[1] / other[0]), np.float64)


def _of_ranks(metric: str, rows: Scored) -> tuple[Floats, Floats]:
    """AUC and average precision: of positive rows (positives,) and of negative rows (negatives,)."""
    positives, negatives = rows.logits[rows.positive], rows.logits[~rows.positive]
    positive, negative = np.sort(positives), np.sort(negatives)
    if metric == "auc":  # placement values: the share of the other kind that a row stands on the right side of
        return _below(negative, positives) / len(negative), 1 - _below(positive, negatives) / len(positive)
    hits = len(positive) - np.searchsorted(positive, positive, side="left")  # rows at or above each positive one
    false = len(negative) - np.searchsorted(negative, positive, side="left")
    # One more positive (negative) row raises (lowers) the precision at every positive row that it stands at or above.
    raised = np.concatenate([[0.0], np.cumsum(false / (hits + false) ** 2)])
    lowered = np.concatenate([[0.0], np.cumsum(hits / (hits + false) ** 2)])
    own = (hits / (hits + false))[np.searchsorted(positive, positives, side="left")]
    gained = own + raised[np.searchsorted(positive, positives, side="right")]
    lost = lowered[np.searchsorted(positive, negatives, side="right")]
    return gained, -lost * len(negative) / len(positive)


def _below(ascending: Floats, values: Floats) -> Floats:
    """How many of ``ascending`` are less than each value, ties counted half."""
    less, at_most = (np.searchsorted(ascending, values, side=side) for side in ("left", "right"))
    return np.asarray((less + at_most) / 2, np.float64)
