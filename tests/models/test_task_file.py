"""Task files and their data: what is accepted, and the exact line that bad input gets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from sparsefront.models.metrics import METRICS
from sparsefront.models.task import Task
from sparsefront.models.task_file import TaskFile
from sparsefront.spaces import InputError

FILE: dict[str, Any] = {
    "data": "rows.csv",
    "text": ["query", "title"],
    "label": {"column": "click", "kind": "binary"},
    "split": {"group": "query", "valid": 0.2, "test": 0.2},
}
LIKED: dict[str, Any] = {"column": "liked"}
SEEN: dict[str, Any] = {"events": "seen.csv", "user": "query", "time": "day", "text": "film"}
HISTORIES: dict[str, Any] = {"text": [], "item": "title", "histories": [LIKED, SEEN]}
GRADED = {"column": "grade", "kind": "graded", "range": [1, 3], "positive": 2.5}
GENRE = {"column": "genre", "kind": "class"}
GENRES_AND_FOLDS: dict[str, Any] = {
    "genre": ["rock", "pop", "jazz"] * 20,
    "fold": ["train"] * 40 + ["valid"] * 10 + ["test"] * 10,
}


@pytest.fixture
def frame() -> pd.DataFrame:
    rows = np.arange(60)
    return pd.DataFrame(
        {
            "query": [f"query {row % 20}" for row in rows],
            "title": [f"title {row}" for row in rows],
            "click": rows // 20 % 2,
            "grade": 1.0 + rows % 3,
            "day": [f"2024-01-{1 + row // 2:02d}" for row in rows],
        }
    )


def write(folder: Path, frame: pd.DataFrame | None = None, content: Any = None, name: str = "rows.csv") -> Path:
    """A task file in ``folder`` with its data beside it."""
    if frame is not None:
        frame.to_csv(folder / name, index=False, sep="\t" if name.endswith("tsv") else ",")
    path = folder / "task.yaml"
    content = FILE if content is None else content
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def refused(path: Path) -> str:
    """The line that a task file is refused with, its folder left out."""
    with pytest.raises(InputError) as caught:
        Task.from_file(path)
    line = str(caught.value)
    assert "\n" not in line
    return line.replace(f"{path.parent}/", "")


def test_every_format_gives_the_same_task(tmp_path: Path, frame: pd.DataFrame) -> None:
    write(tmp_path, frame)
    write(tmp_path, frame, name="rows.tsv")
    frame.to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "parts").mkdir()
    frame[:25].to_parquet(tmp_path / "parts" / "part-0.parquet")
    frame[25:].to_parquet(tmp_path / "parts" / "part-1.parquet")
    tasks = [
        Task.from_file(write(tmp_path, content={**FILE, "data": name}))
        for name in ("rows.csv", "rows.tsv", "rows.parquet", "parts")
    ]
    for task in tasks:
        assert task.name == "task"
        assert task.frame["title"].tolist() == frame["title"].tolist()
        assert (task.split == tasks[0].split).all() and (task.positive == tasks[0].positive).all()
    assert len({task.fingerprint for task in tasks}) == 4, "the fingerprint is of the bytes"
    assert tasks[0].fingerprint == Task.from_file(write(tmp_path)).fingerprint


def test_data_is_found_beside_the_file_first_and_then_from_the_current_folder(
    tmp_path: Path, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside, current = tmp_path / "beside", tmp_path / "current"
    beside.mkdir()
    current.mkdir()
    monkeypatch.chdir(current)
    path = write(beside)
    frame.to_csv("rows.csv", index=False)
    assert len(Task.from_file(path)) == 60
    frame[:50].to_csv(beside / "rows.csv", index=False)
    assert len(Task.from_file(path)) == 50


def test_text_in_a_csv_stays_text(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.loc[:3, "title"] = ["null", "0042", "NA", "1e5"]
    task = Task.from_file(write(tmp_path, frame))
    assert task.frame["title"].tolist()[:4] == ["null", "0042", "NA", "1e5"]


def test_time_and_random_splits(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame["click"] = np.arange(60) % 2
    task = Task.from_file(write(tmp_path, frame, {**FILE, "split": {"time": "day", "valid": 0.2, "test": 0.1}}))
    assert task.split.tolist() == [0] * 42 + [1] * 12 + [2] * 6
    task = Task.from_file(write(tmp_path, content={**FILE, "text": "title", "split": {}}))
    assert [len(task.indices(name)) for name in ("train", "valid", "test")] == [48, 6, 6]
    with pytest.raises(ValueError, match="split must be one of"):
        task.indices("dev")


def test_defaults() -> None:
    spec = TaskFile.parse({"data": "x.csv", "text": "q", "label": {"column": "y", "kind": "soft"}}, "t.yaml")
    assert (spec.text, spec.max_length, spec.metric, spec.label.threshold) == (["q"], 48, "auc", 0.5)
    assert (spec.split.valid, spec.split.test, spec.split.seed) == (0.1, 0.1, 0)
    assert TaskFile.parse({**spec.model_dump(), "split": {"column": "fold"}}, "t.yaml").split.shares == (0.0, 0.0)


def test_histories_have_defaults_and_tell_the_most_behaviours() -> None:
    spec = TaskFile.parse({**FILE, **HISTORIES, "histories": [LIKED, {**SEEN, "max": 7}]}, "t.yaml")
    lists, events = spec.histories
    assert (spec.text, spec.item, spec.max_behaviours) == ([], ["title"], 50)
    assert (lists.max, lists.newest_first, lists.name, events.name) == (50, False, "liked", "seen.csv: film")
    assert TaskFile.parse(FILE, "t.yaml").max_behaviours == 0
    assert lists.key() == spec.histories[0].model_copy(update={"order": "newest_last"}).key()


@pytest.mark.parametrize(
    ("label", "default", "others"),
    [
        ({"kind": "binary"}, "auc", "average_precision log_loss accuracy f1 matthews"),
        ({"kind": "soft"}, "auc", "average_precision pearson_spearman pearson spearman log_loss"),
        (GRADED, "auc", "average_precision pearson_spearman pearson spearman log_loss"),
        ({**GRADED, "positive": None}, "pearson_spearman", "pearson spearman log_loss"),
        ({"kind": "class"}, "accuracy", "macro_f1 matthews"),
        ({"kind": "class", "classes": ["no", "yes"]}, "accuracy", "macro_f1 matthews"),
    ],
)
def test_each_kind_of_label_has_its_metrics(label: dict[str, Any], default: str, others: str) -> None:
    content = {"data": "x.csv", "text": "q", "label": {"column": "y", **label}}
    assert TaskFile.parse(content, "t.yaml").metric == default
    fitting = {default, *others.split()}
    for metric in METRICS:
        if metric in fitting:
            assert TaskFile.parse({**content, "metric": metric}, "t.yaml").metric == metric
        else:
            with pytest.raises(
                InputError, match=f"t.yaml: metric: got '{metric}'; a {label['kind']} label .*{default}"
            ):
                TaskFile.parse({**content, "metric": metric}, "t.yaml")


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"split": {"column": "fold"}},
        {"protect": "separators"},
        {"split": {"column": "fold", "valid": 0.2, "group": "query", "seed": 3}},
        {"split": {"time": "day", "test": 0.3}},
        {"label": {"column": "click", "kind": "class", "classes": [3, 1]}, "metric": "matthews"},
        {"label": {"column": "grade", "kind": "graded", "range": [0, 5]}},
        HISTORIES,
    ],
)
def test_a_task_file_that_is_written_out_is_the_same_again(change: dict[str, Any]) -> None:
    spec = TaskFile.parse({**FILE, **change}, "t.yaml")
    assert TaskFile.parse(spec.model_dump(), "t.yaml") == spec


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"lable": 1}, "unknown key 'lable'; did you mean 'label'?"),
        (
            {"zzz": 1},
            "unknown key 'zzz'; expected one of data, text, item, histories, label, numeric, categorical, weight, "
         "user, split, max_rows, max_length, protect, metric, name",
        ),
        ({"split": {"groups": "query"}}, "unknown key 'split.groups'; did you mean 'group'?"),
        ({"protect": "question"}, "protect: got 'question'; input should be 'none', 'separators' or 'first'"),
        ({"text": "query", "protect": "first"}, "protect: 'first' is one of two texts, got the only text 'query'"),
        ({"label": {"column": "click"}}, "key 'label.kind' is missing"),
        ({"label": {"column": "click", "kind": "rank"}},
         "label.kind: got 'rank'; input should be 'binary', 'soft', 'graded', 'class' or 'span'"),
        ({"label": {"column": "grade", "kind": "graded"}}, "label: a graded label needs range: [lowest, highest]"),
        ({"label": {"column": "grade", "kind": "class", "range": [0, 1]}},
         "label: range belongs to graded labels, not to class ones"),
        ({"label": {"column": "grade", "kind": "class", "positive": 1}},
         "label: positive belongs to soft and graded labels; no class is the positive one"),
        ({"label": {"column": "click", "kind": "binary", "classes": [0, 1]}},
         "label: classes belong to class labels, not to binary ones"),
        ({"label": {"column": "click", "kind": "class", "classes": ["a"]}},
         "label.classes: got ['a']; value should have at least 2 items after validation, not 1"),
        ({"label": {"column": "click", "kind": "class", "classes": ["a", "b", "a"]}},
         "label.classes: classes must differ, got ['a', 'b', 'a']"),
        ({"label": {"column": "click", "kind": "class", "classes": ["a", 1]}},
         "label.classes: classes must be all whole numbers or all text, got ['a', 1]"),
        ({"label": {"column": "click", "kind": "class", "classes": [True, False]}},
         "label.classes: a class is a whole number or text, got True (in YAML, quote words such as yes and no)"),
        ({"label": {"column": "click", "kind": "class", "classes": "a"}},
         "label.classes: got 'a'; input should be a valid list"),
        ({"label": {**GRADED, "range": [3, 1]}}, "label: range must be [lowest, highest], got [3.0, 1.0]"),
        ({"label": {**GRADED, "positive": 4}}, "label: positive must be above 1 and at most 3, got 4"),
        ({"label": {"column": "click", "kind": "soft", "range": [0, 1]}},
         "label: range belongs to graded labels, not to soft ones"),
        ({"split": {"valid": 0.5, "test": 0.5}}, "split: valid + test must be below 1, got 0.5 + 0.5"),
        ({"split": {"valid": 0}}, "split.valid: got 0; input should be greater than 0"),
        ({"split": {"group": "a", "time": "b"}}, "split: give group or time, not both; got group 'a' and time 'b'"),
        ({"split": {"column": "fold", "time": "day"}},
         "split: give column or time, not both; got column 'fold' and time 'day'"),
        ({"split": {"column": "fold", "test": 0.2}},
         "split: column 'fold' says which rows are test; got test: 0.2 as well"),
        ({"split": {"column": "fold", "group": "query"}}, "split: with column 'fold', group 'query' only holds back "
         "valid rows; give valid: SHARE, or no group"),
        ({"split": {"valid": None}}, "split: valid and test must be shares of the rows, got None and 0.1"),
        ({"max_length": 48.5}, "max_length: got 48.5; input should be a valid integer"),
        ({"max_length": 1000}, "max_length: got 1000; input should be less than or equal to 512"),
        ({"metric": "ndcg"}, "metric: got 'ndcg'; input should be 'auc', 'average_precision', 'log_loss', 'pearson', "
         "'spearman', 'pearson_spearman', 'accuracy', 'f1', 'macro_f1', 'matthews', 'span_f1' or 'exact_match'"),
        ({"metric": "pearson"}, "metric: got 'pearson'; a binary label is scored by auc, average_precision, log_loss, "
         "accuracy, f1 or matthews"),
        ({"metric": "auc", "label": {"column": "grade", "kind": "graded", "range": [1, 3]}},
         "metric: got 'auc'; a graded label without positive is scored by pearson_spearman, pearson, spearman or "
         "log_loss"),
        ({"metric": "f1", "label": {"column": "grade", "kind": "class"}},
         "metric: got 'f1'; a class label is scored by accuracy, macro_f1 or matthews"),
        ({"text": ["query", "query"]}, "the two text columns must differ, got ['query', 'query']"),
        ({"text": []}, "give text, or item and histories; got none"),
        ({"text": "click"}, "the label column 'click' is also a text column"),
        ({"data": 7}, "data: got 7; input should be a valid string"),
        ({"item": "title"}, "give text, or item and histories; got text ['query', 'title'] and item"),
        ({"histories": [LIKED]}, "give text, or item and histories; got text ['query', 'title'] and histories"),
        ({**HISTORIES, "item": []}, "key 'item' is missing"),
        ({**HISTORIES, "histories": []}, "key 'histories' is missing"),
        ({**HISTORIES, "histories": {}}, "histories: got {}; input should be a valid list"),
        ({**HISTORIES, "histories": ["liked"]},
         "histories.1: got 'liked'; expected keys and their values"),
        ({**HISTORIES, "item": ["title", "title"]}, "the two item columns must differ, got ['title', 'title']"),
        ({**HISTORIES, "item": "click"}, "the label column 'click' is also an item column"),
        ({**HISTORIES, "protect": "separators"}, "protect: 'separators' goes with text, not with histories"),
        ({**HISTORIES, "label": {"column": "answer", "kind": "span"}},
         "a span stands in the second of two texts; it does not go with histories"),
        ({**HISTORIES, "histories": [LIKED, {**LIKED, "max": 3}]}, "histories: 'liked' is named twice"),
        ({**HISTORIES, "histories": [SEEN, {**SEEN, "max": 3}]}, "histories: 'seen.csv: film' is named twice"),
        ({**HISTORIES, "histories": [{"column": "click"}]},
         "histories: 'click' is the label; a history must be known before it"),
        ({**HISTORIES, "histories": [LIKED] * 17},
         f"histories: got {[LIKED] * 17}; list should have at most 16 items after validation, not 17"),
        *(({**HISTORIES, "histories": [LIKED, one]}, line) for one, line in (
            ({"columm": "x"}, "unknown key 'histories.2.columm'; did you mean 'column'?"),
            ({}, "histories.2: give column (lists of texts) or events (a table), got neither"),
            ({**SEEN, "column": "x"},
             "histories.2: give column (lists of texts) or events (a table), got column 'x' and events 'seen.csv'"),
            ({**SEEN, "user": None}, "histories.2: events 'seen.csv' need user: the column of that name"),
            ({**SEEN, "time": None}, "histories.2: events 'seen.csv' need time: the column of that name"),
            ({**SEEN, "text": []}, "histories.2: events 'seen.csv' need text: the column of that name"),
            ({**SEEN, "text": ["a", "b", "c"]},
             "histories.2.text: got ['a', 'b', 'c']; value should have at most 2 items after validation, not 3"),
            ({**SEEN, "text": ["a", "a"]}, "histories.2: the two text columns must differ, got ['a', 'a']"),
            ({**SEEN, "order": "newest_last"},
             "histories.2: order belongs to lists; events are ordered by time 'day'"),
            ({"column": "x", "time": "day"}, "histories.2: time belongs to events, not to the lists of column 'x'"),
            ({"column": "x", "max": 0}, "histories.2.max: got 0; input should be greater than or equal to 1"),
            ({"column": "x", "max": 2.5}, "histories.2.max: got 2.5; input should be a valid integer"),
            ({"column": "x", "order": "newest"},
             "histories.2.order: got 'newest'; input should be 'newest_last' or 'newest_first'"),
            ({"column": 3}, "histories.2.column: got 3; input should be a valid string"),
        )),
        ({"numeric": ["day", "day"]}, "numeric: column 'day' is named twice"),
        ({"categorical": "click"}, "categorical: 'click' is the label; a feature must be known before it"),
        ({"numeric": "day", "label": {"column": "answer", "kind": "span"}},
         "numeric: features do not go with a span label, got ['day']"),
    ],
)  # fmt: skip
def test_wrong_task_files(tmp_path: Path, frame: pd.DataFrame, change: dict[str, Any], line: str) -> None:
    assert refused(write(tmp_path, frame, {**FILE, **change})) == f"task.yaml: {line}"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "got an empty file; expected a YAML mapping with the keys data, text and label"),
        ("- 1\n- 2\n", "got list; expected a YAML mapping with the keys data, text and label"),
        ("data: [1\ntext: 2\n", "line 2: not valid YAML: expected ',' or ']', but got ':'"),
        ("!!python/object/apply:os.getcwd []", "line 1: not valid YAML: could not determine a constructor for the tag "
         "'tag:yaml.org,2002:python/object/apply:os.getcwd'"),
        ("1: 2\n", "key 'data' is missing"),
    ],
)  # fmt: skip
def test_files_that_are_no_task_file(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(content)
    assert refused(path) == f"task.yaml: {line}"


def test_task_file_missing_or_binary(tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    assert refused(path) == "task.yaml: no such file; expected a YAML task file"
    path.write_bytes(b"\xff\xfe\x00")
    assert refused(path) == "task.yaml: cannot be read as text (UnicodeDecodeError); expected a YAML file"
    path.unlink()
    path.mkdir()
    assert refused(path) == "task.yaml: cannot be read as text (IsADirectoryError); expected a YAML file"


@pytest.mark.parametrize(
    ("column", "row", "value", "change", "line"),
    [
        ("title", 2, "", {}, "row 3: text 'title' is empty; expected text"),
        ("title", 2, "  ", {}, "row 3: text 'title' is empty; expected text"),
        ("click", 4, None, {}, "row 5: label 'click' is no value; expected 0 or 1"),
        ("click", 4, 2, {}, "row 5: label 'click' is 2; expected 0 or 1"),
        ("click", 4, 0.5, {}, "row 5: label 'click' is 0.5; expected 0 or 1"),
        ("click", 4, "yes", {}, "row 5: label 'click' is 'yes'; expected 0 or 1"),
        ("grade", 0, 3.5, {"label": GRADED}, "row 1: label 'grade' is 3.5; expected a number in [1, 3]"),
        ("grade", 0, "inf", {"label": GRADED}, "row 1: label 'grade' is inf; expected a number in [1, 3]"),
        ("grade", 1, 1, {"label": {"column": "grade", "kind": "soft"}},
         "row 2: label 'grade' is 1.5; expected a number in [0, 1]"),
        ("day", 7, "soon", {"split": {"time": "day"}},
         "row 8: time 'day' is 'soon'; expected a number or an ISO 8601 date"),
        ("day", 7, None, {"split": {"time": "day"}},
         "row 8: time 'day' is no value; expected a number or an ISO 8601 date"),
        ("shop", 9, None, {"split": {"group": "shop"}}, "row 10: group 'shop' is missing"),
        ("grade", 0, "5+", {"label": {"column": "grade", "kind": "graded", "range": [0, 5]}},
         "row 1: label 'grade' is '5+'; expected a number in [0, 5]"),
        ("genre", 4, None, {"label": GENRE},
         "row 5: label 'genre' is no value; expected a class: a whole number or text"),
        ("genre", 4, " ", {"label": GENRE}, "row 5: label 'genre' is ' '; expected a class: a whole number or text"),
        ("genre", 4, "folk", {"label": {**GENRE, "classes": ["rock", "pop", "jazz"]}},
         "row 5: label 'genre' is 'folk'; expected one of 'rock', 'pop', 'jazz'"),
        ("genre", 47, "folk", {"label": GENRE, "split": {"column": "fold"}},
         "row 48: label 'genre' is 'folk', a class that no training row has; expected one of 'jazz', 'pop', 'rock'"),
        ("fold", 4, "dev", {"split": {"column": "fold"}},
         "row 5: split 'fold' is 'dev'; expected one of train, valid, test"),
        ("fold", 4, None, {"split": {"column": "fold"}},
         "row 5: split 'fold' is no value; expected one of train, valid, test"),
    ],
)  # fmt: skip
def test_bad_rows_are_named(
    tmp_path: Path, frame: pd.DataFrame, column: str, row: int, value: Any, change: dict[str, Any], line: str
) -> None:
    frame = frame.assign(shop="corner", **GENRES_AND_FOLDS).astype(object)
    if "is 1.5" in line:
        frame["grade"] = [0.5, 1.5, *[0.0] * 58]
    else:
        frame.loc[row, column] = value
    assert refused(write(tmp_path, frame, {**FILE, **change})) == f"rows.csv: {line}"
    frame.to_csv(tmp_path / "rows.csv", index=False)


def test_half_a_character_is_no_text(frame: pd.DataFrame) -> None:
    frame = frame.astype({"title": object})
    frame.loc[2, "title"] = "hat \ud800"
    content = {key: value for key, value in FILE.items() if key != "data"}
    with pytest.raises(InputError, match=r"row 3: 'title' is 'hat \\ud800'; expected Unicode"):
        Task.from_frame(frame, content)
    lists = frame.assign(title="hat", liked=pd.Series([["hat \ud800"]] * len(frame)))
    with pytest.raises(InputError, match=r"'hat \\ud800' is not Unicode"):
        Task.from_frame(lists, {**content, "text": [], "item": "title", "histories": [LIKED]})


def test_bad_cells_in_parquet(tmp_path: Path, frame: pd.DataFrame) -> None:
    content = {**FILE, "data": "rows.parquet"}
    for column, value, line in (
        ("title", None, "row 4: text 'title' is no value; expected text"),
        ("query", None, "row 4: text 'query' is no value; expected text"),
        ("click", np.nan, "row 4: label 'click' is no value; expected 0 or 1"),
    ):
        bad = frame.astype({"click": float})
        bad.loc[3, column] = value
        bad.to_parquet(tmp_path / "rows.parquet")
        assert refused(write(tmp_path, content=content)) == f"rows.parquet: {line}"
    frame.assign(title=7).to_parquet(tmp_path / "rows.parquet")
    assert refused(write(tmp_path, content=content)) == "rows.parquet: row 1: text 'title' is 7; expected text"
    frame.assign(click=pd.array([True, None] * 30, dtype="boolean")).to_parquet(tmp_path / "rows.parquet")
    line = "rows.parquet: row 2: label 'click' is no value; expected 0 or 1"
    assert refused(write(tmp_path, content=content)) == line


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"text": ["query", "titel"]}, "no column 'titel' (text); did you mean 'title'?"),
        ({"text": "zzz"}, "no column 'zzz' (text); expected one of query, title, click, grade, day"),
        ({"label": {"column": "clicks", "kind": "binary"}}, "no column 'clicks' (label.column); did you mean 'click'?"),
        ({"split": {"group": "querys"}}, "no column 'querys' (split.group); did you mean 'query'?"),
        ({"split": {"time": "days"}}, "no column 'days' (split.time); did you mean 'day'?"),
        ({"split": {"column": "dat"}}, "no column 'dat' (split.column); did you mean 'day'?"),
    ],
)
def test_missing_columns(tmp_path: Path, frame: pd.DataFrame, change: dict[str, Any], line: str) -> None:
    assert refused(write(tmp_path, frame, {**FILE, **change})) == f"rows.csv: {line}"


def test_labels_and_splits_that_cannot_work(tmp_path: Path, frame: pd.DataFrame) -> None:
    line = "rows.csv: label 'click' is 1 in all 60 rows; expected different labels"
    assert refused(write(tmp_path, frame.assign(click=1))) == line
    line = "rows.csv: split 'valid' has none of the 60 rows; expected more rows, or other shares"
    assert refused(write(tmp_path, frame.assign(query="the same"))) == line
    content = {**FILE, "text": "title", "split": {"time": "day"}}
    line = "rows.csv: split 'valid': metric 'auc' needs positive and negative rows, all 6 are negative"
    assert refused(write(tmp_path, frame, content)) == line
    assert len(Task.from_file(write(tmp_path, frame, {**content, "metric": "log_loss"}))) == 60


def test_classes_and_grades_that_cannot_work(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.assign(**GENRES_AND_FOLDS)
    content = {**FILE, "label": GENRE, "split": {"column": "fold"}}
    line = "rows.csv: label 'genre' is 'rock' in all 60 rows; expected at least 2 classes"
    assert refused(write(tmp_path, frame.assign(genre="rock"), content)) == line
    rare = frame.assign(genre=["rock", "pop"] * 20 + ["rock", "pop"] * 9 + ["pop", "pop"])
    named = {**content, "label": {**GENRE, "classes": ["rock", "pop", "jazz"]}}
    line = "rows.csv: label 'genre': no training row is of class 'jazz'; expected some of every class"
    assert refused(write(tmp_path, rare, named)) == line
    no_jazz = frame.assign(genre=[*frame["genre"][:40], *["rock", "pop"] * 10])
    line = "rows.csv: split 'valid': metric 'macro_f1' needs rows of every class, none of 10 is of class 'jazz'"
    assert refused(write(tmp_path, no_jazz, {**content, "metric": "macro_f1"})) == line
    only_pop = frame.assign(genre=[*frame["genre"][:50], *["pop"] * 10])
    line = "rows.csv: split 'test': metric 'matthews' needs rows of different classes, all 10 are of one"
    assert refused(write(tmp_path, only_pop, {**content, "metric": "matthews"})) == line
    assert Task.from_file(write(tmp_path, only_pop, content)).classes == ("jazz", "pop", "rock")
    graded = {**content, "label": {"column": "grade", "kind": "graded", "range": [0, 5]}}
    line = "rows.csv: split 'valid': metric 'pearson_spearman' needs rows of different targets, all 10 are 0.4"
    assert refused(write(tmp_path, frame.assign(grade=[*frame["grade"][:40], *[2] * 20]), graded)) == line


def test_a_split_that_no_row_is_in(tmp_path: Path, frame: pd.DataFrame) -> None:
    content = {**FILE, "split": {"column": "fold"}}
    for missing, there in (("train", "test"), ("test", "valid")):
        folds = frame.assign(fold=[there if fold == missing else fold for fold in GENRES_AND_FOLDS["fold"]])
        assert (
            refused(write(tmp_path, folds, content)) == f"rows.csv: no row's split 'fold' is '{missing}'; expected some"
        )
    folds = frame.assign(fold=["train"] * 40 + ["test"] * 20)
    line = (
        "rows.csv: no row's split 'fold' is 'valid'; expected some, or split.valid: the share of the training rows to "
    )
    assert refused(write(tmp_path, folds, content)) == f"{line}hold back"
    held = Task.from_file(
        write(tmp_path, folds, {**FILE, "split": {"column": "fold", "valid": 0.25}, "metric": "accuracy"})
    )
    assert [len(held.indices(name)) for name in ("train", "valid", "test")] == [30, 10, 20]
    line = "rows.csv: split 'valid' has none of the 60 rows; expected more rows, or other shares"
    assert refused(write(tmp_path, folds, {**FILE, "split": {"column": "fold", "valid": 0.001}})) == line
    both = frame.assign(fold=GENRES_AND_FOLDS["fold"])
    line = "rows.csv: row 41: split 'fold' is 'valid', and split.valid holds back 0.25 of the training rows; expected "
    assert (
        refused(write(tmp_path, both, {**FILE, "split": {"column": "fold", "valid": 0.25}})) == f"{line}one of the two"
    )


def test_files_that_cannot_be_read(tmp_path: Path, frame: pd.DataFrame) -> None:
    data = tmp_path / "rows.csv"
    line = "rows.csv: no such file or folder; expected CSV, TSV, Parquet or a folder of Parquet parts"
    assert refused(write(tmp_path)) == line
    data.write_text("")
    assert refused(write(tmp_path)) == "rows.csv: the file is empty; expected rows"
    data.write_text("query,title,click\n")
    assert refused(write(tmp_path)) == "rows.csv: there are no rows; expected at least 3"
    for rows in ("a,b,1,surplus\n", "0,a,b,1\n1,a,b,0\n", "3,a,b,1\n", ",a,b,1\n", "a,b,1,\na,b,0,\n"):
        data.write_text(f"query,title,click\n{rows}")
        for content in (FILE, {**FILE, "max_rows": 3}):
            line = "rows.csv: rows have more fields than the header's 3 names"
            assert refused(write(tmp_path, content=content)) == line
    data.write_text("query,title,click\na,b,1\na,b,1,surplus\n")
    line = "rows.csv: not a UTF-8 CSV file: Error tokenizing data. C error: Expected 3 fields in line 3, saw 4"
    assert refused(write(tmp_path)) == line
    data.write_bytes(b"query,title,click\n\xff\xfe,b,1\n")
    assert refused(write(tmp_path)).startswith("rows.csv: not a UTF-8 CSV file: 'utf-8' codec can't decode byte 0xff")
    (tmp_path / "rows.xlsx").write_text("x")
    line = "rows.xlsx: unknown extension '.xlsx'; expected .csv, .tsv, .parquet or a folder"
    assert refused(write(tmp_path, content={**FILE, "data": "rows.xlsx"})) == line
    (tmp_path / "empty").mkdir()
    line = "empty: no *.parquet file in this folder"
    assert refused(write(tmp_path, content={**FILE, "data": "empty"})) == line


def test_damaged_parquet(tmp_path: Path, frame: pd.DataFrame) -> None:
    data = tmp_path / "rows.parquet"
    path = write(tmp_path, content={**FILE, "data": "rows.parquet"})
    frame.to_parquet(data)
    good = data.read_bytes()
    for content in (b"PAR1", b"nonsense" * 50, good[: len(good) // 2], good[:-1], b"\x00" * 40 + good[40:]):
        data.write_bytes(content)
        assert refused(path).startswith("rows.parquet: not a readable Parquet file: ")
    parts = tmp_path / "parts"
    parts.mkdir()
    frame.to_parquet(parts / "a.parquet")
    frame[["query", "title"]].to_parquet(parts / "b.parquet")
    line = refused(write(tmp_path, content={**FILE, "data": "parts"}))
    assert line == (
        "parts/b.parquet: its columns ['query', 'title'] differ from a.parquet's "
        "['query', 'title', 'click', 'grade', 'day']"
    )
