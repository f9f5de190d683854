"""Tasks with histories: the line that wrong cells, columns and tables get."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.models.history_tables import (
    FILE,
    ONLY_EVENTS,
    ROWS,
    SEEN,
    events_of_users,
    rows_with_histories,
    write,
)
from tests.models.test_task_file import refused

from sparsefront.models.task import Task
from sparsefront.spaces import InputError


@pytest.fixture
def frame() -> pd.DataFrame:
    return rows_with_histories()


@pytest.fixture
def seen() -> pd.DataFrame:
    return events_of_users()


@pytest.mark.parametrize(
    ("column", "value", "line"),
    [
        ("liked", "film 1", "history 'liked' is 'film 1'; expected a list of texts in JSON"),
        ("liked", '["a", 3]', "history 'liked' holds 3 at place 2; expected texts"),
        ("liked", '{"a": 3}', "history 'liked' is '{\"a\": 3}'; expected a list of texts in JSON"),
        ("liked", '["a", NaN]', "history 'liked' holds no value at place 2; expected texts"),
        ("liked", "[" * 100_000,
         f"history 'liked' is '{'[' * 59}...; expected a list of texts in JSON"),
        ("liked", '["\\ud800"]', "history 'liked' holds '\\ud800' at place 1; expected texts"),
        ("liked", 7, "history 'liked' is 7; expected a list of texts"),
        ("liked", {"a": 1}, "history 'liked' is {'a': 1}; expected a list of texts"),
        ("liked", ["a", np.nan], "history 'liked' holds no value at place 2; expected texts"),
        ("liked", ["a", None, "b"], "history 'liked' holds no value at place 2; expected texts"),
        ("liked", np.array([1.5, 2.0]), "history 'liked' holds 1.5 at place 1; expected texts"),
        ("liked", np.array([["a"]]), "history 'liked' is array([['a']], dtype='<U1'); expected a list of texts"),
        ("liked", [["a"]], "history 'liked' holds ['a'] at place 1; expected texts"),
        ("title", "", "item 'title' is empty; expected text"),
        ("title", " \t", "item 'title' is empty; expected text"),
        ("title", 3, "item 'title' is 3; expected text"),
        ("title", None, "item 'title' is no value; expected text"),
        ("who", None, "user 'who' is missing"),
        ("who", True, "user 'who' is True; expected text or a number"),
        ("who", np.inf, "user 'who' is inf; expected text or a number"),
        ("who", Decimal("1E+28"), "user 'who' is Decimal('1E+28'); expected text or a number"),
        ("who", Decimal("Infinity"), "user 'who' is Decimal('Infinity'); expected text or a number"),
        ("who", " ", "user 'who' is ' '; expected text or a number"),
        ("who", ["a"], "user 'who' is ['a']; expected text or a number"),
        ("at", "soon", "time 'at' is 'soon'; expected a number or an ISO 8601 date"),
        ("at", None, "time 'at' is no value; expected a number or an ISO 8601 date"),
    ],
)  # fmt: skip
def test_wrong_cells(frame: pd.DataFrame, seen: pd.DataFrame, column: str, value: Any, line: str) -> None:
    cells = frame[column].astype(object).tolist()
    if column == "at" and value:
        cells = pd.date_range("2024-01-01", periods=ROWS).astype(str).tolist()
    cells[2] = value
    values = pd.Series(cells, dtype=None if column == "at" else object)
    with pytest.raises(InputError) as caught:
        Task.from_frame(frame.assign(**{column: values}), FILE, events={"seen.parquet": seen})
    assert str(caught.value) == f"rows.parquet: row 3: {line}"
    if column in seen and not isinstance(value, list):
        events = seen.assign(**{column: values.reindex(range(60)).fillna(values[0]).where(lambda one: one.index != 2,
                                                                                          values[2])})  # fmt: skip
        with pytest.raises(InputError) as caught:
            Task.from_frame(frame, FILE, events={"seen.parquet": events})
        assert str(caught.value) == f"seen.parquet: row 3: {line}"


def test_wrong_texts_of_events(frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    for value, told in ((None, "no value"), (3, "3"), (["a"], "['a']")):
        films: list[Any] = seen["film"].tolist()
        films[6] = value
        with pytest.raises(InputError) as caught:
            events = {"seen.parquet": seen.assign(film=pd.Series(films, dtype=object))}
            Task.from_frame(frame, ONLY_EVENTS, events=events)
        assert str(caught.value) == f"seen.parquet: row 7: text 'film' is {told}; expected text"


def test_wrong_columns_of_rows_and_events(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    told = (
        ("liked", frame, "rows.parquet: no column 'liked' (histories.1.column)"),
        ("who", frame, "rows.parquet: no column 'who' (histories.2.user)"),
        ("at", frame, "rows.parquet: no column 'at' (histories.2.time)"),
        ("title", frame, "rows.parquet: no column 'title' (item)"),
        ("who", seen, "seen.parquet: no column 'who' (user)"),
        ("at", seen, "seen.parquet: no column 'at' (time)"),
        ("film", seen, "seen.parquet: no column 'film' (text)"),
    )
    for column, table, line in told:
        less = table.drop(columns=column)
        path = write(tmp_path, less, seen) if table is frame else write(tmp_path, frame, less)
        assert refused(path).startswith(line)
    for key, column in (("user", "who"), ("time", "at"), ("text", "film")):
        lists = seen.assign(**{column: pd.Series([["a"]] * 60)})
        line = f"seen.parquet: row 1: column '{column}' ({key}) holds ndarray values; expected single ones"
        assert refused(write(tmp_path, frame, lists)) == line
    twice = pd.concat([seen, seen[["film"]]], axis=1)
    with pytest.raises(InputError, match=r"seen\.parquet: column 'film' stands there twice; expected different names"):
        Task.from_frame(frame, FILE, events={"seen.parquet": twice})
    names = ["who", "at", "film", "film"]
    pq.write_table(pa.Table.from_arrays([pa.array(["1"])] * 4, names=names), tmp_path / "seen.parquet")
    assert refused(write(tmp_path, frame)).startswith("seen.parquet: ")


def test_event_tables_that_cannot_be_read(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    line = "seen.parquet: no such file or folder; expected CSV, TSV, Parquet or a folder of Parquet parts"
    assert refused(write(tmp_path, frame)) == line
    (tmp_path / "seen.parquet").write_bytes(b"")
    assert refused(write(tmp_path)) == "seen.parquet: the file is empty; expected rows"
    (tmp_path / "seen.parquet").write_bytes(b"PAR1 nothing")
    assert refused(write(tmp_path)).startswith("seen.parquet: not a readable Parquet file: ")
    assert refused(write(tmp_path, seen=seen[:0])) == "seen.parquet: there are no rows; expected events"
    content = {**FILE, "histories": [{**SEEN, "events": "seen.csv"}]}
    (tmp_path / "seen.csv").write_text("who,at,film\n1,2,a\n1,NaN,b\n")
    line = "seen.csv: row 2: time 'at' is no value; expected a number or an ISO 8601 date"
    assert refused(write(tmp_path, content=content)) == line
    (tmp_path / "seen.csv").write_text("who,at,film\n1,2,a\n,3,b\n")
    assert refused(write(tmp_path, content=content)) == "seen.csv: row 2: user 'who' is missing"
    with pytest.raises(InputError, match=r"seen\.parquet: there are no rows; expected events"):
        Task.from_frame(frame, FILE, events={"seen.parquet": seen[:0]})
