"""Cells that must be texts, for items and behaviours."""

from __future__ import annotations

from typing import Final

import pandas as pd

from sparsefront.models.labels import shown_value
from sparsefront.spaces import InputError

SHOWN_CHARACTERS: Final = 60


def joined_texts(frame: pd.DataFrame, names: list[str], key: str, origin: str, *, empty: bool) -> list[str]:
    """(rows,) texts of one column, or of several joined by a blank; ``empty``: whether a text may be.

    Raises:
        InputError: a cell that is no text, or an empty one that may not be.
    """
    columns = []
    for name in names:
        cells = frame[name].tolist()
        for row, value in enumerate(cells, start=1):
            if not isinstance(value, str):
                raise InputError(f"{origin}: row {row}: {key} {name!r} is {shown(value)}; expected text")
            if not empty and is_blank(value):
                raise InputError(f"{origin}: row {row}: {key} {name!r} is empty; expected text")
        columns.append(cells)
    if len(columns) == 1:
        return columns[0]
    return [" ".join(part for part in parts if not is_blank(part)) for parts in zip(*columns, strict=True)]


def is_blank(text: str) -> bool:
    """Whether nothing stands in a text."""
    return not text or text.isspace()


def is_unicode(text: str) -> bool:
    """Whether a text can be written: JSON may hold halves of characters."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(value: object) -> str:
    """A cell as an error line shows it, however long it is."""
    told = shown_value(value).encode("utf-8", "backslashreplace").decode()
    return told if len(told) <= SHOWN_CHARACTERS else f"{told[:SHOWN_CHARACTERS]}..."
