"""Calibration: how far predicted probabilities are from what happens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Rows in bins of equally many, by their predicted probability; all arrays are ``(bins,)``.

    Attributes:
        predicted: mean probability.
        happened: mean target.
        rows: how many.
    """

    predicted: Floats
    happened: Floats
    rows: NDArray[np.int64]

    @classmethod
    def of(cls, target: NDArray[np.floating], logits: NDArray[np.floating], *, bins: int = BINS) -> Reliability:
        """From ``(rows,)`` targets in [0, 1] and logits. Rows of one logit stay together; there may be fewer bins."""
        wanted, scores = np.asarray(target, np.float64), np.asarray(logits, np.float64)
        if wanted.ndim != 1 or wanted.shape != scores.shape or not len(wanted):
            raise ValueError(f"targets and logits must be of the same rows, got {wanted.shape} and {scores.shape}")
        if not (np.isfinite(scores).all() and wanted.min() >= 0 and wanted.max() <= 1):
            raise ValueError("targets must be in [0, 1] and logits finite")
        if bins < 1:
            raise ValueError(f"bins must be at least 1, got {bins}")
        levels, level_of = np.unique(scores, return_inverse=True)
        before = np.cumsum(np.bincount(level_of, minlength=len(levels))) - 1  # place of the last row of each level
        bin_of = np.unique(before * bins // len(scores), return_inverse=True)[1].reshape(-1)[level_of]
        rows = np.bincount(bin_of)
        sums = (np.bincount(bin_of, weights=values) for values in (expit(scores), wanted))
        predicted, happened = (one / rows for one in sums)
        return cls(predicted, happened, rows.astype(np.int64))

    @property
    def error(self) -> float:
        """Expected calibration error (Naeini et al. 2015): mean over the rows of what their bin is off by."""
        return float(np.average(np.abs(self.predicted - self.happened), weights=self.rows))
