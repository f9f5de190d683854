"""BehaviourStore: vectors of texts on disk, written once, found by the text, read without copies."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypedDict

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.store_record import RECORD, StoreRecord, check_place, sync_folder
from sparsefront.models.text_keys import FULL, DiskFull, TextKeys, key_of
from sparsefront.models.writer_lock import WriterLock
from sparsefront.spaces import InputError

Halves = NDArray[np.float16]
VECTORS: Final = "vectors.f16"
KEYS: Final = "keys"
_CHUNK: Final = 32_768  # a commit holds a page in memory for nearly every key
_MOST_SHOWN: Final = 60
REMEMBERED: Final = 65_536
"""Texts whose rows are kept in memory: a server is asked for the same ones again and again."""
_SHORT: Final = 256
"""Characters of a text that is."""


class StoreStats(TypedDict):
    """What a store holds, and how often what was asked of it in this process was there."""

    distinct: int
    width: int
    bytes: int
    bytes_per_vector: float | None
    hits: int
    misses: int
    hit_rate: float | None


class BehaviourStore:
    """Vectors of one encoder, by text: each distinct text has one row of ``width`` half-precision numbers.

    A folder: ``store.json`` says whose vectors these are, ``vectors.f16`` is an array of rows that is only ever
    appended to, ``keys/`` is an LMDB environment with the row of each text's hash and the number of rows. A batch is
    written to ``vectors.f16`` and flushed before one transaction adds its keys and the new number of rows. So whatever
    ends a process, the rows that are counted are whole; what stands behind them belongs to nobody and is cut off by the
    next writer. Readers need no lock and see new batches as they are committed. Threads may share a store, also to
    write. Open one with :meth:`open`.
    """

    def __init__(self, path: Path, *, width: int, fingerprint: str, keys: TextKeys, lock: WriterLock | None) -> None:
        self.path, self.width, self.encoder_fingerprint = path, width, fingerprint
        self._keys, self._lock = keys, lock
        self._putting = threading.Lock()
        self._row_bytes = 2 * width
        self._hits = self._misses = 0
        self._remembered: dict[str, int] = {}  # a row is its text's for good
        self._mapped: Halves = np.zeros((0, width), np.float16)
        self._map(keys.count())

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        encoder_fingerprint: str | None = None,
        width: int | None = None,
        write: bool = False,
    ) -> Self:
        """An existing store, or, to write, a new one where there is none.

        Args:
            path: its folder.
            encoder_fingerprint: of the encoder whose vectors are wanted; may be left out to read whatever there is.
            width: numbers per vector; likewise.
            write: be the one process that appends.

        Raises:
            InputError: no store, one of another encoder, width or version, a truncated or damaged one, or one that
                another process is writing to; nothing is changed then. Or the disk is full.
        """
        path = Path(path)
        if not write:
            if not path.is_dir():
                raise InputError(f"{path}: no such folder; expected a behaviour store (sparsefront encode makes one)")
            own = StoreRecord.read(path)
            own.check(path, encoder=encoder_fingerprint, width=width)
            return cls._opened(path, own, lock=None)
        check_place(path)
        with _told_full(path):
            path.mkdir(parents=True, exist_ok=True)
            lock = WriterLock.take(path)
        try:
            if (path / RECORD).exists():
                own = StoreRecord.read(path)
                own.check(path, encoder=encoder_fingerprint, width=width)
            else:
                own = StoreRecord(encoder=encoder_fingerprint or "", width=width or 0)
                with _told_full(path):
                    own.write(path)
            return cls._opened(path, own, lock=lock)
        except BaseException:
            lock.release()
            raise

    @staticmethod
    def is_made(path: Path) -> bool:
        """Whether there is a store to read, whole or damaged; what an interrupted creation has left is none yet."""
        return (path / RECORD).exists() and not _is_unwritten(path)

    @classmethod
    def _opened(cls, path: Path, own: StoreRecord, *, lock: WriterLock | None) -> Self:
        vectors = path / VECTORS
        if lock is not None and _is_unwritten(path):
            with _told_full(path):
                vectors.touch()
                TextKeys.make(path / KEYS)
                sync_folder(path)
        keys = TextKeys.open(path / KEYS)
        try:
            count = keys.count()
            expected, size = count * 2 * own.width, _size(vectors)  # in this order: a writer may be adding to both
            if size < expected:
                raise InputError(
                    f"{vectors}: truncated: it holds {size} bytes, expected {expected} for the "
                    f"{count} behaviours that {KEYS} knows"
                )
            if lock is not None and size > expected:  # left by a writer that was killed
                os.truncate(vectors, expected)
            return cls(path, width=own.width, fingerprint=own.encoder, keys=keys, lock=lock)
        except BaseException:
            keys.close()
            raise

    def __len__(self) -> int:
        """Distinct texts that are committed."""
        return self._keys.count()

    @property
    def writable(self) -> bool:
        """Whether it was opened to write."""
        return self._lock is not None

    @property
    def matrix(self) -> Halves:
        """``(rows, width)`` of all vectors: the file itself as memory, read-only, of which nothing is copied."""
        return self._map(self._keys.count())

    def rows(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """``(texts,)`` int64: the row of each text's vector, -1 where it has none."""
        remembered = self._remembered
        rows = np.array([remembered.get(text, -1) if isinstance(text, str) else -1 for text in texts], np.int64)
        asked = np.flatnonzero(rows < 0)
        if len(asked):
            wanted = [texts[at] for at in asked.tolist()]
            rows[asked], _ = self._keys.rows([key_of(text) for text in wanted])
            self._remember(wanted, rows[asked].tolist())
        found = int((rows >= 0).sum())
        self._hits += found
        self._misses += len(rows) - found
        return rows

    def vectors(self, rows: NDArray[np.integer[Any]], *, out: Halves | None = None) -> Halves:
        """``(rows, width)`` vectors, copied once from the mapped file, into ``out`` where that is given.

        Raises:
            ValueError: a row that is not there, as -1 is.
        """
        if not len(rows):
            return np.zeros((0, self.width), np.float16) if out is None else out
        first, last = int(rows.min()), int(rows.max())
        mapped = self._mapped  # read once: another thread may map anew meanwhile
        matrix = mapped if last < len(mapped) else self.matrix
        if first < 0 or last >= len(matrix):
            raise ValueError(f"rows must be from 0 to {len(matrix) - 1}, got {first} to {last}")
        if out is None:
            out = np.empty((len(rows), self.width), np.float16)
        return np.take(matrix, rows, axis=0, out=out, mode="clip")  # checked above: "raise" would copy twice

    def put(self, texts: Sequence[str], vectors: NDArray[np.floating[Any]]) -> int:
        """Append the vectors of those texts that have none yet, durably; returns how many those are.

        Args:
            texts: some may be there already or stand here twice: then the first vector stays.
            vectors: ``(texts, width)``.

        Raises:
            InputError: the disk is full: what was committed before stays, and the same call goes on when there is room.
                Or a vector holds numbers that half precision does not.
            ValueError: vectors of another shape.
        """
        if self._lock is None:
            raise ValueError(f"{self.path}: was opened to read; open it with write=True")
        if vectors.shape != (len(texts), self.width):
            raise ValueError(f"vectors must be ({len(texts)}, {self.width}), got {vectors.shape}")
        keys = [key_of(text) for text in texts]
        with self._putting:  # another thread's batch would begin at the same row
            known, count = self._keys.rows(keys)
            first = {key: at for at, key in reversed(list(enumerate(keys))) if known[at] < 0}
            new = np.sort(np.fromiter(first.values(), np.int64, len(first)))
            if not len(new):
                return 0
            with np.errstate(over="ignore"):
                halves = np.ascontiguousarray(vectors[new], "<f2")
            if not np.isfinite(halves).all():
                text = texts[int(new[~np.isfinite(halves).all(axis=1)][0])]
                raise InputError(
                    f"{self.path}: the vector of {_shown(text)} is not finite in half precision; expected finite ones"
                )
            with _told_full(self.path):
                try:
                    _append(self.path / VECTORS, count * self._row_bytes, halves)
                    self._keys.add([keys[at] for at in new.tolist()], count=count)
                except (OSError, DiskFull):
                    self._cut(count)
                    raise
            return len(new)

    def get(
        self, texts: Sequence[str], encode: Callable[[list[str]], Halves] | None = None, *, keep: bool = True
    ) -> Halves:
        """``(texts, width)`` vectors; what is missing is encoded, and kept where the store was opened to write.

        Args:
            texts: any, also twice.
            encode: makes the vectors of texts that are all different.
            keep: False leaves :meth:`put` to the caller, who wants the vectors whatever becomes of it.

        Raises:
            InputError: a vector is missing and there is nothing to encode with.
        """
        rows = self.rows(texts)
        missing = np.flatnonzero(rows < 0)
        if not len(missing):
            return self.vectors(rows)
        if encode is None:
            raise InputError(
                f"{self.path}: {len(missing)} of {len(texts)} texts have no vector, the first is "
                f"{_shown(texts[int(missing[0])])}; expected all of them (sparsefront encode adds them)"
            )
        fresh = list(dict.fromkeys(texts[at] for at in missing.tolist()))
        encoded = np.asarray(encode(fresh), np.float16)
        if keep and self._lock is not None:
            self.put(fresh, encoded)
        found = np.empty((len(texts), self.width), np.float16)
        there = np.flatnonzero(rows >= 0)
        found[there] = self.vectors(rows[there])
        place = {text: at for at, text in enumerate(fresh)}
        found[missing] = encoded[[place[texts[at]] for at in missing.tolist()]]
        return found

    def stats(self) -> StoreStats:
        """What there is, and how often what was asked by :meth:`rows` and :meth:`get` was there."""
        distinct, asked = len(self), self._hits + self._misses
        size = distinct * self._row_bytes + self._keys.size_bytes
        return {
            "distinct": distinct,
            "width": self.width,
            "bytes": size,
            "bytes_per_vector": size / distinct if distinct else None,
            "hits": self._hits,
            "misses": self._misses,
            "hit_rate": self._hits / asked if asked else None,
        }

    def compact(self, keep_texts: Iterable[str], path: Path | str) -> int:
        """Write another store with the vectors of these texts only, as far as they have one; returns how many.

        The new store appears under its name when it is whole; what a call that fails has written is removed.

        Raises:
            InputError: something stands at ``path``, the disk is full, or another call writes a store of that name.
        """
        path = Path(path)
        _check_free(path)
        with _workshop(path) as partial:
            _check_free(path)  # a call that ended just now has made it
            with BehaviourStore.open(
                partial, encoder_fingerprint=self.encoder_fingerprint, width=self.width, write=True
            ) as other:
                kept_texts = iter(keep_texts)
                while texts := list(islice(kept_texts, _CHUNK)):
                    rows, _ = self._keys.rows([key_of(text) for text in texts])
                    there = np.flatnonzero(rows >= 0)
                    other.put([texts[at] for at in there.tolist()], self.vectors(rows[there]))
                kept = len(other)
            os.replace(partial, path)
        return kept

    def close(self) -> None:
        """Let others write; arrays that were handed out stay valid. May be called twice."""
        self._keys.close()
        self._remembered = {}
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remember(self, texts: Sequence[str], rows: list[int]) -> None:
        """Keep the rows of texts that have one; all that was kept before is dropped where it gets too much."""
        new = {text: row for text, row in zip(texts, rows, strict=True) if row >= 0 and len(text) <= _SHORT}
        if len(self._remembered) + len(new) > REMEMBERED:
            self._remembered = {}
        if len(new) <= REMEMBERED:
            self._remembered.update(new)

    def _map(self, count: int) -> Halves:
        mapped = self._mapped  # read once: another thread may map more, or less, meanwhile
        if count > len(mapped):
            mapped = np.memmap(self.path / VECTORS, "<f2", "r", shape=(count, self.width)).view(np.ndarray)
            self._mapped = mapped
        return mapped

    def _cut(self, count: int) -> None:
        """Give back the room of a batch that did not fit."""
        with suppress(OSError):  # what is left is overwritten, or cut off by the next writer
            os.truncate(self.path / VECTORS, count * self._row_bytes)


