"""A history in a task file: where behaviours come from and how many are kept."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from sparsefront.models.sections import ColumnName, Section, Texts

DEFAULT_MAX = 50
MOST_HISTORIES = 16
MOST_BEHAVIOURS = 4096
"""What a history may keep at most: attention costs its square."""


class HistorySpec(Section):
    """One history: a ``column`` of lists of texts in the rows, or an ``events`` table that is joined to them.

    Of a list, ``order`` says which end is the newest: by default the last. The table, a path like ``data``, shares the
    columns ``user`` and ``time`` with the rows and has the behaviours' ``text`` (one column or two); a row knows the
    events of its user that came before it. ``max`` is the most behaviours that are kept, the newest.
    """

    column: ColumnName | None = None
    events: Annotated[str, Field(min_length=1)] | None = None
    user: ColumnName | None = None
    time: ColumnName | None = None
    text: Texts = Field(default_factory=list)
    max: Annotated[int, Field(ge=1, le=MOST_BEHAVIOURS)] = DEFAULT_MAX
    order: Literal["newest_last", "newest_first"] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.column is None) == (self.events is None):
            got = "neither" if self.column is None else f"column {self.column!r} and events {self.events!r}"
            raise ValueError(f"give column (lists of texts) or events (a table), got {got}")
        of_events = {"user": self.user, "time": self.time, "text": self.text or None}
        if self.events is not None:
            for key, value in of_events.items():
                if value is None:
                    raise ValueError(f"events {self.events!r} need {key}: the column of that name")
            if self.order is not None:
                raise ValueError(f"order belongs to lists; events are ordered by time {self.time!r}")
            if len(set(self.text)) != len(self.text):
                raise ValueError(f"the two text columns must differ, got {self.text}")
        else:
            for key, value in of_events.items():
                if value is not None:
                    raise ValueError(f"{key} belongs to events, not to the lists of column {self.column!r}")
        return self

    @property
    def newest_first(self) -> bool:
        """Whether a list begins with the newest behaviour."""
        return self.order == "newest_first"

    @property
    def source(self) -> tuple[str, ...]:
        """What tells two histories of a task apart."""
        return (self.column,) if self.column is not None else (str(self.events), *self.text)

    @property
    def name(self) -> str:
        """The column, or the table and what is read of it: ``events.parquet: film``."""
        return self.column if self.column is not None else f"{self.events}: {' '.join(self.text)}"

    def key(self) -> dict[str, Any]:
        """What decides which behaviours a row has, the table's content aside, ready for JSON."""
        if self.column is not None:
            return {"column": self.column, "max": self.max, "newest_first": self.newest_first}
        return {"user": self.user, "time": self.time, "text": self.text, "max": self.max}
