"""Feature columns of a table: their cells as numbers, or as hashes of what they say."""

from __future__ import annotations

import hashlib
import math
import re
from decimal import Decimal
from numbers import Real
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.labels import shown_value
from sparsefront.spaces import InputError

Floats = NDArray[np.float64]
Hashes = NDArray[np.uint64]
FIRST_INEXACT: Final = 2.0**53
"""The first float that an integer may have been rounded to."""
FIRST_INEXACT_DECIMAL: Final = Decimal(10) ** 28
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")


def read_numbers(values: pd.Series[Any], name: str, origin: str) -> Floats:
    """(rows,) float64 of a numeric column, NaN where a value is missing.

    Booleans are 0 and 1; decimals, and text that is a number, are that number. ``origin`` is the file that an error
    names: for infinite numbers, dates, and whatever else is no number.
    """
    numbers = _whole_column(values)
    if numbers is None:
        cells = [_number(value) for value in values.tolist()]
        for row, (cell, value) in enumerate(zip(cells, values.tolist(), strict=True), start=1):
            if cell is None:
                raise InputError(
                    f"{origin}: row {row}: numeric {name!r} is {shown_value(value)}; expected a number or no value"
                )
        numbers = np.array(cells, np.float64)
    beyond = np.abs(numbers) > np.finfo(np.float32).max  # False for NaN
    if beyond.any():
        row = int(beyond.argmax())
        raise InputError(
            f"{origin}: row {row + 1}: numeric {name!r} is {numbers[row]:g}; expected a finite number below 3.4e38"
        )
    return numbers


def _whole_column(values: pd.Series[Any]) -> Floats | None:
    """Of a column whose type says that all cells are numbers."""
    if pd.api.types.is_bool_dtype(values) or pd.api.types.is_numeric_dtype(values):
        return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan), np.float64)
    return None


def _number(value: Any) -> float | None:
    """A cell as a number, NaN where there is no value; ``None`` when it is something else."""
    if not pd.api.types.is_scalar(value):
        return None
    if isinstance(value, str):
        if not value.strip():
            return float("nan")
        try:
            return float(value)
        except ValueError:
            return None
    if pd.isna(value):
        return float("nan")
    return _nearest(value) if isinstance(value, Real | Decimal | np.bool_) else None


def _nearest(value: Any) -> float:
    """The float of a number, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:  # of whole numbers; decimals are infinite then
        return float("inf") if value > 0 else float("-inf")


def read_hashes(values: pd.Series[Any], name: str, origin: str) -> tuple[Hashes, NDArray[np.int64]]:
    """Of a categorical column: ``hashes`` (distinct,) of its values, and ``at`` (rows,), where in them each row's
    stands, -1 where a value is missing.

    Values are told apart by what they say: 3, 3.0, "3" and "3.0" are one value, as a table may store it otherwise than
    the requests that come later do. Empty text is a missing value.

    Raises:
        InputError: a cell that is no category, or a float for which an identifier may have been rounded.
    """
    if values.dtype == object:  # pandas would take 1 and True for one another
        cells = values.tolist()
        _check_categories(cells, name, origin)
        values = pd.Series([text_of(value) for value in cells], dtype=object)
    elif pd.api.types.is_float_dtype(values):
        _check_exact(values, name, origin)
    at, distinct = pd.factorize(values)
    if not all(_is_category(value) for value in distinct.tolist()):
        _check_categories(values.tolist(), name, origin)
    texts = [text_of(value) for value in distinct.tolist()]
    hashes, same = np.unique(np.array([hash_of(text) for text in texts], np.uint64), return_inverse=True)
    place_of = np.where(np.array(texts, object) != "", same.reshape(-1), -1)
    return hashes, np.append(place_of, -1)[at].astype(np.int64)


def _check_categories(cells: list[Any], name: str, origin: str) -> None:
    for row, value in enumerate(cells, start=1):
        if not _is_category(value):
            decimal = isinstance(value, Decimal)
            expected = "a decimal below 1e28, or text" if decimal else "text, a number, a boolean or no value"
            raise InputError(f"{origin}: row {row}: categorical {name!r} is {shown_value(value)}; expected {expected}")


def _check_exact(values: pd.Series[Any], name: str, origin: str) -> None:
    """Refuse a column of integers that pandas made floats, as one was missing, where that may have changed some."""
    inexact = np.abs(values.to_numpy(dtype=np.float64, na_value=np.nan)) >= FIRST_INEXACT  # False for NaN
    if inexact.any():
        row = int(inexact.argmax())
        raise InputError(
            f"{origin}: row {row + 1}: categorical {name!r} is {shown_value(values.iloc[row])}; expected integers or "
            "text, or floats below 2**53: beyond it they hold not every whole number"
        )


def _is_category(value: Any) -> bool:
    if isinstance(value, str | bool | np.bool_ | Real):
        return True
    if isinstance(value, Decimal):
        return value.is_nan() or is_exact(value)
    return pd.api.types.is_scalar(value) and bool(pd.isna(value))


def is_exact(value: Real | Decimal) -> bool:
    """Whether :func:`text_of` can say what a number is: not of one that is infinite or NaN, nor of a decimal of more
    whole digits than decimals are calculated with."""
    if isinstance(value, Decimal):
        return not value.is_nan() and value.copy_abs() < FIRST_INEXACT_DECIMAL
    return isinstance(value, int) or math.isfinite(value)


def text_of(value: Any) -> str:
    """What a category says; empty where there is none."""
    if isinstance(value, str):
        text = value.strip()
        whole = _WHOLE.fullmatch(text)
        return whole[1] if whole else text
    if pd.isna(value):
        return ""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    return str(int(value)) if value == value // 1 else repr(float(value))


def hash_of(text: str) -> int:
    """64 bits of a text (BLAKE2b), the same on every machine."""
    encoded = text.encode("utf-8", "surrogatepass")  # JSON may hold halves of characters
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")
