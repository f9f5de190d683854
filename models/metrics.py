"""Quality of a model's logits. Higher is always better.

Logits are (rows,) where a label is a number, (rows, classes) where it is a class, and (rows, tokens, 2) where it is a
span. Metrics that decide take a row for positive above logit 0, or for the class of the largest logit, the first of
equal ones, or for the likeliest span.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score, f1_score, matthews_corrcoef, roc_auc_score

from sparsefront.models.spans import exact_matches, overlaps
from sparsefront.models.task_file import Metric

METRICS: tuple[Metric, ...] = get_args(Metric)
OF_POSITIVES = ("auc", "average_precision", "f1")
CORRELATIONS = ("pearson", "spearman", "pearson_spearman")
DECIDING = ("accuracy", "f1", "macro_f1", "matthews")
OF_CLASSES = ("accuracy", "macro_f1", "matthews")
"""Those that rows with classes can be scored by."""
OF_SPANS = ("span_f1", "exact_match")
"""Those that rows with spans are scored by."""
OF_EVERY_KIND = ("auc", "average_precision", "f1", "macro_f1", "matthews")
"""Those that rows of a rare kind decide as much as all others do, so that few of them make the quality uncertain."""

_ROUNDING = 1e-5

Floats = NDArray[np.float64]


class Scored(NamedTuple):
    """Rows that are fit to be scored: ``positive`` (rows,) bool, ``target`` (rows,), ``logits`` (rows,) or (rows,
    classes) or (rows, tokens, 2), the last two float64."""

    positive: NDArray[np.bool_]
    target: Floats
    logits: Floats


def quality(metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]) -> float:
    """How well the logits fit the rows.

    ``auc``, ``average_precision`` and ``f1`` are of the rows in ``positive``, as are ``accuracy`` and ``matthews``
    where there are no classes. The negated ``log_loss`` (nats) is against ``target``. ``pearson`` is the correlation
    of the target with the predicted one, the logit's sigmoid; ``spearman`` that of the ranks, equal values sharing
    theirs; ``pearson_spearman`` the mean of both; 0 where all rows are predicted alike. ``macro_f1`` is the mean over
    the classes that the rows hold. ``matthews`` of several classes is Gorodkin's (2004), 0 where all rows are told the
    same. ``exact_match`` is the share of rows whose span is told, ``span_f1`` the mean F1 of the tokens that are told
    to those of the span: SQuAD's metrics (arXiv 1606.05250), but by place instead of by word.

    Args:
        metric: one of ``METRICS``.
        positive: (rows,) bool; not read where the logits are of classes.
        target: (rows,) in [0, 1], or the index of the class or of the span.
        logits: (rows,), or (rows, classes), or (rows, tokens, 2).

    Raises:
        ValueError: rows that do not agree, or that have no such quality.
    """
    return _quality(metric, checked(metric, positive, target, logits))


def _quality(metric: str, rows: Scored) -> float:
    if metric in OF_SPANS:
        return float(of_spans(metric, rows).mean())
    if metric in DECIDING:
        return _of_decisions(metric, *decisions(rows))
    if metric == "pearson_spearman":
        return (_correlation("pearson", rows) + _correlation("spearman", rows)) / 2
    if metric in CORRELATIONS:
        return _correlation(metric, rows)
    if metric == "log_loss":
        return -float(losses(rows).mean())
    score = roc_auc_score if metric == "auc" else average_precision_score
    return float(score(rows.positive, rows.logits))


def _of_decisions(metric: str, true: NDArray[np.int64], told: NDArray[np.int64]) -> float:
    if metric == "accuracy":
        return float((true == told).mean())
    if metric == "f1":
        return float(f1_score(true, told, zero_division=0.0))
    if metric == "macro_f1":
        return float(f1_score(true, told, labels=np.unique(true), average="macro", zero_division=0.0))
    return float(matthews_corrcoef(true, told))


def of_spans(metric: str, rows: Scored) -> Floats:
    """(rows,) what a metric of spans says of each."""
    return (exact_matches if metric == "exact_match" else overlaps)(rows.target, rows.logits)


def decisions(rows: Scored) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(rows,) true and told classes; without classes 1 is positive and 0 is not."""
    if rows.logits.ndim == 2:
        return rows.target.astype(np.int64), rows.logits.argmax(axis=1)
    return rows.positive.astype(np.int64), (rows.logits > 0).astype(np.int64)


def losses(rows: Scored) -> Floats:
    """(rows,) binary cross-entropy for a soft target; scikit-learn's takes hard ones only."""
    return np.asarray(np.logaddexp(0.0, rows.logits) - rows.target * rows.logits, np.float64)


def told_alike(logits: Floats) -> bool:
    """Whether all rows (rows,) have the same logit, but for rounding: a model without attention sees no words."""
    return float(np.ptp(logits)) <= _ROUNDING * float(np.abs(logits).max())


def _correlation(metric: str, rows: Scored) -> float:
    by_rank = metric == "spearman"
    target, predicted = (rankdata(rows.target), rankdata(rows.logits)) if by_rank else (rows.target, expit(rows.logits))
    if told_alike(rows.logits) or not np.ptp(predicted):
        return 0.0
    return float(np.corrcoef(target, predicted)[0, 1])


def checked(metric: str, positive: NDArray[Any], target: NDArray[Any], logits: NDArray[Any]) -> Scored:
    """Rows as they are scored; ``ValueError`` when they do not agree or have no such quality."""
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, got {metric!r}")
    flags = np.asarray(positive, dtype=bool)
    targets, scores = np.asarray(target, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    if flags.ndim != 1 or not flags.shape == targets.shape == scores.shape[:1] or scores.ndim > 3:
        raise ValueError(f"rows must agree, got shapes {flags.shape}, {targets.shape} and {scores.shape}")
    if metric not in (set(METRICS) - {"macro_f1", *OF_SPANS}, OF_CLASSES, OF_SPANS)[scores.ndim - 1]:
        raise ValueError(f"metric {metric!r} does not fit logits of shape {scores.shape}")
    if not len(flags):
        raise ValueError(f"metric {metric!r} needs rows, got none")
    bad = ~np.isfinite(scores.reshape(len(scores), -1)).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{int(bad.sum())} of {len(scores)} logits are not finite, the first at row {int(bad.argmax())}"
        )
    if (missing := missing_kind(metric, flags, targets, with_classes=scores.ndim > 1)) is not None:
        raise ValueError(f"metric {metric!r} needs {missing}")
    return Scored(flags, targets, scores)


def missing_kind(
    metric: str,
    positive: NDArray[np.bool_],
    target: NDArray[Any],
    *,
    with_classes: bool,
    classes: Sequence[object] = (),
) -> str | None:
    """What a metric needs of rows and these do not have, in words; ``None`` where nothing is missing.

    Args:
        metric: one of ``METRICS``.
        positive: (rows,).
        target: (rows,).
        with_classes: whether the target is the index of a class.
        classes: all that there should be, where that is known.
    """
    if metric in CORRELATIONS and target.min() == target.max():
        return f"rows of different targets, all {len(target)} are {target[0]:g}"
    if metric == "matthews" and with_classes and target.min() == target.max():
        return f"rows of different classes, all {len(target)} are of one"
    if metric in (*OF_POSITIVES, "matthews") and not with_classes and positive.all() == positive.any():
        return f"positive and negative rows, all {len(positive)} are {'positive' if positive.any() else 'negative'}"
    if metric == "macro_f1":
        for index, name in enumerate(classes):
            if not (target == index).any():
                return f"rows of every class, none of {len(target)} is of class {name!r}"
    return None
