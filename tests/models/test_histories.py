"""Tasks with histories: which behaviours a row has, what is left out, and what of that is told."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.models.history_tables import (
    FILE,
    LIKED,
    ONLY_EVENTS,
    ONLY_LISTS,
    ROWS,
    SEEN,
    behaviours,
    events_of_users,
    rows_with_histories,
    write,
)
from tests.models.test_task import tokenizer
from tests.models.test_task_file import refused

from sparsefront.models.histories import Histories
from sparsefront.models.history_lists import read_lists
from sparsefront.models.history_spec import HistorySpec
from sparsefront.models.ragged import offsets_of
from sparsefront.models.rows import TokenRows
from sparsefront.models.task import Task
from sparsefront.spaces import InputError


@pytest.fixture
def frame() -> pd.DataFrame:
    return rows_with_histories()


@pytest.fixture
def seen() -> pd.DataFrame:
    return events_of_users()


def counts(task: Task, history: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = task.report()["histories"]["histories"][history]
    return found


def some_vectors(task: Task, width: int = 2) -> NDArray[np.float16]:
    assert task.histories is not None
    return np.random.default_rng(0).normal(size=(len(task.histories.texts), width)).astype(np.float16)


def test_rows_have_the_newest_of_their_lists_and_the_events_before_them(
    tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame
) -> None:
    task = Task.from_file(write(tmp_path, frame, seen))
    found = task.histories
    assert found is not None and len(found.behaviours) == 2
    for row, (user, at) in enumerate(zip(frame["who"], frame["at"], strict=True)):
        assert found.texts[found.item[row]] == f"title {row % 7}"
        assert behaviours(task, 0)[row] == [f"film {one}" for one in reversed(range(row % 6))][:3]
        before = seen[(seen["who"] == user) & (seen["at"] < at)].sort_values("at", ascending=False)
        assert behaviours(task, 1)[row] == before["film"].tolist()[:4]
    assert len(set(found.texts)) == len(found.texts) == 7 + 11
    lists, events = task.report()["histories"]["histories"]
    late = int((seen["at"] >= seen["who"].map(frame.groupby("who")["at"].max())).sum())
    assert (lists["name"], lists["listed"], lists["cut"]) == ("liked", 96, 96 - lists["behaviours"])
    assert (events["events"], events["events_of_other_users"], events["events_after_rows"]) == (60, 12, late)
    assert task.report()["histories"]["texts"] == 18 and task.report()["histories"]["items"] == 7
    json.dumps(task.report())


def test_every_format_gives_the_same_histories_and_fingerprints_are_of_the_bytes(
    tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame
) -> None:
    tasks = []
    for kind in ("parquet", "csv", "tsv"):
        content = {**FILE, "data": f"rows.{kind}", "histories": [LIKED, {**SEEN, "events": f"seen.{kind}"}]}
        tasks.append(Task.from_file(write(tmp_path, frame, seen, content)))
    tasks.append(Task.from_frame(frame, FILE, events={"seen.parquet": seen}))
    (tmp_path / "parts").mkdir()
    seen[:30].to_parquet(tmp_path / "parts" / "part-0.parquet")
    seen[30:].to_parquet(tmp_path / "parts" / "part-1.parquet")
    tasks.append(Task.from_file(write(tmp_path, content={**FILE, "histories": [LIKED, {**SEEN, "events": "parts"}]})))
    for task in tasks:
        assert [behaviours(task, one) for one in (0, 1)] == [behaviours(tasks[0], one) for one in (0, 1)]
    assert len({task.fingerprint for task in tasks}) == 5


def test_the_fingerprint_knows_settings_and_events(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    first = Task.from_file(write(tmp_path, frame, seen)).fingerprint
    assert Task.from_file(write(tmp_path, frame, seen)).fingerprint == first
    (tmp_path / "elsewhere.parquet").write_bytes((tmp_path / "seen.parquet").read_bytes())
    same: list[dict[str, Any]] = [
        {"histories": [{**LIKED, "order": "newest_last"}, SEEN]},
        {"histories": [LIKED, {**SEEN, "events": "elsewhere.parquet"}]},
    ]
    for change in same:
        assert Task.from_file(write(tmp_path, content={**FILE, **change})).fingerprint == first
    others: list[dict[str, Any]] = [
        {"histories": [{**LIKED, "max": 2}, SEEN]},
        {"histories": [{**LIKED, "order": "newest_first"}, SEEN]},
        {"histories": [LIKED, {**SEEN, "text": ["film", "genre"]}]},
        {"histories": [SEEN, LIKED]},
        {"histories": [LIKED]},
        {"item": ["title", "genre"]},
        {"item": "genre"},
    ]
    prints = {Task.from_file(write(tmp_path, content={**FILE, **change})).fingerprint for change in others}
    later = Task.from_file(write(tmp_path, seen=seen.assign(at=seen["at"] + 1))).fingerprint
    assert len({first, later, *prints}) == 2 + len(others)


def test_two_columns_are_one_text(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    seen.loc[0, "genre"] = " "
    content = {**ONLY_EVENTS, "item": ["title", "genre"], "histories": [{**SEEN, "text": ["film", "genre"]}]}
    task = Task.from_file(write(tmp_path, frame, seen, content))
    assert task.histories is not None
    assert task.histories.texts[task.histories.item[4]] == "title 4 genre 1"
    assert {text for row in behaviours(task) for text in row} == {"film 0", *(f"film {i} drama" for i in range(11))}


def test_order_says_which_end_of_a_list_is_the_newest() -> None:
    cells: list[Any] = [["a", "b", "c"], [], ["d"]]
    for order, wanted in (("newest_last", ["c", "b", "d"]), ("newest_first", ["a", "b", "d"])):
        spec = HistorySpec.model_validate({"column": "liked", "max": 2, "order": order})
        read = read_lists(pd.Series(cells), spec, "memory")
        assert [read.texts[one] for one in read.numbers] == wanted
        assert read.offsets.tolist() == [0, 2, 2, 3] and read.counts["cut"] == 1


def test_no_row_knows_what_happened_at_its_time_or_later() -> None:
    """The label's own event, at the row's time, must not be in the row's history, nor anything that came after."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"who": rng.integers(0, 20, 400), "at": rng.permutation(400)})
    rows = rows.assign(title=[f"item {at}" for at in rows["at"]], click=rng.integers(0, 2, 400))
    own = rows[["who", "at"]].assign(film=[f"told {at}" for at in rows["at"]])
    task = Task.from_frame(rows, {**ONLY_EVENTS, "split": {"time": "at"}}, events={"seen.parquet": own})
    for at, texts in zip(rows["at"].tolist(), behaviours(task), strict=True):
        assert all(int(text.split()[1]) < at for text in texts)
    last = rows.groupby("who")["at"].max().tolist()
    assert task.histories is not None and not {f"told {at}" for at in last} & set(task.histories.texts)
    assert counts(task)["events_after_rows"] == len(last) == 20
    assert task.warnings == (
        "history 'seen.parquet: film': 20 of 400 events are not before any row of their user, and were dropped: they "
        "tell what came after",
    )


