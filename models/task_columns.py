"""The columns that a task file names: whether a table has them, and what those beside text and label hold."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.feature_columns import read_numbers
from sparsefront.models.features import FeatureRows
from sparsefront.models.labels import shown_value
from sparsefront.models.split_rows import named
from sparsefront.models.task_file import TaskFile, nearest
from sparsefront.spaces import InputError


def check_columns(frame: pd.DataFrame, spec: TaskFile, origin: str) -> None:
    """Refuse rows that lack a column which the task file names."""
    asked = [(key, name) for key in ("text", "item") for name in getattr(spec, key)]
    asked += [("label.column", spec.label.column)]
    asked += [] if spec.label.start is None else [("label.start", spec.label.start)]
    asked += [(key, name) for key in ("numeric", "categorical") for name in getattr(spec, key)]
    asked += [(key, name) for key in ("weight", "user") if (name := getattr(spec, key)) is not None]
    split = spec.split
    asked += [
        (f"split.{key}", name) for key in ("column", "group", "time") if (name := getattr(split, key)) is not None
    ]
    asked += [
        (f"histories.{place}.{key}", name)
        for place, one in enumerate(spec.histories, start=1)
        for key in ("column", "user", "time")
        if (name := getattr(one, key)) is not None
    ]
    lists = {one.column for one in spec.histories if one.column is not None}
    check_names(frame, asked, origin, lists=lists)


def check_names(frame: pd.DataFrame, asked: list[tuple[str, str]], origin: str, *, lists: Collection[str] = ()) -> None:
    """Refuse a table that lacks a column, has one twice, or holds something else than single values.

    Args:
        frame: a table.
        asked: the key in the task file and the column it names.
        origin: the file that an error names.
        lists: columns that hold lists.
    """
    repeated = frame.columns[frame.columns.duplicated()]
    if len(repeated):
        raise InputError(f"{origin}: column {repeated[0]!r} stands there twice; expected different names")
    for key, name in asked:
        if name not in frame.columns:
            raise InputError(f"{origin}: no column {name!r} ({key}){nearest(name, frame.columns)}")
        if name not in lists and not pd.api.types.is_scalar(frame[name].iloc[0]):
            kind = type(frame[name].iloc[0]).__name__
            raise InputError(f"{origin}: row 1: column {name!r} ({key}) holds {kind} values; expected single ones")


def check_texts(frame: pd.DataFrame, spec: TaskFile, origin: str) -> None:
    """Refuse rows whose text is empty or none."""
    for name in spec.text:
        for row, value in enumerate(frame[name].tolist(), start=1):
            if not isinstance(value, str):
                raise InputError(f"{origin}: row {row}: text {name!r} is {shown_value(value)}; expected text")
            if not value.strip():
                raise InputError(f"{origin}: row {row}: text {name!r} is empty; expected text")


def read_besides(
    frame: pd.DataFrame, spec: TaskFile, features: FeatureRows | None, origin: str, *, train: NDArray[np.bool_]
) -> dict[str, NDArray[Any]]:
    """What rows have beside text and label, under the names of :meth:`TokenRows.to_arrays`; ``train``: (rows,), some of
    which must have weight."""
    found: dict[str, NDArray[Any]] = {}
    if features is not None:
        found |= {"numeric": features.numeric, "categorical": features.categorical}
    if spec.weight is not None:
        weight = read_numbers(frame[spec.weight], spec.weight, origin)
        wrong = ~(weight >= 0)  # NaN as well
        if wrong.any():
            row = int(wrong.argmax())
            shown = shown_value(frame[spec.weight].iloc[row])
            raise InputError(f"{origin}: row {row + 1}: weight {spec.weight!r} is {shown}; expected at least 0")
        found["weight"] = weight.astype(np.float32)
        if not found["weight"][train].any():
            raise InputError(
                f"{origin}: weight {spec.weight!r} is 0 in all {int(train.sum())} training rows; expected some above 0"
            )
    if spec.user is not None:
        found["user"] = pd.factorize(pd.Series(named(frame[spec.user], "user", spec.user, origin)))[0].astype(np.int32)
    return found
