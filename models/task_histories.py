"""The histories of a task: from what its file says to the texts that each row has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sparsefront.models.histories import Histories
from sparsefront.models.history_events import EventTable, read_events
from sparsefront.models.history_lists import read_lists
from sparsefront.models.history_texts import joined_texts
from sparsefront.models.task_file import TaskFile


def read_tables(
    spec: TaskFile, folder: Path, frames: Mapping[str, pd.DataFrame] | None = None
) -> dict[str, EventTable]:
    """The event tables of a task file in ``folder``, by what it calls them; each is read once.

    ``frames``: those that are in memory.
    """
    tables: dict[str, EventTable] = {}
    for name, path in spec.event_paths(folder).items():
        if frames is not None and name in frames:
            tables[name] = EventTable.of_frame(frames[name], name)
        else:
            tables[name] = EventTable.read(path, [one for one in spec.histories if one.events == name])
    return tables


def read_histories(
    frame: pd.DataFrame, spec: TaskFile, tables: Mapping[str, EventTable], origin: str
) -> Histories | None:
    """Of all rows; ``None`` where a task has none. ``InputError`` for whatever is wrong in rows or tables."""
    if not spec.histories:
        return None
    items = joined_texts(frame, spec.item, "item", origin, empty=False)
    read = [
        read_lists(frame[one.column], one, origin)
        if one.column is not None
        else read_events(frame, tables[str(one.events)], one, origin)
        for one in spec.histories
    ]
    return Histories.of(items, read)


def history_key(spec: TaskFile, events_sha256: Mapping[str, str]) -> dict[str, Any]:
    """What decides which texts rows have beside the rows themselves, ready for JSON; of tables it is their bytes."""
    histories = [
        one.key() if one.events is None else {**one.key(), "events_sha256": events_sha256[one.events]}
        for one in spec.histories
    ]
    return {"item": spec.item, "histories": histories}
