"""Interrupts: Ctrl-C waits while something is written, so that nothing is left half done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Holds Ctrl-C back, except inside :meth:`allowed`."""

    def __init__(self) -> None:
        self._open = False
        self._pending = False

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """An interrupt raises ``KeyboardInterrupt`` here; one that came before does so on the way in."""
        self._open = True
        try:
            self._raise_pending()
            yield
        finally:
            self._open = False

    def _raise_pending(self) -> None:
        if self._pending:
            self._pending = False
            raise KeyboardInterrupt

    def _arrived(self, _signal: int, _frame: FrameType | None) -> None:
        self._pending = True
        if self._open:
            self._raise_pending()


@contextmanager
def held_interrupts() -> Iterator[Interrupts]:
    """Holds Ctrl-C back until the end, where it is raised. Threads other than the main one never get it anyway.

    A handler that somebody else has set (or a Ctrl-C that is ignored) is left alone.
    """
    held = Interrupts()
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, held._arrived)
    try:
        yield held
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
    held._raise_pending()
