"""Reliability: bins of equally many rows, and what they are off by."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from sparsefront.models.calibration import Reliability


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-4, 4)), min_size=1, max_size=80), st.integers(1, 12))
def test_bins_hold_every_row_once_and_rise(rows: list[tuple[float, int]], bins: int) -> None:
    target, logits = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    found = Reliability.of(target, logits, bins=bins)
    assert len(found.rows) <= bins and found.rows.sum() == len(rows) and (found.rows > 0).all()
    assert (np.diff(found.predicted) > 0).all()
    assert np.average(found.predicted, weights=found.rows) == pytest.approx(expit(logits).mean())
    assert np.average(found.happened, weights=found.rows) == pytest.approx(target.mean())
    assert abs(expit(logits).mean() - target.mean()) - 1e-9 <= found.error <= 1


def test_bins_are_of_equally_many_rows_where_no_logit_repeats() -> None:
    logits = np.random.default_rng(0).permutation(np.linspace(-3, 3, 100))
    assert Reliability.of(np.zeros(100), logits, bins=4).rows.tolist() == [25] * 4


def test_what_is_told_truly_is_calibrated_and_what_is_exaggerated_is_not() -> None:
    rng = np.random.default_rng(1)
    probability = rng.uniform(0.05, 0.95, 40_000)
    happened = (rng.random(40_000) < probability).astype(float)
    honest, loud = logit(probability), 3 * logit(probability)
    assert Reliability.of(happened, honest).error < 0.01
    assert Reliability.of(happened, loud).error > 0.1


def test_the_error_by_hand() -> None:
    found = Reliability.of(np.array([0.0, 1.0, 1.0, 1.0]), logit(np.array([0.2, 0.2, 0.9, 0.9])), bins=2)
    assert found.rows.tolist() == [2, 2] and found.happened.tolist() == [0.5, 1.0]
    assert found.error == pytest.approx((0.3 + 0.1) / 2)


@pytest.mark.parametrize(
    ("target", "logits", "bins", "told"),
    [
        ([], [], 2, "of the same rows"),
        ([0.5], [1.0, 2.0], 2, "of the same rows"),
        ([2.0], [1.0], 2, r"in \[0, 1\]"),
        ([1.0], [np.inf], 2, "logits finite"),
        ([1.0], [1.0], 0, "bins must be at least 1"),
    ],
)
def test_rows_that_have_none(target: list[float], logits: list[float], bins: int, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Reliability.of(np.array(target), np.array(logits), bins=bins)
