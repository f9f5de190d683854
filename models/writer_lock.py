"""WriterLock: one process writes to a folder, and a second one is told which."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Self

from sparsefront.spaces import InputError

NAME = "writer.lock"
_WORD_SECONDS = 1.0
"""How long a second writer waits for the name of the first, who may have the lock since just now."""


class WriterLock:
    """A lock on a folder, held until it is released or its process ends, however that ends."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def take(cls, folder: Path) -> Self:
        """The lock of a folder that exists.

        Raises:
            InputError: another process, or another place in this one, holds it; the line says which process. Or the
                folder was removed meanwhile.
            OSError: the disk is full, for one; the lock is free then.
        """
        path = folder / NAME
        gone = InputError(f"{folder}: was removed just now; the same call may begin again")
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            raise gone from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                line = f"{folder}: {_holder(handle)} is writing to it; expected one writer at a time"
                raise InputError(line) from None
            if not os.fstat(handle).st_nlink:  # a lock on a file that has no name keeps nobody out
                raise gone
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}".encode(), 0)
        except BaseException:
            os.close(handle)
            raise
        return cls(handle)

    def release(self) -> None:
        """Let others write. May be called twice."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _holder(handle: int) -> str:
    deadline = time.monotonic() + _WORD_SECONDS
    while True:
        number, _, host = os.pread(handle, 400, 0).decode(errors="replace").partition(" ")
        if number.isdecimal() and host:
            return f"process {number}" + ("" if host == socket.gethostname() else f" on {host}")
        if time.monotonic() > deadline:
            return "another process"
        time.sleep(0.01)
