"""Quality of a ranking model's logits, and how sure that number is. Higher is always better."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

METRICS = ("auc", "average_precision", "log_loss")


def quality(metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]) -> float:
    """``auc`` and ``average_precision`` of ``logits`` against ``positive``, or the negated ``log_loss`` (nats) against
    ``target``.

    ``positive``: (rows,) bool; ``target``: (rows,) in [0, 1]; ``logits``: (rows,) real.
    """
    flags, targets, scores = _checked(metric, positive, target, logits)
    if metric == "auc":
        return float(roc_auc_score(flags, scores))
    if metric == "average_precision":
        return float(average_precision_score(flags, scores))
    return -float(_losses(targets, scores).mean())


def standard_error(metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]) -> float:
    """Standard error of ``quality`` over the draw of rows.

    AUC: Hanley & McNeil (1982), "The meaning and use of the area under a ROC curve". Average precision: the binomial
    approximation over the positives, as in Boyd, Eng & Page (2013). Log loss: of a mean.
    """
    value = quality(metric, positive, target, logits)
    flags, targets, scores = _checked(metric, positive, target, logits)
    positives = int(flags.sum())
    negatives = len(flags) - positives
    if metric == "auc":
        both_positives_above = value / (2 - value)
        both_negatives_below = 2 * value**2 / (1 + value)
        variance = value * (1 - value)
        variance += (positives - 1) * (both_positives_above - value**2)
        variance += (negatives - 1) * (both_negatives_below - value**2)
        return math.sqrt(max(0.0, variance) / (positives * negatives))
    if metric == "average_precision":
        return math.sqrt(max(0.0, value * (1 - value)) / positives)
    return float(_losses(targets, scores).std() / math.sqrt(len(scores)))


def paired_error(
    metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any], reference: NDArray[Any]
) -> float:
    """Standard error, over the draw of rows, of the quality of ``logits`` minus that of ``reference`` on the same rows.

    What both models find easy or hard about the rows cancels out, so for models that are much alike it is far smaller
    than either's own ``standard_error``. AUC: DeLong, DeLong & Clarke-Pearson (1988), "Comparing the areas under two or
    more correlated receiver operating characteristic curves". Average precision: the same to first order, by the delta
    method. Log loss: of the mean difference of rows. Every kind of rows that the metric tells apart needs two of them.

    ``positive``, ``target``, ``logits``: as for ``quality``; ``reference``: (rows,) logits of the other model.
    """
    ours, theirs = (_shares(metric, *_checked(metric, positive, target, one)) for one in (logits, reference))
    variance = 0.0
    for kind, our, their in zip(("positive", "negative"), ours, theirs, strict=False):
        if len(our) < 2:
            named = "" if metric == "log_loss" else f"{kind} "
            raise ValueError(f"the paired error of metric {metric!r} needs 2 {named}rows at least, got {len(our)}")
        variance += float(np.var(our - their, ddof=1)) / len(our)
    return math.sqrt(variance)


def _shares(
    metric: str, flags: NDArray[np.bool_], targets: NDArray[np.float64], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], ...]:
    """What every row adds to the quality: by positive rows (positives,) and negative rows (negatives,), or of all rows.

    The rows of a kind were drawn independently, and to first order the quality moves as the sum of the kinds' means.
    """
    if metric == "log_loss":
        return (-_losses(targets, scores),)
    positives, negatives = scores[flags], scores[~flags]
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


def _below(ascending: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """How many of ``ascending`` are less than each value, ties counted half."""
    less, at_most = (np.searchsorted(ascending, values, side=side) for side in ("left", "right"))
    return (less + at_most) / 2


def _losses(target: NDArray[np.float64], logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Binary cross-entropy of each row for a soft target; scikit-learn's takes hard ones only."""
    return np.logaddexp(0.0, logits) - target * logits


def _checked(
    metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    flags = np.asarray(positive, dtype=bool)
    targets, scores = np.asarray(target, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if flags.ndim != 1 or not flags.shape == targets.shape == scores.shape:
        raise ValueError(f"rows must agree, got shapes {flags.shape}, {targets.shape} and {scores.shape}")
    if not len(flags):
        raise ValueError(f"metric {metric!r} needs rows, got none")
    bad = ~np.isfinite(scores)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(scores)} logits are not finite, the first at row {int(bad.argmax())}"
        )
    if metric != "log_loss" and flags.all() == flags.any():
        kind = "positive" if flags.any() else "negative"
        raise ValueError(f"metric {metric!r} needs positive and negative rows, all {len(flags)} are {kind}")
    return flags, targets, scores
