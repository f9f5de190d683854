"""GAUC: how well rows are ranked among those of the same user."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gauc(positive: NDArray[np.bool_], logits: NDArray[np.floating], user: NDArray[np.integer]) -> float:
    """Mean AUC of the users, each weighted by its rows (Zhu et al. 2017, arXiv 1703.02091).

    Users whose rows are all positive or all negative have no AUC and are left out.

    Args:
        positive: (rows,).
        logits: (rows,).
        user: (rows,), whose row it is.

    Raises:
        ValueError: rows that do not agree, logits that are not finite, or no user with rows of both kinds.
    """
    flags, scores, users = np.asarray(positive, bool), np.asarray(logits, np.float64), np.asarray(user)
    if flags.ndim != 1 or not flags.shape == scores.shape == users.shape:
        raise ValueError(f"rows must agree, got shapes {flags.shape}, {scores.shape} and {users.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("logits must be finite")
    owner, rows, hits = _by_user(flags, users)
    both = (hits > 0) & (hits < rows)
    if not both.any():
        raise ValueError("gauc needs a user with positive and negative rows, got none")
    ranks = _ranks_within(owner, scores)
    # Mann-Whitney: ranks of the positive rows above the least that they could be.
    above = np.bincount(owner, weights=np.where(flags, ranks, 0.0)) - hits * (hits + 1) / 2
    auc = above[both] / (hits * (rows - hits))[both]
    return float(np.average(auc, weights=rows[both]))


def has_both(positive: NDArray[np.bool_], user: NDArray[np.integer]) -> bool:
    """Whether any user has positive and negative rows, so that there is a :func:`gauc`."""
    _, rows, hits = _by_user(positive, user)
    return bool(((hits > 0) & (hits < rows)).any())


def _by_user(
    positive: NDArray[np.bool_], user: NDArray[np.integer]
) -> tuple[NDArray[np.integer], NDArray[np.int64], NDArray[np.float64]]:
    """(rows,) whose row it is, counted from 0, and (users,) their rows and positive rows."""
    owner = np.unique(user, return_inverse=True)[1].reshape(-1)
    rows, hits = np.bincount(owner), np.bincount(owner, weights=positive)
    return owner, rows.astype(np.int64), hits.astype(np.float64)


def _ranks_within(owner: NDArray[np.integer], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(rows,) ranks from 1 among the rows of the same owner; equal scores share their mean rank."""
    order = np.lexsort((scores, owner))
    sorted_owner, sorted_scores = owner[order], scores[order]
    starts = np.r_[True, (np.diff(sorted_owner) != 0) | (np.diff(sorted_scores) != 0)]
    group = np.cumsum(starts) - 1
    first = np.flatnonzero(starts)
    size = np.bincount(group)
    first_of_owner = np.searchsorted(sorted_owner, sorted_owner[first])
    ranks = np.empty(len(order))
    ranks[order] = (first - first_of_owner + 1 + (size - 1) / 2)[group]
    return ranks
