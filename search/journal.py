"""The journal of a study: Optuna's append-only file format, written by one driver.

Optuna's own backend takes a lock and flushes the disk for every entry, of which an evaluation needs several. A run has
one driver, so neither is needed: an entry is one ``write``, whole or, when the disk is full, not there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages.journal import BaseJournalBackend

from sparsefront.spaces import InputError

_SQLITE = b"SQLite format 3\x00"


class DriverJournal(BaseJournalBackend):
    """A file of one JSON object per line, that Optuna's ``JournalFileBackend`` and dashboard read too.

    Readers never wait and never make the driver wait. A killed process leaves whole entries; a power cut may cost the
    latest ones. What a full disk cut off is taken back before the next entry, so that the file stays readable.

    Args:
        path: made when it is not there.

    Raises:
        InputError: the file holds something else, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: int | None = None
        self._ends = [0]  # byte position at which each entry that was read begins; the last: where the next one will
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CREAT, 0o644)
        except OSError as error:
            raise InputError(f"cannot open a study in '{path}': {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as stream:
            start = stream.read(len(_SQLITE))
        if start == _SQLITE:
            raise InputError(f"cannot open a study in '{path}': it is an SQLite file; give it as sqlite:///{path}")
        if start and not start.startswith(b"{"):
            raise InputError(f"cannot open a study in '{path}': it is not a journal of Optuna's")

    def __del__(self) -> None:
        if self._writer is not None:
            os.close(self._writer)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from that number on; one that is being written is left for the next time."""
        if log_number_from == len(self._ends) - 1 and os.stat(self._path).st_size == self._ends[-1]:
            return
        with self._path.open("rb") as stream:
            number = min(log_number_from, len(self._ends) - 1)
            stream.seek(self._ends[number])
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                if number + 1 == len(self._ends):
                    self._ends.append(self._ends[number] + len(line))
                number += 1
                if number > log_number_from:
                    yield self._parsed(line, number)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """All of them, or none."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        try:
            writer = self._writer if self._writer is not None else self._opened()
            size = os.fstat(writer).st_size
            try:
                written = os.write(writer, lines)
                if written < len(lines):  # the rest says why there is no room
                    written += os.write(writer, lines[written:])
            except OSError:
                os.ftruncate(writer, size)
                raise
        except OSError as error:
            raise StorageInternalError(f"{self._path}: {error.strerror}") from error

    def _opened(self) -> int:
        """The descriptor that entries are appended to, behind the last whole one."""
        self._writer = os.open(self._path, os.O_RDWR | os.O_APPEND)
        size = os.fstat(self._writer).st_size
        tail, at = b"", size
        while at and b"\n" not in tail:
            at = max(0, at - 65536)
            tail = os.pread(self._writer, size - at, at)
        whole = at + tail.rfind(b"\n") + 1
        if whole < size:
            os.ftruncate(self._writer, whole)
        return self._writer

    def _parsed(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise InputError(f"{self._path}: line {number} is damaged: {error}") from error
        if not isinstance(entry, dict):
            raise InputError(f"{self._path}: line {number} is damaged: not an object")
        return entry
