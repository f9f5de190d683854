"""Arithmetic of ragged rows: many rows of different lengths, one after the other in a flat array."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
PIECE: Final = 4_194_304
"""Entries that are worked on at a time, so that what is needed beside the result does not grow with it."""


def offsets_of(lengths: NDArray[np.integer]) -> Ints:
    """(rows + 1,) where each of (rows,) lengths begins, and at last where all end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def pieces(offsets: Ints, entries: int = PIECE) -> Iterator[slice]:
    """Consecutive slices of all rows with at most so many entries each, or with a single row that has more."""
    start, rows = 0, len(offsets) - 1
    while start < rows:
        end = int(np.searchsorted(offsets, offsets[start] + entries, side="right")) - 1
        end = max(start + 1, min(end, rows))
        yield slice(start, end)
        start = end


def spread(starts: Ints, lengths: Ints) -> Ints:
    """(total,) ``start, start + 1, ...`` of each row, so many as its length says."""
    ends = np.cumsum(lengths)
    places: Ints = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
    return places
