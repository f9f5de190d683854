"""From a label column to training targets and positive rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.task_file import LabelSpec
from sparsefront.spaces import InputError

EXPECTED = {"binary": "0 or 1", "soft": "a number in [0, 1]"}


def read_labels(values: pd.Series[Any], spec: LabelSpec, origin: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``target`` (rows,) float32 in [0, 1] and ``positive`` (rows,) bool; ``origin`` is the file an error names."""
    low, high = spec.bounds
    expected = EXPECTED.get(spec.kind, f"a number in [{low:g}, {high:g}]")
    numbers = pd.to_numeric(_no_bools(values), errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    good = (numbers >= low) & (numbers <= high)  # False for NaN as well
    if spec.kind == "binary":
        good &= (numbers == 0) | (numbers == 1)
    if not good.all():
        row = int(np.argmin(good))
        shown = shown_value(values.iloc[row])
        raise InputError(f"{origin}: row {row + 1}: label {spec.column!r} is {shown}; expected {expected}")
    if numbers.min() == numbers.max():
        raise InputError(
            f"{origin}: label {spec.column!r} is {numbers[0]:g} in all {len(numbers)} rows; expected different labels"
        )
    return ((numbers - low) / (high - low)).astype(np.float32), numbers >= spec.threshold


def shown_value(value: Any) -> str:
    """A cell as an error line shows it."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return "no value"
    return repr(value.item() if isinstance(value, np.generic) else value)


def _no_bools(values: pd.Series[Any]) -> pd.Series[Any]:
    """Booleans as 0 and 1, also where a missing value made the column one of objects."""
    if values.dtype == object:
        return values.map(lambda value: float(value) if isinstance(value, bool) else value)
    return values
