"""From a label column to training targets, positive rows and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.task_file import ClassName, LabelSpec
from sparsefront.spaces import InputError

EXPECTED = {"binary": "0 or 1", "soft": "a number in [0, 1]"}
SHOWN_CLASSES = 6


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """The labels of all rows.

    ``target``: (rows,) float32, in [0, 1] or the index of the class; ``positive``: (rows,) bool, nothing where a label
    has no positive side; ``classes``: their names by index, none where a label is a number; ``answers``: (rows, 2)
    int64, of spans the characters of the second text from the first to the one behind the last. Which tokens those are
    only a tokenizer knows, so the target of a span is 0 here.
    """

    target: NDArray[np.float32]
    positive: NDArray[np.bool_]
    classes: tuple[ClassName, ...] = ()
    answers: NDArray[np.int64] | None = None


def read_labels(values: pd.Series[Any], spec: LabelSpec, origin: str, *, train: NDArray[np.bool_]) -> Labels:
    """The labels of a column. ``origin`` is the file an error names; ``train``: (rows,), which classes come from."""
    if spec.kind == "class":
        return _read_classes(values, spec, origin, train)
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
    positive = np.zeros(len(numbers), np.bool_) if spec.threshold is None else numbers >= spec.threshold
    return Labels(target=((numbers - low) / (high - low)).astype(np.float32), positive=positive)


def _read_classes(values: pd.Series[Any], spec: LabelSpec, origin: str, train: NDArray[np.bool_]) -> Labels:
    names = [_class_name(value) for value in values.tolist()]
    label = f"label {spec.column!r}"
    for row, name in enumerate(names):
        if name is None:
            shown = shown_value(values.iloc[row])
            raise InputError(f"{origin}: row {row + 1}: {label} is {shown}; expected a class: a whole number or text")
    trained = dict.fromkeys(name for name, at in zip(names, train.tolist(), strict=True) if at and name is not None)
    if len({type(name) for name in trained}) > 1:
        raise InputError(f"{origin}: {label} holds whole numbers and text; expected classes of one kind")
    classes = tuple(spec.classes or sorted(trained, key=lambda name: (name if isinstance(name, int) else 0, str(name))))
    index = {name: at for at, name in enumerate(classes)}
    for row, name in enumerate(names):
        if name not in index:
            why = "" if spec.classes else ", a class that no training row has"
            raise InputError(
                f"{origin}: row {row + 1}: {label} is {name!r}{why}; expected one of {shown_classes(classes)}"
            )
    if len(classes) < 2:
        raise InputError(f"{origin}: {label} is {classes[0]!r} in all {len(names)} rows; expected at least 2 classes")
    for name in classes:
        if name not in trained:
            raise InputError(f"{origin}: {label}: no training row is of class {name!r}; expected some of every class")
    target = np.array([index[name] for name in names if name is not None], np.float32)
    return Labels(target=target, positive=np.zeros(len(target), np.bool_), classes=classes)


def _class_name(value: Any) -> ClassName | None:
    """A cell as a class; ``None`` when it is none. Whole numbers may come as floats: one missing cell makes them so."""
    if isinstance(value, str):
        return value if value.strip() else None
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | float | np.integer | np.floating):
        return None
    return int(value) if value == value // 1 else None  # not for NaN and infinity


def shown_classes(classes: tuple[ClassName, ...]) -> str:
    """Some classes as an error line shows them."""
    shown = ", ".join(repr(name) for name in classes[:SHOWN_CLASSES])
    return shown if len(classes) <= SHOWN_CLASSES else f"{shown} and {len(classes) - SHOWN_CLASSES} more"


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