def test_empty_histories_and_texts_are_counted(frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    liked: list[Any] = [None, np.nan, [], ["", "  ", "\t"], *[["a", "", "b"]] * 10, *[[]] * (ROWS - 14)]
    frame["liked"] = pd.Series(liked)
    seen = seen.assign(at=100, film=["", " "] * 30)
    task = Task.from_frame(frame, FILE, events={"seen.parquet": seen})
    assert behaviours(task, 0)[:5] == [[], [], [], [], ["b", "a"]]
    assert not any(behaviours(task, 1))
    lists, events = counts(task, 0), counts(task, 1)
    assert (lists["listed"], lists["empty_texts"], lists["rows_without"]) == (33, 13, ROWS - 10)
    assert (events["empty_texts"], events["rows_without"], events["events_after_rows"]) == (60, ROWS, 0)
    assert lists["per_row"] == {"p50": 0, "p90": 2, "p95": 2, "p99": 2, "max": 2}
    assert task.warnings == (
        "history 'liked' is empty in 75% of the rows",
        "history 'seen.parquet: film' is empty in 100% of the rows",
    )
    rows = task.history_rows(some_vectors(task))["train"]
    assert len(rows) == 24 and rows.lengths.max() == 3 and rows.lengths.min() == 1
    assert task.history_lengths.tolist() == [1] * 4 + [3] * 10 + [1] * (ROWS - 14)


def test_long_texts_and_a_history_of_a_million(frame: pd.DataFrame) -> None:
    frame["liked"] = [[f"film {one}" for one in range(1_000_000)], ["x" * 10_000], *[[]] * (ROWS - 2)]
    task = Task.from_frame(frame.assign(title="y" * 10_000), ONLY_LISTS)
    assert behaviours(task)[0] == ["film 999999", "film 999998", "film 999997"]
    assert task.histories is not None and sorted(map(len, task.histories.texts))[-2:] == [10_000, 10_000]
    assert counts(task)["cut"] == 1_000_000 - 3


def test_a_user_with_a_million_events_and_many_rows() -> None:
    events, rows = 1_000_000, 200_000
    rng = np.random.default_rng(0)
    seen = pd.DataFrame({"who": "ann", "at": rng.permutation(events), "film": "film"})
    seen["film"] = "film " + (seen["at"] % 1000).astype(str)
    frame = pd.DataFrame({"who": "ann", "at": rng.integers(0, events, rows), "title": "title"})
    frame["click"] = frame["at"] % 2
    started = time.perf_counter()
    spec = HistorySpec.model_validate({**SEEN, "max": 20})
    task = Task.from_frame(frame, {**FILE, "histories": [spec.model_dump()]}, events={"seen.parquet": seen})
    assert time.perf_counter() - started < 30
    for row in (0, 777, rows - 1):
        at = int(frame["at"][row])
        wanted = [f"film {one % 1000}" for one in range(at - 1, max(-1, at - 21), -1)]
        assert task.histories is not None
        begin, end = task.histories.offsets[0][row : row + 2]
        assert [task.histories.texts[one] for one in task.histories.behaviours[0][begin:end].tolist()] == wanted


def test_users_are_the_same_who_say_the_same(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    wanted = behaviours(Task.from_file(write(tmp_path, frame, seen)), 1)
    for who in (seen["who"].astype(str), seen["who"].astype(float), seen["who"].astype(object)):
        assert behaviours(Task.from_file(write(tmp_path, frame, seen.assign(who=who))), 1) == wanted
    content = {**ONLY_EVENTS, "data": "rows.csv", "histories": [{**SEEN, "events": "seen.csv"}]}
    padded = [f"00{one}" for one in frame["who"]]
    padded_seen = seen.assign(who=[f"00{one}" for one in seen["who"]])
    assert behaviours(Task.from_file(write(tmp_path, frame.assign(who=padded), padded_seen, content))) == wanted
    line = (
        "seen.csv: row 1: user 'who' is '0', and no event's user has a row in rows.csv, where one is '000'; expected "
        "the same users"
    )
    assert refused(write(tmp_path, frame.assign(who=padded), seen, content)) == line


def test_dates_of_any_kind_are_compared_as_instants(frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    def dates(numbers: pd.Series[Any]) -> pd.Series[Any]:
        return pd.Timestamp("2024-03-01") + pd.to_timedelta(numbers, unit="min")

    wanted = behaviours(Task.from_frame(frame, ONLY_EVENTS, events={"seen.parquet": seen}))
    told = dates(frame["at"])
    for rows in (told, told.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"), told.dt.as_unit("s")):
        for unit in ("ns", "us", "s"):
            events = dates(seen["at"]).dt.as_unit(unit)
            for column in (events, events.dt.strftime("%Y-%m-%dT%H:%M:%SZ")):
                task = Task.from_frame(
                    frame.assign(at=rows), ONLY_EVENTS, events={"seen.parquet": seen.assign(at=column)}
                )
                assert behaviours(task) == wanted
    with pytest.raises(InputError) as caught:
        Task.from_frame(frame.assign(at=told), ONLY_EVENTS, events={"seen.parquet": seen})
    assert str(caught.value) == (
        "seen.parquet: time 'at' holds numbers, and in rows.parquet dates; expected the same in both"
    )


def test_instants_may_differ_by_a_nanosecond(frame: pd.DataFrame) -> None:
    at = np.full(ROWS, np.datetime64("2024-03-01T00:00:00.000000001", "ns"))
    for shift, there in ((-1, 1), (0, 0), (1, 0)):
        seen = pd.DataFrame({"who": [0], "at": at[:1] + np.timedelta64(shift, "ns"), "film": ["f"]})
        task = Task.from_frame(frame.assign(who=0, at=at), ONLY_EVENTS, events={"seen.parquet": seen})
        assert task.histories is not None and len(task.histories.behaviours[0]) == there * ROWS


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_rows_are_drawn_and_events_are_not(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame, kind: str) -> None:
    content = {**FILE, "data": f"rows.{kind}", "max_rows": 25}
    whole = Task.from_file(write(tmp_path, frame, seen, {**FILE, "data": f"rows.{kind}"}))
    task = Task.from_file(write(tmp_path, frame, seen, content))
    assert len(task) == 25
    for row, at in enumerate(task.frame["at"].tolist()):
        for history in (0, 1):
            assert behaviours(task, history)[row] == behaviours(whole, history)[at]


def test_rows_of_each_split_have_texts_labels_and_features(frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    content = {**FILE, "numeric": "price", "weight": "price", "user": "who", "categorical": "genre"}
    task = Task.from_frame(frame, content, events={"seen.parquet": seen})
    vectors = some_vectors(task)
    rows = task.history_rows(vectors)
    assert list(rows) == ["train", "valid", "test"] and task.histories is not None
    for name, part in rows.items():
        index = task.indices(name)
        assert part.vectors is vectors and part.features is not None and part.weight is not None
        assert part.features.numeric[:, 0].tolist() == part.weight.tolist() == (index * 0.5).tolist()
        assert part.target.tolist() == task.target[index].tolist() and part.user is not None
        for place, row in enumerate(index.tolist()):
            own = slice(part.offsets[place], part.offsets[place + 1])
            texts = [task.histories.texts[one] for one in part.input_ids[own].tolist()]
            first, second = behaviours(task, 0)[row], behaviours(task, 1)[row]
            assert texts == [*first, *second, f"title {row % 7}"]
            assert part.token_type_ids[own].tolist() == [0] * len(first) + [1] * len(second) + [2]
            assert task.history_lengths[row] == 1 + max(len(first), len(second))
    classes = {**content, "label": {"column": "genre", "kind": "class"}, "metric": "accuracy", "categorical": []}
    graded = Task.from_frame(frame, classes, events={"seen.parquet": seen}).history_rows(vectors)
    assert graded["test"].classes == 3


def test_a_task_has_text_or_histories(frame: pd.DataFrame, tmp_path: Path) -> None:
    task = Task.from_frame(frame, ONLY_LISTS)
    with pytest.raises(
        ValueError, match=r"task 'rows.parquet' has histories: encode histories\.texts and call history_rows"
    ):
        task.tokenise(tokenizer(), tmp_path)
    with pytest.raises(ValueError, match="12 texts need as many vectors, got 3"):
        task.history_rows(np.zeros((3, 2), np.float16))
    plain = Task.from_frame(frame, {key: value for key, value in {**FILE, "text": "title"}.items()
                                    if key not in ("item", "histories")})  # fmt: skip
    assert plain.histories is None and "histories" not in plain.report()
    with pytest.raises(ValueError, match=r"task 'rows\.parquet' has no histories: call tokenise"):
        _ = plain.history_lengths
    with pytest.raises(ValueError, match=r"task 'rows\.parquet' has no histories: call tokenise"):
        plain.history_rows(np.zeros((3, 2), np.float16))


def test_text_in_a_csv_of_events_stays_text(tmp_path: Path, frame: pd.DataFrame, seen: pd.DataFrame) -> None:
    content = {**ONLY_EVENTS, "histories": [{**SEEN, "events": "seen.csv"}]}
    seen = seen.assign(film=["null", "0042", "NA", "1e5"] * 15)
    task = Task.from_file(write(tmp_path, frame, seen, content))
    assert {text for row in behaviours(task) for text in row} == {"null", "0042", "NA", "1e5"}


@given(
    st.lists(st.lists(st.lists(st.integers(0, 5), max_size=4), min_size=2, max_size=2), max_size=12),
    st.data(),
)
def test_arrays_of_rows_are_their_behaviours_and_item(rows: list[list[list[int]]], data: st.DataObject) -> None:
    columns = [[row[history] for row in rows] for history in (0, 1)]
    found = Histories(
        texts=list("abcdef"),
        item=np.arange(len(rows), dtype=np.int32) % 6,
        behaviours=tuple(np.array([one for row in column for one in row], np.int32) for column in columns),
        offsets=tuple(offsets_of(np.array([len(row) for row in column], np.int64)) for column in columns),
    )
    assert found.lengths.tolist() == [1 + max(map(len, row)) for row in rows]
    assert len(found.report()["histories"]) == 2
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
    arrays = found.arrays_of(np.array(chosen, np.int64))
    labels = {"target": np.zeros(len(chosen), np.float32), "positive": np.zeros(len(chosen), bool)}
    made = TokenRows.from_arrays({**arrays, **labels, "vectors": np.zeros((6, 1), np.float16)})
    for place, row in enumerate(chosen):
        own = slice(made.offsets[place], made.offsets[place + 1])
        assert made.input_ids[own].tolist() == [*rows[row][0], *rows[row][1], row % 6]
        assert made.token_type_ids[own].tolist() == [0] * len(rows[row][0]) + [1] * len(rows[row][1]) + [2]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"item": np.zeros(2, np.int64)}, "item must be a flat int32 array, got int64"),
        ({"item": np.array([0, 2], np.int32)}, r"item must be in 0\.\.1, got 0\.\.2"),
        ({"behaviours": (np.array([-1], np.int32),)}, r"behaviours must be in 0\.\.1, got -1\.\.-1"),
        ({"behaviours": ()}, "0 histories need as many offsets and counts, got 1 and 0"),
        ({"counts": ({}, {})}, "1 histories need as many offsets and counts, got 1 and 2"),
        ({"offsets": (np.array([0, 1], np.int64),)}, r"offsets must be \(3,\) int64"),
        ({"offsets": (np.array([0, 1, 2], np.int64),)}, "offsets must rise from 0 to 1 behaviours, got 0 to 2"),
        ({"offsets": (np.array([0, 2, 1], np.int64),)}, "offsets must rise from 0 to 1 behaviours"),
    ],
)
def test_wrong_histories_are_refused(change: dict[str, Any], told: str) -> None:
    right = Histories(
        texts=["a", "b"],
        item=np.zeros(2, np.int32),
        behaviours=(np.ones(1, np.int32),),
        offsets=(np.array([0, 0, 1], np.int64),),
    )
    with pytest.raises(ValueError, match=told):
        replace(right, **change)