def _size(path: Path) -> int:
    """Bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def _is_unwritten(path: Path) -> bool:
    """Whether a store has neither keys nor vectors: nobody has ever written to it."""
    return not _size(path / VECTORS) and not (path / KEYS).exists()


def _check_free(path: Path) -> None:
    if path.exists():
        raise InputError(f"{path}: exists already; expected the name of a new store")


@contextmanager
def _workshop(path: Path) -> Iterator[Path]:
    """A folder's place until it is whole, beside its name: one call's at a time, and removed however that ends."""
    around = path.with_name(f".{path.name}.partial")
    with _told_full(around):
        around.mkdir(parents=True, exist_ok=True)
        lock = WriterLock.take(around)
    try:
        shutil.rmtree(around / "store", ignore_errors=True)  # of a call that was killed
        yield around / "store"
    finally:
        shutil.rmtree(around, ignore_errors=True)
        lock.release()


def _shown(text: str) -> str:
    """Its beginning, for one line."""
    return repr(text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}...")


def _append(path: Path, offset_bytes: int, rows: Halves) -> None:
    """Write behind what is counted and wait until the disk has it."""
    handle = os.open(path, os.O_WRONLY)
    try:
        left = rows.data.cast("B")
        while left:
            written = os.pwrite(handle, left, offset_bytes)
            offset_bytes, left = offset_bytes + written, left[written:]
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _told_full(path: Path) -> Iterator[None]:
    """A full disk as one line."""
    try:
        yield
    except (OSError, DiskFull) as error:
        if isinstance(error, OSError) and error.errno not in FULL:
            raise
        raise DiskFull(
            f"{path}: no room left on the disk ({error}); what was committed stays, the same call goes on with room"
        ) from error
