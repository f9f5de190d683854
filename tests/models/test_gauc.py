"""GAUC against scikit-learn's AUC, user by user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sparsefront.models.gauc import gauc

rows_of_users = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(-3, 3)), min_size=1, max_size=60)


@given(rows_of_users)
def test_it_is_the_mean_auc_of_users_with_both_kinds_of_rows(rows: list[tuple[int, bool, int]]) -> None:
    user, positive, logits = (np.array(column) for column in zip(*rows, strict=True))
    total, weight = 0.0, 0
    for one in set(user.tolist()):
        own = user == one
        if positive[own].any() and not positive[own].all():
            total += own.sum() * roc_auc_score(positive[own], logits[own])
            weight += own.sum()
    assume(weight)
    assert gauc(positive, logits.astype(np.float32), user) == pytest.approx(total / weight)


def test_what_differs_between_users_does_not_count() -> None:
    user, positive = np.repeat([7, -3], 4), np.array([0, 1, 0, 1, 1, 0, 1, 0], bool)
    logits = np.array([0, 1, 0, 1, 101, 100, 101, 100], np.float32)
    assert gauc(positive, logits, user) == 1.0 > roc_auc_score(positive, logits)


@pytest.mark.parametrize(
    ("positive", "logits", "user", "told"),
    [
        ([True, True], [0.0, 1.0], [1, 1], "needs a user with positive and negative rows"),
        ([True, False], [0.0, np.nan], [1, 1], "logits must be finite"),
        ([True, False], [0.0, 1.0], [1], "rows must agree"),
    ],
)
def test_rows_that_have_none(positive: list[bool], logits: list[float], user: list[int], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        gauc(np.array(positive), np.array(logits), np.array(user))
