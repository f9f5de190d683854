"""Events as they stood at each row's time, against a loop that looks at every event."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.models import ragged
from sparsefront.models.point_in_time import join_events
from sparsefront.models.ragged import offsets_of, pieces, spread

USERS = 3
marks = st.lists(st.tuples(st.integers(0, USERS - 1), st.integers(0, 6)), max_size=40)


def split(pairs: list[tuple[int, int]], dtype: str) -> tuple[Any, Any]:
    users = np.array([user for user, _ in pairs], np.int64)
    return users, np.array([time for _, time in pairs], np.int64).astype(dtype)


@given(marks, marks, st.integers(1, 6), st.sampled_from(["int64", "float64", "datetime64[us]"]), st.integers(1, 9))
def test_the_join_is_what_a_loop_over_rows_finds(
    rows: list[tuple[int, int]], events: list[tuple[int, int]], most: int, dtype: str, piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged.pieces, "__defaults__", (piece,))
        present = {user for user, _ in rows}
        events = [one for one in events if one[0] in present]
        (row_users, row_times), (event_users, event_times) = split(rows, dtype), split(events, dtype)
        joined = join_events(
            row_users=row_users, row_times=row_times, event_users=event_users, event_times=event_times, most=most
        )
    seen: set[int] = set()
    for row, (user, time) in enumerate(rows):
        before = [place for place, (whose, when) in enumerate(events) if whose == user and when < time]
        newest = sorted(before, key=lambda place: (events[place][1], place), reverse=True)[:most]
        assert joined.events[joined.offsets[row] : joined.offsets[row + 1]].tolist() == newest
        assert joined.known[row] == len(before)
        seen |= set(before)
    assert joined.late.tolist() == [place not in seen for place in range(len(events))]


@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12))
def test_pieces_are_all_rows_with_few_entries_each(lengths: list[int], entries: int) -> None:
    offsets = offsets_of(np.array(lengths, np.int64))
    found = list(pieces(offsets, entries))
    assert [row for one in found for row in range(one.start, one.stop)] == list(range(len(lengths)))
    for one in found:
        assert one.stop - one.start == 1 or offsets[one.stop] - offsets[one.start] <= entries


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), max_size=20))
def test_spread_counts_on_from_every_start(rows: list[tuple[int, int]]) -> None:
    starts, lengths = np.array([one for one, _ in rows], np.int64), np.array([one for _, one in rows], np.int64)
    wanted = [start + at for start, length in rows for at in range(length)]
    assert spread(starts, lengths).tolist() == wanted
