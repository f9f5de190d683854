"""What an export with features ships to encode raw values: is it what the model was trained on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.features import FeatureRows, Features
from sparsefront.models.rows import TokenRows
from sparsefront.models.task import Task
from sparsefront.search.export import FEATURES


def feature_differences(shipped: Features, model: Bert4CtrConfig, names: Sequence[str] | None) -> list[str]:
    """A line per difference to the features that the model knows, none where they are the same.

    Args:
        shipped: by the export.
        model: says the edges of numbers and how many ids categories have.
        names: of the columns, the numeric ones first; ``None`` where the export does not say them.
    """
    columns = len(shipped.numeric), len(shipped.categorical)
    if columns != model.feature_columns:
        numbers, categories = model.feature_columns
        return [
            f"{FEATURES}: has {columns[0]} numeric and {columns[1]} categorical columns, "
            f"the model {numbers} and {categories}"
        ]
    found = []
    if names is not None and list(shipped.names) != list(names):
        found.append(f"{FEATURES}: columns are {', '.join(shipped.names)}, the export's are {', '.join(names)}")
    for number, edges in zip(shipped.numeric, model.numeric_edges, strict=True):
        if number.edges.tolist() != list(edges):
            found.append(f"{FEATURES}: column {number.name!r} has other edges than the model")
    for category, ids in zip(shipped.categorical, model.categorical_ids, strict=True):
        if category.ids != ids:
            found.append(f"{FEATURES}: column {category.name!r} has {category.ids} ids, the model {ids}")
    return found


def encoded(rows: TokenRows, task: Task, split: str, shipped: Features) -> tuple[TokenRows, list[str]]:
    """The rows of a split with features as the export encodes them, and a line if the task itself says others.

    Args:
        rows: of the split, as the task makes them.
        task: whose features are fitted on its training rows.
        split: of the task.
        shipped: by the export.

    Raises:
        InputError: the task's rows do not have such a column, or a value that cannot be encoded.
    """
    found = shipped.encode(task.frame.iloc[task.indices(split)], task.source or task.name)
    expected = rows.features
    others = len(rows) if expected is None else int(_other_rows(found, expected))
    lines = [f"{FEATURES}: encodes {others} of {len(rows)} {split} rows otherwise than the training rows tell"]
    return replace(rows, features=found, vectors_checked=True), lines if others else []


def _other_rows(first: FeatureRows, second: FeatureRows) -> int:
    """How many rows differ; of as many columns each."""
    same = (first.numeric == second.numeric) | (np.isnan(first.numeric) & np.isnan(second.numeric))
    return int((~(same.all(axis=1) & (first.categorical == second.categorical).all(axis=1))).sum())
