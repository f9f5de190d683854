"""Histories: the texts of items and behaviours, and which of them each row has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.ragged import Ints, offsets_of, pieces, spread
from sparsefront.models.tokens import PERCENTILES

EMPTY_SHARE: Final = 0.5
"""Share of rows without behaviours above which a history is warned of."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Behaviours:
    """One history as it was read.

    Attributes:
        texts: the distinct ones that rows have.
        numbers: (total,) int32, places in ``texts``, the newest first within a row.
        offsets: (rows + 1,) where each row's begin.
        counts: what was found and left out, for the report.
    """

    texts: list[str]
    numbers: NDArray[np.int32]
    offsets: Ints
    counts: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Histories:
    """The histories of all rows of a task, and their items.

    Attributes:
        texts: the distinct texts of items and behaviours.
        item: (rows,) int32, where each row's item stands in ``texts``.
        behaviours: per history (total,) int32, places in ``texts``, the newest first within a row.
        offsets: per history (rows + 1,) int64: the behaviours of row ``i`` are those from ``offsets[i]`` to
            ``offsets[i + 1]``.
        counts: per history what was found and left out; empty where nobody counted.
    """

    texts: list[str]
    item: NDArray[np.int32]
    behaviours: tuple[NDArray[np.int32], ...]
    offsets: tuple[Ints, ...]
    counts: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if len(self.offsets) != len(self.behaviours) or (self.counts and len(self.counts) != len(self.behaviours)):
            raise ValueError(
                f"{len(self.behaviours)} histories need as many offsets and counts, got {len(self.offsets)} and "
                f"{len(self.counts)}"
            )
        for name, numbers in (("item", self.item), *(("behaviours", one) for one in self.behaviours)):
            if numbers.dtype != np.int32 or numbers.ndim != 1:
                raise ValueError(f"{name} must be a flat int32 array, got {numbers.dtype} of shape {numbers.shape}")
            if len(numbers) and not (numbers.min() >= 0 and numbers.max() < len(self.texts)):
                raise ValueError(f"{name} must be in 0..{len(self.texts) - 1}, got {numbers.min()}..{numbers.max()}")
        for offsets, numbers in zip(self.offsets, self.behaviours, strict=True):
            if offsets.dtype != np.int64 or offsets.shape != (len(self) + 1,):
                raise ValueError(
                    f"offsets must be ({len(self) + 1},) int64, got {offsets.dtype} of shape {offsets.shape}"
                )
            if offsets[0] != 0 or offsets[-1] != len(numbers) or (np.diff(offsets) < 0).any():
                raise ValueError(
                    f"offsets must rise from 0 to {len(numbers)} behaviours, got {offsets[0]} to {offsets[-1]}"
                )

    @classmethod
    def of(cls, items: list[str], read: list[Behaviours]) -> Histories:
        """Texts that several have in common get one number; those of items come first."""
        number: dict[str, int] = {}
        item = np.fromiter((number.setdefault(text, len(number)) for text in items), np.int32, len(items))
        behaviours = []
        for one in read:
            numbers = np.array([number.setdefault(text, len(number)) for text in one.texts], np.int32)
            behaviours.append(numbers[one.numbers])
        return cls(
            texts=list(number),
            item=item,
            behaviours=tuple(behaviours),
            offsets=tuple(one.offsets for one in read),
            counts=tuple(one.counts for one in read),
        )

    def __len__(self) -> int:
        return len(self.item)

    @property
    def lengths(self) -> Ints:
        """(rows,) behaviours of the longest history of each row, and one: its [CLS]."""
        longest = np.zeros(len(self), np.int64)
        for offsets in self.offsets:
            np.maximum(longest, np.diff(offsets), out=longest)
        return longest + 1

    def arrays_of(self, rows: Ints) -> dict[str, NDArray[Any]]:
        """``input_ids``, ``token_type_ids`` and ``offsets`` of some rows, as :class:`TokenRows` has them.

        Args:
            rows: places of rows.
        """
        lengths = [np.diff(offsets)[rows] for offsets in self.offsets]
        offsets = offsets_of(sum(lengths, start=np.ones(len(rows), np.int64)))
        ids = np.empty(offsets[-1], np.int32)
        types = np.empty(offsets[-1], np.int8)
        ids[offsets[1:] - 1] = self.item[rows]
        types[offsets[1:] - 1] = len(self.behaviours)
        for piece in pieces(offsets):
            begin = offsets[:-1][piece]
            for kind, (numbers, own, many) in enumerate(zip(self.behaviours, self.offsets, lengths, strict=True)):
                places = spread(begin, many[piece])
                ids[places] = numbers[spread(own[rows[piece]], many[piece])]
                types[places] = kind
                begin = begin + many[piece]
        return {"input_ids": ids, "token_type_ids": types, "offsets": offsets}

    def report(self) -> dict[str, Any]:
        """How many texts there are, and per history what rows have and what was left out; ready for JSON."""
        counts = self.counts or ({},) * len(self.behaviours)
        return {
            "texts": len(self.texts),
            "items": len(np.unique(self.item)),
            "histories": [
                {**count, "behaviours": len(numbers), **_per_row(np.diff(offsets))}
                for count, numbers, offsets in zip(counts, self.behaviours, self.offsets, strict=True)
            ],
        }

    def warnings(self) -> Iterator[str]:
        """A line per history that lost events because they came after all rows of their user, and per one that most
        rows do not have."""
        for one in self.report()["histories"]:
            name = f"history {one.get('name')!r}"
            if late := one.get("events_after_rows"):
                yield (
                    f"{name}: {late} of {one['events']} events are not before any row of their user, and were dropped: "
                    "they tell what came after"
                )
            without = one["rows_without"] / max(1, len(self))
            if without > EMPTY_SHARE:
                yield f"{name} is empty in {without:.0%} of the rows"


def _per_row(lengths: Ints) -> dict[str, Any]:
    """Of (rows,) numbers of behaviours."""
    per_row = {f"p{p}": float(np.percentile(lengths, p)) if len(lengths) else 0.0 for p in PERCENTILES}
    return {"rows_without": int((lengths == 0).sum()), "per_row": {**per_row, "max": int(lengths.max(initial=0))}}
