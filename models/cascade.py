"""Cascade: a text model first, whose score is one more number for a model of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.features import FeatureRows, Features, NumericColumn
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows

SCORE = "text_score"
PIECES = 16


def out_of_fold(
    rows: TokenRows, groups: Sequence[object], make: Callable[[TokenRows], CrossEncoder], *, folds: int = 2, seed: int
) -> NDArray[np.float32]:
    """(rows,) logits of every row by a text model that has not been trained on it, nor on others of its group.

    What a model says of its own training rows is far better than what it says of others; a model of features that is
    trained on such scores trusts them too much.

    Args:
        rows: to be scored, one output each.
        groups: (rows,) what must not be torn apart, such as the query.
        make: trains a model on rows.
        folds: parts; a model is made of all but one.
        seed: of the parts.
    """
    names = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    if len(names) < folds:
        raise ValueError(f"{folds} folds need as many groups, got {len(names)}")
    drawn = np.random.default_rng(seed).permutation(len(names)) % folds
    fold = drawn[[names[name] for name in groups]]
    logits = np.empty(len(rows), np.float32)
    for part in range(folds):
        held = np.flatnonzero(fold == part)
        logits[held] = score_rows(make(rows.subset(np.flatnonzero(fold != part))), rows.subset(held))
    return logits


def with_scores(
    features: Features, rows: Mapping[str, TokenRows], scores: Mapping[str, NDArray[np.float32]]
) -> tuple[Features, dict[str, TokenRows]]:
    """Features and rows with the text's score (rows,) of each split as one more number, the last."""
    column = NumericColumn.fit(SCORE, scores["train"].astype(np.float64), PIECES)
    return replace(features, numeric=(*features.numeric, column)), {
        name: with_number(one, scores[name]) for name, one in rows.items()
    }


def with_number(rows: TokenRows, values: NDArray[np.float32]) -> TokenRows:
    """The rows with one more numeric feature (rows,)."""
    if rows.features is None:
        raise ValueError("a number can be added to rows with features only")
    numeric = np.column_stack([rows.features.numeric, values]).astype(np.float32)
    return replace(rows, features=FeatureRows(numeric, rows.features.categorical))
