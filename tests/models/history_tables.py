"""Rows with histories, the events of their users, and task files that name them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from sparsefront.models.task import Task

ROWS = 40
LIKED: dict[str, Any] = {"column": "liked", "max": 3}
SEEN: dict[str, Any] = {"events": "seen.parquet", "user": "who", "time": "at", "text": "film", "max": 4}
FILE: dict[str, Any] = {
    "data": "rows.parquet",
    "item": "title",
    "histories": [LIKED, SEEN],
    "label": {"column": "click", "kind": "binary"},
    "split": {"valid": 0.2, "test": 0.2},
    "metric": "log_loss",
}
ONLY_LISTS = {**FILE, "histories": [LIKED]}
ONLY_EVENTS = {**FILE, "histories": [SEEN]}


def rows_with_histories() -> pd.DataFrame:
    rows = np.arange(ROWS)
    return pd.DataFrame(
        {
            "title": [f"title {row % 7}" for row in rows],
            "genre": [f"genre {row % 3}" for row in rows],
            "liked": [[f"film {one}" for one in range(row % 6)] for row in rows],
            "who": rows % 4,
            "at": rows,
            "click": rows // 2 % 2,
            "price": rows * 0.5,
        }
    )


def events_of_users() -> pd.DataFrame:
    events = np.arange(60)
    return pd.DataFrame(
        {"who": events % 5, "at": events - 10, "film": [f"film {one % 11}" for one in events], "genre": "drama"}
    )


def write(
    folder: Path, frame: pd.DataFrame | None = None, seen: pd.DataFrame | None = None, content: Any = None
) -> Path:
    """A task file in ``folder`` with its tables beside it, in the formats that it names."""
    path = folder / "task.yaml"
    content = FILE if content is None else content
    tables = [(content["data"], frame)]
    tables += [(one["events"], seen) for one in content["histories"] if "events" in one]
    for name, table in tables:
        if table is None:
            continue
        if name.endswith("parquet"):
            table.to_parquet(folder / name)
        else:
            told = table.assign(liked=[json.dumps(one) for one in table["liked"]]) if "liked" in table else table
            told.to_csv(folder / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    path.write_text(yaml.safe_dump(content))
    return path


def behaviours(task: Task, history: int = 0) -> list[list[str]]:
    """The texts of a history, the newest first, of every row."""
    found = task.histories
    assert found is not None
    offsets, numbers = found.offsets[history], found.behaviours[history]
    return [
        [found.texts[one] for one in numbers[offsets[row] : offsets[row + 1]].tolist()] for row in range(len(found))
    ]
