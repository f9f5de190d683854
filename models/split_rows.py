"""Splitting the rows of a table as a task file says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.labels import shown_value
from sparsefront.models.splits import VALID, column_split, group_split, hold_back, random_split, time_split
from sparsefront.models.task_file import SPLITS, SplitSpec
from sparsefront.spaces import InputError


def split_rows(frame: pd.DataFrame, split: SplitSpec, origin: str) -> NDArray[np.int8]:
    """(rows,) where each row's split stands in ``SPLITS``; ``InputError`` where one would have no rows."""
    codes = _codes(frame, split, origin)
    _check(codes, split, origin)
    return codes


def _codes(frame: pd.DataFrame, split: SplitSpec, origin: str) -> NDArray[np.int8]:
    groups = None if split.group is None else named(frame[split.group], "group", split.group, origin)
    valid, test = split.shares
    if split.column is not None:
        codes = _column(frame[split.column], split.column, origin)
        if not valid:
            return codes
        if (codes == VALID).any():
            row = int((codes == VALID).argmax())
            raise InputError(
                f"{origin}: row {row + 1}: split {split.column!r} is 'valid', and split.valid holds back {valid:g} of "
                "the training rows; expected one of the two"
            )
        return hold_back(codes, groups=groups, valid=valid, seed=split.seed)
    if groups is not None:
        return group_split(groups, valid=valid, test=test, seed=split.seed)
    if split.time is not None:
        times = read_times(frame[split.time], split.time, origin)
        return time_split(times, valid=valid, test=test)
    return random_split(len(frame), valid=valid, test=test, seed=split.seed)


def named(values: pd.Series[Any], key: str, name: str, origin: str) -> list[Any]:
    """Whom or what rows belong to, which all must say."""
    missing = (values.isna() | (values == "")).to_numpy(dtype=bool)
    if missing.any():
        raise InputError(f"{origin}: row {int(missing.argmax()) + 1}: {key} {name!r} is missing")
    return values.tolist()


def _column(values: pd.Series[Any], name: str, origin: str) -> NDArray[np.int8]:
    codes = column_split(values.tolist(), SPLITS)
    if (codes < 0).any():
        row = int((codes < 0).argmax())
        shown = shown_value(values.iloc[row])
        raise InputError(f"{origin}: row {row + 1}: split {name!r} is {shown}; expected one of {', '.join(SPLITS)}")
    return codes


def read_times(values: pd.Series[Any], name: str, origin: str) -> NDArray[Any]:
    """(rows,) numbers as they are, or datetime64 in UTC of dates, also of ISO text."""
    if pd.api.types.is_numeric_dtype(values):
        times: pd.Series[Any] = values
    else:
        times = pd.to_datetime(values, errors="coerce", utc=True, format="ISO8601")
    missing = times.isna().to_numpy()
    if missing.any():
        row = int(missing.argmax())
        raise InputError(
            f"{origin}: row {row + 1}: time {name!r} is {shown_value(values.iloc[row])}; "
            "expected a number or an ISO 8601 date"
        )
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        times = times.dt.tz_localize(None)
    return times.to_numpy()


def _check(codes: NDArray[np.int8], spec: SplitSpec, origin: str) -> None:
    for code, name in enumerate(SPLITS):
        if (codes == code).any():
            continue
        if spec.column is None or (spec.valid and name == "valid"):
            raise InputError(
                f"{origin}: split {name!r} has none of the {len(codes)} rows; expected more rows, or other shares"
            )
        more = ", or split.valid: the share of the training rows to hold back" if name == "valid" else ""
        raise InputError(f"{origin}: no row's split {spec.column!r} is {name!r}; expected some{more}")
