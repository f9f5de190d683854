"""How far an AUC is a matter of which test rows were drawn: a paired bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.metrics import quality
from sparsefront.models.rows import TokenRows

RESAMPLES = 200


def auc_draws(rows: TokenRows, logits: NDArray[Any]) -> list[float]:
    """AUC on ``RESAMPLES`` draws of the rows with replacement, the same for every model of as many rows."""
    rng = np.random.default_rng(0)
    draws = (rng.integers(len(rows), size=len(rows)) for _ in range(RESAMPLES))
    return [round(quality("auc", rows.positive[at], rows.target[at], logits[at]), 6) for at in draws]
