"""TextKeys: which row of a store a text has. An LMDB environment, so that a batch is there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import lmdb
import numpy as np
from numpy.typing import NDArray

from sparsefront.spaces import InputError

KEY_BYTES: Final = 16
DATA: Final = "data.mdb"
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What an operating system says when there is no room for more."""
_ROW_BYTES: Final = 8
_ABSENT: Final = (-1).to_bytes(_ROW_BYTES, "little", signed=True)
_COUNT: Final = b"rows"  # shorter than the key of any text
_FIRST_BYTES: Final = 64 << 20
_MAX_READERS: Final = 1024


class DiskFull(InputError):
    """There is no room for a batch; what was committed before stands."""


def key_of(text: str) -> bytes:
    """The first 16 bytes of a text's SHA-256; ``ValueError`` for what is no text, or none that UTF-8 can hold."""
    if not isinstance(text, str):
        raise ValueError(f"a behaviour must be text, got {type(text).__name__} {text!r}")
    return hashlib.sha256(text.encode()).digest()[:KEY_BYTES]


class TextKeys:
    """Rows by the keys of their texts, and how many rows there are: both change in one transaction.

    LMDB wants a folder opened once in a process, so those who open the same one share it; it is closed with the last.
    A process that is forked must open its own.
    """

    _shared: Final[dict[tuple[int, int, int], _Shared]] = {}
    _guard: Final = threading.Lock()

    def __init__(self, folder: Path, identity: tuple[int, int, int], shared: _Shared) -> None:
        self.folder = folder
        self._identity, self._own = identity, shared
        self._closed = False

    @classmethod
    def make(cls, folder: Path) -> None:
        """A folder of no keys, whole or not at all."""
        partial = folder.with_name(f".{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with _told(folder):
            lmdb.open(str(partial)).close()
        keys = cls.open(partial)
        try:
            keys.add([], count=0)
        finally:
            keys.close()
        os.replace(partial, folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """The keys in a folder; ``InputError`` where there are none, or they are damaged."""
        data = folder / DATA
        if not data.is_file():
            raise InputError(f"{data}: no such file; expected the keys of a behaviour store")
        if not data.stat().st_size:  # LMDB would take it for a new one
            raise InputError(f"{data}: truncated: it is empty; expected the keys of a behaviour store")
        about = os.stat(folder)
        identity = (os.getpid(), about.st_dev, about.st_ino)
        with cls._guard:
            shared = cls._shared.get(identity)
            if shared is None:
                with _told(folder):
                    shared = cls._shared[identity] = _Shared(_environment(folder))
            shared.users += 1
        return cls(folder, identity, shared)

    def count(self) -> int:
        """Rows that are committed."""
        return self.rows([])[1]

    def rows(self, keys: Sequence[bytes]) -> tuple[NDArray[np.int64], int]:
        """``(keys,)`` int64 row of each key, -1 where there is none, and how many rows are committed."""
        with self._own.lock, _told(self.folder):
            for again in (True, False):
                try:
                    with self._own.environment.begin() as transaction:
                        stored: bytes | None = transaction.get(_COUNT)
                        with transaction.cursor() as cursor:
                            found = dict(cursor.getmulti(keys)) if keys else {}
                    break
                except lmdb.MapResizedError:  # another process has made it larger
                    if not again:
                        raise
                    self._own.environment.set_mapsize(0)
        if stored is None:
            raise _damaged(self.folder, "it does not say how many rows there are")
        count = int.from_bytes(stored, "little")
        joined = b"".join([found.get(key, _ABSENT) for key in keys])
        if len(joined) != len(keys) * _ROW_BYTES:
            raise _damaged(self.folder, "a row of another size")
        rows = np.frombuffer(joined, "<i8").astype(np.int64)
        if rows.max(initial=-1) >= count:
            raise _damaged(self.folder, f"row {rows.max()} of {count}")
        return rows, count

    def add(self, keys: Sequence[bytes], *, count: int) -> None:
        """Commit new keys, all different, for the rows from ``count`` on.

        Raises:
            DiskFull: there is no room for them; none is added.
            InputError: the environment is damaged or the disk fails, or another number of rows is committed.
        """
        order = sorted(range(len(keys)), key=keys.__getitem__)  # neighbours share pages
        items = [(keys[at], (count + at).to_bytes(_ROW_BYTES, "little")) for at in order]
        total = (count + len(keys)).to_bytes(_ROW_BYTES, "little")
        with self._own.lock, _told(self.folder):
            while True:
                environment = self._own.environment
                try:
                    with environment.begin(write=True) as transaction:
                        stored = int.from_bytes(transaction.get(_COUNT, b""), "little")
                        if stored != count:
                            raise InputError(f"{self.folder}: {stored} rows are committed; expected {count}")
                        with transaction.cursor() as cursor:
                            cursor.putmulti(items)
                        transaction.put(_COUNT, total)
                    return
                except lmdb.MapFullError:
                    environment.set_mapsize(2 * environment.info()["map_size"])
                except lmdb.MapResizedError:
                    environment.set_mapsize(0)
                except lmdb.Error as error:
                    # LMDB calls a write that ended early an I/O error.
                    if getattr(error, "code", 0) in FULL | {errno.EIO}:
                        self._reopen()
                        raise DiskFull(str(error)) from error
                    raise

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return (self.folder / DATA).stat().st_size

    def close(self) -> None:
        """Close the environment unless others in this process still use it. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with self._guard:
            self._own.users -= 1
            if not self._own.users:
                del self._shared[self._identity]
                self._own.environment.close()

    def _reopen(self) -> None:
        """After a write that failed LMDB may refuse all others until it has looked at its files anew."""
        self._own.environment.close()
        self._own.environment = _environment(self.folder)


class _Shared:
    """An open environment, who uses it, and one transaction at a time: a map grows between transactions only."""

    def __init__(self, environment: Any) -> None:
        self.environment = environment
        self.users = 0
        self.lock = threading.RLock()


def _environment(folder: Path) -> Any:
    data = folder / DATA
    readonly = not (os.access(folder, os.W_OK) and os.access(data, os.W_OK))
    size = data.stat().st_size
    environment = lmdb.open(
        str(folder),
        map_size=max(_FIRST_BYTES, 2 * size),
        readonly=readonly,
        create=False,
        lock=not readonly,  # nobody else writes where we may not
        readahead=False,
        max_readers=_MAX_READERS,
    )
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if size < needed:  # to read on would end the process
        environment.close()
        raise InputError(f"{data}: truncated: it holds {size} bytes, expected at least {needed}")
    if not readonly:
        environment.reader_check()  # places of readers that were killed
    return environment


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Errors of LMDB as one line."""
    try:
        yield
    except lmdb.Error as error:
        if getattr(error, "code", 0) in FULL:
            raise DiskFull(str(error)) from error
        raise _damaged(folder, str(error)) from error


def _damaged(folder: Path, what: str) -> InputError:
    return InputError(f"{folder / DATA}: damaged: {what}; expected the keys of a behaviour store")
