"""Progress of the steps of a run: bars with remaining time on a terminal, one line each elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table


class Advance(Protocol):
    """Told how far a step is; ``facts`` is what else is worth watching, by name."""

    def __call__(self, done: int, total: int, facts: Mapping[str, str] | None = None) -> None: ...


class Reporter(Protocol):
    """Told what a run does."""

    def step(self, title: str) -> AbstractContextManager[Advance]:
        """Enter a step that takes a while; yields ``advance(done, total, facts)``."""

    def say(self, line: str) -> None:
        """One line worth reading."""


class Silent:
    """Reports nothing: for notebooks, tests and ``--json``."""

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """See :class:`Reporter`."""
        yield lambda done, total, facts=None: None

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
        progress = Progress(*columns, console=self.console, auto_refresh=False)
        task = progress.add_task(title, total=None)
        known: dict[str, str] = {}

        def view() -> Group:
            return Group(progress, *([_table(known)] if known else []))

        with Live(get_renderable=view, console=self.console, refresh_per_second=4):

            def advance(done: int, total: int, facts: Mapping[str, str] | None = None) -> None:
                known.update(facts or {})
                progress.update(task, completed=done, total=total)

            yield advance

    def say(self, line: str) -> None:
        """See :class:`Reporter`."""
        self.console.print(line, highlight=False)


def _table(facts: Mapping[str, str]) -> Table:
    """Names and values in one row of columns."""
    table = Table(box=None, pad_edge=True)
    for name in facts:
        table.add_column(name, justify="right")
    table.add_row(*facts.values())
    return table
