"""Feature columns that are probably not what they should be: said, not refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score

from sparsefront.models.features import UNSEEN, FeatureRows, Features

LEAKING_AUC: Final = 0.95
TEXT_WORDS: Final = 3.0
"""Words of a mean value from which on a column that hardly repeats looks like text."""
TEXT_DISTINCT: Final = 0.5
UNSEEN_SHARE: Final = 0.5


def warnings_of(
    features: Features, rows: FeatureRows, frame: pd.DataFrame, positive: NDArray[np.bool_]
) -> Iterator[str]:
    """A line per suspicious column: one that tells the label by itself, one whose values are texts, one that is always
    the same, one whose values hardly come back.

    Args:
        features: fitted on these rows.
        rows: the training rows' features.
        frame: the training rows.
        positive: (rows,); nothing is said of the label where all or none of them are positive.
    """
    judged = bool(positive.any()) and not bool(positive.all())
    for at, number in enumerate(features.numeric):
        values = rows.numeric[:, at]
        if judged and (auc := _auc_of_numbers(values, number.edges, positive)) > LEAKING_AUC:
            yield _leaks(number.name, auc)
        if len(np.unique(values)) == 1:  # none counts as a value
            yield f"feature {number.name!r} is the same in all training rows"
    for at, column in enumerate(features.categorical):
        ids = rows.categorical[:, at]
        if judged and (auc := _auc_of_ids(ids, positive)) > LEAKING_AUC:
            yield _leaks(column.name, auc)
        if looks_like_text(frame[column.name]):
            yield f"feature {column.name!r} looks like free text; a column under text would be read word by word"
        elif (unseen := float((ids == UNSEEN).mean())) > UNSEEN_SHARE:
            yield f"feature {column.name!r}: {unseen:.0%} of the training rows have a value that hardly repeats"
        elif (ids == ids[0]).all():
            yield f"feature {column.name!r} is the same in all training rows"


def _leaks(name: str, auc: float) -> str:
    return f"feature {name!r} alone ranks the labels with AUC {auc:.3f}: is it known before what the label tells of?"


def _auc_of_numbers(values: NDArray[np.float32], edges: NDArray[np.float32], positive: NDArray[np.bool_]) -> float:
    """Of a number, in whichever direction it is better, missing ones in the middle; or of the piece that it is in, if
    that is more: that it is missing, or far from the middle, may tell the label too."""
    ranks = rankdata(values, nan_policy="omit")
    ranks[np.isnan(values)] = np.nanmean(ranks) if not np.isnan(values).all() else 0.0
    auc = float(roc_auc_score(positive, ranks))
    return max(auc, 1 - auc, _auc_of_ids(_piece_of(values, edges), positive))


def _piece_of(values: NDArray[np.float32], edges: NDArray[np.float32]) -> NDArray[np.int32]:
    """(rows,) ids: of each edge, as many rows may have that very value, of what is between two, and of no value."""
    place = np.searchsorted(edges, values, "left") + np.searchsorted(edges, values, "right")
    return np.where(np.isnan(values), 2 * len(edges) + 1, place).astype(np.int32)


def _auc_of_ids(ids: NDArray[np.int32], positive: NDArray[np.bool_]) -> float:
    """Of the share of positive rows of a value: learned on one half of the rows, scored on the other, and reversed."""
    learned = np.arange(len(ids)) % 2 == 0
    scores = np.zeros(len(ids))
    for half in (learned, ~learned):
        counts = np.bincount(ids[half], minlength=int(ids.max()) + 1)
        hits = np.bincount(ids[half], weights=positive[half], minlength=len(counts))
        scores[~half] = ((hits + positive.mean()) / (counts + 1))[ids[~half]]
    return float(roc_auc_score(positive, scores))


def looks_like_text(values: pd.Series[Any]) -> bool:
    """Whether values have several words each and hardly repeat."""
    texts = [value for value in values.dropna().tolist() if isinstance(value, str)]
    if not texts:
        return False
    words = float(np.mean([len(text.split()) for text in texts]))
    return words >= TEXT_WORDS and len(set(texts)) / len(texts) > TEXT_DISTINCT
