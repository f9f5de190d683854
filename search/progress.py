"""Progress of the steps of a run: bars with remaining time on a terminal, one line each elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[int, int], None]


class Reporter(Protocol):
    """Told what a run does."""

    def step(self, title: str) -> AbstractContextManager[Advance]:
        """Enter a step that takes a while; yields ``advance(done, total)``."""

    def say(self, line: str) -> None:
        """One line worth reading."""


class Silent:
    """Reports nothing: for notebooks, tests and ``--json``."""

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """See :class:`Reporter`."""
        yield lambda done, total: None

    def say(self, line: str) -> None:
        """See :class:`Reporter`."""


class Rich:
    """Bars with remaining time, and lines, on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """See :class:`Reporter`."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=False) as progress:
            task = progress.add_task(title, total=None)

            def advance(done: int, total: int) -> None:
                progress.update(task, completed=done, total=total)

            yield advance

    def say(self, line: str) -> None:
        """See :class:`Reporter`."""
        self.console.print(line, highlight=False)
