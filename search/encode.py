"""Encoding behaviours: texts of a table that a store does not know yet, a batch at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.text_columns import TextColumns
from sparsefront.search.interrupts import held_interrupts
from sparsefront.search.progress import Advance

BATCH_TEXTS = 8192
"""Encoded and committed together: what an interruption loses."""
PIECE_ROWS = 8192


class Encodes(Protocol):
    """What is needed of a :class:`sparsefront.models.behaviour_encoder.BehaviourEncoder`."""

    texts_cut: int

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        """``(texts, width)`` vectors."""


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """What a call has done.

    Attributes:
        rows: of the table that were read.
        texts: in them, repeated ones included.
        encoded: texts that got a vector.
        cut: those of them that had more tokens than the encoder takes.
        seconds: of it all.
        recovered: texts among those encoded that an interrupted call had already encoded into shards.
        damaged_shards: names of files in the shards' folder that are no whole shards, which a killed worker leaves.
    """

    rows: int
    texts: int
    encoded: int
    cut: int
    seconds: float
    recovered: int = 0
    damaged_shards: tuple[str, ...] = ()

    @property
    def encoded_here(self) -> int:
        """Without those recovered, which need not be in the table."""
        return self.encoded - self.recovered

    @property
    def hit_rate(self) -> float | None:
        """Share of the texts that had a vector, also by an interrupted call, or got one as an earlier text's."""
        return 1 - self.encoded_here / self.texts if self.texts else None

    @property
    def vectors_per_second(self) -> float | None:
        """Of those that this call has encoded itself."""
        return self.encoded_here / self.seconds if self.encoded_here else None


def encode_columns(
    columns: TextColumns,
    store: BehaviourStore,
    encoder: Encodes,
    *,
    batch_texts: int = BATCH_TEXTS,
    advance: Advance,
) -> EncodeReport:
    """Give every text of the columns a vector in the store; what is committed is not done again.

    Memory is needed for a piece of a file and for a batch, however many texts there are.

    Args:
        columns: where the texts are.
        store: opened to write, of this encoder.
        encoder: makes the vectors.
        batch_texts: encoded and committed together.
        advance: told how many rows are done, of how many (0: not known).

    Raises:
        InputError: a file cannot be read, or the disk is full: the same call goes on.
    """
    start, cut_before = time.perf_counter(), encoder.texts_cut
    waiting: dict[str, None] = {}
    rows = texts = encoded = 0

    def commit(batch: list[str], rows_done: int) -> None:
        nonlocal encoded
        vectors = encoder.encode(batch)
        with held_interrupts():  # a write is never cut in two
            encoded += store.put(batch, vectors)
        per_second = encoded / (time.perf_counter() - start)
        facts = {"new": f"{encoded:,}", "stored": f"{len(store):,}", "new per second": f"{per_second:,.0f}"}
        advance(rows_done, columns.rows or 0, facts)

    for piece in columns.pieces(PIECE_ROWS):
        distinct = list(dict.fromkeys(piece.texts))
        known = (store.rows(distinct) >= 0).tolist()
        waiting.update({text: None for text, there in zip(distinct, known, strict=True) if not there})
        texts += len(piece.texts)
        at_first = len(waiting)
        while len(waiting) >= batch_texts:
            batch = _taken(waiting, batch_texts)
            commit(batch, rows + piece.rows * (at_first - len(waiting)) // at_first)
        rows += piece.rows
        advance(rows, columns.rows or 0)
    if waiting:
        commit(list(waiting), rows)
    seconds, cut = time.perf_counter() - start, encoder.texts_cut - cut_before
    return EncodeReport(rows=rows, texts=texts, encoded=encoded, cut=cut, seconds=seconds)


def all_texts(columns: TextColumns) -> Iterator[str]:
    """Every text, for :meth:`BehaviourStore.compact`."""
    for piece in columns.pieces():
        yield from piece.texts


def _taken(waiting: dict[str, None], count: int) -> list[str]:
    """The first so many, which wait no longer."""
    taken = list(islice(waiting, count))
    for text in taken:
        del waiting[text]
    return taken
