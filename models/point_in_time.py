"""Joining events to rows as they stood at each row's time.

What happens at the same instant is not known before: an event belongs to a row where it is strictly older.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.ragged import Ints, offsets_of, pieces, spread


@dataclass(frozen=True, kw_only=True, eq=False)
class Joined:
    """Events of each row.

    Attributes:
        events: (total,) int32, places of the events, the newest first within a row; of one instant that first which
            stands later in its table.
        offsets: (rows + 1,) where each row's begin.
        known: (rows,) how many there are for each row, before only the newest were kept.
        late: (events,) bool, which are not before any row of their user.
    """

    events: NDArray[np.int32]
    offsets: Ints
    known: Ints
    late: NDArray[np.bool_]


def join_events(
    *, row_users: Ints, row_times: NDArray[Any], event_users: Ints, event_times: NDArray[Any], most: int
) -> Joined:
    """The newest events of each row's user before its time. Memory grows with rows, events and the result alone.

    Args:
        row_users: (rows,) numbers of users from 0.
        row_times: (rows,) of the same kind as the events': numbers, or instants of one unit.
        event_users: (events,) in the numbering of the rows, all of which have rows.
        event_times: (events,).
        most: events that a row gets.
    """
    instants, at = np.unique(np.concatenate([row_times, event_times]), return_inverse=True)
    row_ranks, event_ranks = at[: len(row_times)], at[len(row_times) :]
    # Time within user as one number: the rank of an instant stands for it.
    row_keys, event_keys = (u * len(instants) + r for u, r in ((row_users, row_ranks), (event_users, event_ranks)))
    order = np.argsort(event_keys, kind="stable")
    ordered = event_keys[order]
    ends = np.searchsorted(ordered, row_keys)
    known = ends - np.searchsorted(ordered, row_users * len(instants))
    lengths = np.minimum(known, most)
    offsets = offsets_of(lengths)
    events = np.empty(offsets[-1], np.int32)
    for rows in pieces(offsets):
        backwards = spread(1 - ends[rows], lengths[rows])  # so that the newest come first
        events[offsets[rows.start] : offsets[rows.stop]] = order[-backwards]
    last = np.full(int(row_users.max(initial=-1)) + 1, -1, np.int64)
    np.maximum.at(last, row_users, row_ranks)
    return Joined(events=events, offsets=offsets, known=known, late=event_ranks >= last[event_users])
