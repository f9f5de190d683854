"""Scorecard: what else is worth knowing of probabilities beside the metric that a task is searched by."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.calibration import Reliability
from sparsefront.models.gauc import gauc, has_both
from sparsefront.models.metrics import quality
from sparsefront.models.rows import TokenRows


def scorecard(rows: TokenRows, logits: NDArray[np.floating]) -> dict[str, Any]:
    """Scores of (rows,) logits, ready for JSON; nothing where the label is a class or a span.

    ``auc`` where there are rows of both kinds, ``gauc`` where it is known whose they are, ``log_loss`` in nats,
    ``calibration_error`` and the bins that it comes from, ``reliability``: ``predicted``, ``happened``, ``rows``.
    """
    if rows.classes or rows.spans:
        return {}
    bins = Reliability.of(rows.target, logits)
    scores: dict[str, Any] = {}
    if rows.positive.any() and not rows.positive.all():
        scores["auc"] = quality("auc", rows.positive, rows.target, logits)
    if rows.user is not None and has_both(rows.positive, rows.user):
        scores["gauc"] = gauc(rows.positive, logits, rows.user)
    return {
        **scores,
        "log_loss": -quality("log_loss", rows.positive, rows.target, logits),
        "calibration_error": bins.error,
        "reliability": {name: getattr(bins, name).tolist() for name in ("predicted", "happened", "rows")},
    }
