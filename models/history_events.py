"""A table of events, joined to rows as a history."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.data_file import frame_sha256, read_frame
from sparsefront.models.feature_columns import is_exact, text_of
from sparsefront.models.histories import Behaviours
from sparsefront.models.history_spec import HistorySpec
from sparsefront.models.history_texts import is_blank, joined_texts, shown
from sparsefront.models.point_in_time import join_events
from sparsefront.models.ragged import Ints
from sparsefront.models.split_rows import named, read_times
from sparsefront.models.task_columns import check_names
from sparsefront.spaces import InputError


@dataclass(frozen=True, eq=False)
class EventTable:
    """Events as they were read: ``frame``, the SHA-256 (hex) of its bytes, and the ``origin`` that errors name."""

    frame: pd.DataFrame
    sha256: str
    origin: str

    @classmethod
    def read(cls, path: Path, specs: list[HistorySpec]) -> EventTable:
        """The table at ``path``, which these histories read; ``InputError`` where it cannot be read or is empty."""
        texts = {name for spec in specs for name in (*spec.text, str(spec.user))}
        frame, sha256 = read_frame(path, text_columns=texts, expected="events")
        return cls(frame, sha256, str(path))

    @classmethod
    def of_frame(cls, frame: pd.DataFrame, name: str) -> EventTable:
        """A table in memory."""
        if not len(frame):
            raise InputError(f"{name}: there are no rows; expected events")
        frame = frame.reset_index(drop=True)
        return cls(frame, frame_sha256(frame, name), name)


def read_events(frame: pd.DataFrame, table: EventTable, spec: HistorySpec, origin: str) -> Behaviours:
    """The behaviours of each row's user before the row's time, the newest first.

    Users are the same who say the same, be it as text or as a number. Events in whose text nothing stands are left out
    and counted, and so are those of users without rows, and those that are not before any row of their user: nothing
    may be learnt from them, not even that there is such a text.

    Args:
        frame: rows with the columns of user and time.
        table: events.
        spec: which columns, and how many events a row keeps.
        origin: the file of the rows that an error names.

    Raises:
        InputError: columns that are missing or hold something else, tables that have no user in common.
    """
    user, time = str(spec.user), str(spec.time)
    check_names(table.frame, [("user", user), ("time", time), *(("text", name) for name in spec.text)], table.origin)
    texts = joined_texts(table.frame, spec.text, "text", table.origin, empty=True)
    row_times, event_times = _comparable(
        read_times(frame[time], time, origin), read_times(table.frame[time], time, table.origin), time, origin, table
    )
    row_names, row_users = _users(frame[user], user, origin)
    event_names, event_at = _users(table.frame[user], user, table.origin)
    place = {name: at for at, name in enumerate(row_names)}
    event_users = np.array([place.get(name, -1) for name in event_names], np.int64)[event_at]
    if (event_users < 0).all():
        raise InputError(
            f"{table.origin}: row 1: user {user!r} is {event_names[0]!r}, and no event's user has a row in {origin}, "
            f"where one is {row_names[0]!r}; expected the same users"
        )
    codes, distinct = pd.factorize(np.array(texts, object))
    blank = np.array([is_blank(text) for text in distinct], np.bool_)[codes]
    told = np.flatnonzero(~blank & (event_users >= 0))
    joined = join_events(
        row_users=row_users,
        row_times=row_times,
        event_users=event_users[told],
        event_times=event_times[told],
        most=spec.max,
    )
    used, numbers = _numbered(codes[told].astype(np.int32)[joined.events], len(distinct))
    return Behaviours(
        texts=distinct[used].tolist(),
        numbers=numbers,
        offsets=joined.offsets,
        counts={
            "name": spec.name,
            "kind": "events",
            "max": spec.max,
            "events": len(texts),
            "empty_texts": int(blank.sum()),
            "events_of_other_users": int((~blank & (event_users < 0)).sum()),
            "events_after_rows": int(joined.late.sum()),
            "cut": int(joined.known.sum() - len(joined.events)),
        },
    )


def _numbered(codes: NDArray[np.int32], distinct: int) -> tuple[Ints, NDArray[np.int32]]:
    """The codes that occur, rising, and all codes as places among them."""
    occurs = np.zeros(distinct, np.bool_)
    occurs[codes] = True
    return np.flatnonzero(occurs), (np.cumsum(occurs) - 1).astype(np.int32)[codes]


def _users(values: pd.Series[Any], name: str, origin: str) -> tuple[list[str], Ints]:
    """Distinct users by what they say, and (rows,) which of them each is."""
    cells = named(values, "user", name, origin)
    if values.dtype == object:  # pandas would take 1 and True for one another
        values = pd.Series([_user(value) for value in cells], dtype=object)
    at, distinct = pd.factorize(values)
    names = [_user(value) for value in distinct.tolist()]
    if "" in names:
        row = int((at == names.index("")).argmax())
        raise InputError(f"{origin}: row {row + 1}: user {name!r} is {shown(cells[row])}; expected text or a number")
    number: dict[str, int] = {}
    same = [number.setdefault(text, len(number)) for text in names]
    return list(number), np.array(same, np.int64)[at]


def _user(value: Any) -> str:
    """Who that is; empty for what is nobody."""
    if isinstance(value, str):
        return text_of(value)
    whole = isinstance(value, Real | Decimal) and not isinstance(value, bool | np.bool_)
    return text_of(value) if whole and is_exact(value) else ""


def _comparable(
    rows: NDArray[Any], events: NDArray[Any], name: str, origin: str, table: EventTable
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Times in one unit: where both are dates, nanoseconds if both have them, else microseconds, rounded down."""
    dates = [one.dtype.kind == "M" for one in (rows, events)]
    if dates[0] != dates[1]:
        kinds = ["dates" if one else "numbers" for one in dates]
        raise InputError(
            f"{table.origin}: time {name!r} holds {kinds[1]}, and in {origin} {kinds[0]}; expected the same in both"
        )
    if not dates[0]:
        return rows, events
    unit = "ns" if all(np.datetime_data(one.dtype)[0] == "ns" for one in (rows, events)) else "us"
    return rows.astype(f"datetime64[{unit}]"), events.astype(f"datetime64[{unit}]")
