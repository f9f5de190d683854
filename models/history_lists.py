"""A column of lists of texts, as a history."""

from __future__ import annotations

import json
from array import array
from typing import Any

import numpy as np
import pandas as pd

from sparsefront.models.histories import Behaviours
from sparsefront.models.history_spec import HistorySpec
from sparsefront.models.history_texts import is_blank, is_unicode, shown
from sparsefront.models.ragged import offsets_of
from sparsefront.spaces import InputError


def read_lists(values: pd.Series[Any], spec: HistorySpec, origin: str) -> Behaviours:
    """The behaviours of a column of lists; a cell of text is a list in JSON, as CSV and TSV need it.

    A missing cell is an empty list; texts in which nothing stands are left out and counted.

    Raises:
        InputError: a cell that is no list, or one that holds something else than texts.
    """
    number: dict[str, int] = {}
    numbers = array("i")
    lengths = np.zeros(len(values), np.int64)
    found = blank = cut = 0
    for row, cell in enumerate(values.tolist(), start=1):
        texts = list_of(cell)
        if texts is None:
            raise InputError(
                f"{origin}: row {row}: history {spec.name!r} is {shown(cell)}; expected a list of texts"
                f"{' in JSON' if isinstance(cell, str) else ''}"
            )
        for place, text in enumerate(texts, start=1):
            if not isinstance(text, str) or (text not in number and not is_unicode(text)):
                raise InputError(
                    f"{origin}: row {row}: history {spec.name!r} holds {shown(text)} at place {place}; expected texts"
                )
        kept = [text for text in texts if not is_blank(text)]
        newest = kept[: spec.max] if spec.newest_first else kept[: -spec.max - 1 : -1]
        numbers.extend(number.setdefault(text, len(number)) for text in newest)
        lengths[row - 1] = len(newest)
        found, blank, cut = found + len(texts), blank + len(texts) - len(kept), cut + len(kept) - len(newest)
    return Behaviours(
        texts=list(number),
        numbers=np.array(numbers, np.int32),
        offsets=offsets_of(lengths),
        counts={
            "name": spec.name,
            "kind": "lists",
            "max": spec.max,
            "listed": found,
            "empty_texts": blank,
            "cut": cut,
        },
    )


def list_of(cell: Any) -> list[Any] | None:
    """What a cell lists, in JSON where it is a text; ``None`` for what is no list."""
    if isinstance(cell, str):
        if is_blank(cell):
            return []
        try:
            cell = json.loads(cell)
        except (ValueError, RecursionError):
            return None
        return cell if isinstance(cell, list) else None
    if isinstance(cell, np.ndarray):
        return cell.tolist() if cell.ndim == 1 else None
    if isinstance(cell, list | tuple):
        return list(cell)
    return [] if pd.api.types.is_scalar(cell) and pd.isna(cell) else None
