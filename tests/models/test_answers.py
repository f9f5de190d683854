"""Answers: which tokens of the second text they are, and what is wrong with a column of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from tests.models.test_task import tokenizer

from sparsefront.models.spans import NO_ANSWER, ends_of
from sparsefront.models.task import Task
from sparsefront.spaces import InputError

CONTENT: dict[str, Any] = {
    "text": ["question", "context"],
    "label": {"column": "answer", "kind": "span", "start": "at"},
    "split": {"column": "fold"},
    "max_length": 14,
}
CONTEXT = "red lamp for small kids, red lamp table"


def frame_of(**changes: list[Any]) -> pd.DataFrame:
    columns: dict[str, list[Any]] = {
        "question": ["small sofa", "sofa", "red"],
        "context": [CONTEXT] * 3,
        "answer": ["red lamp", "small kids", "table"],
        "at": [25, 13, 34],
        "fold": ["train", "valid", "test"],
    }
    return pd.DataFrame({**columns, **changes})


def task_of(frame: pd.DataFrame, **label: Any) -> Task:
    return Task.from_frame(frame, {**CONTENT, "label": {**CONTENT["label"], **label}})


def told(task: Task, split: str, folder: Path) -> list[str | None]:
    """Tokens of the answer of the only row of a split."""
    (row,) = (task.tokenise(tokenizer(), folder)[split],)
    first, last = (int(end[0]) for end in ends_of(row.target))
    return [tokenizer().id_to_token(number) for number in row.input_ids[first : last + 1].tolist()]


def test_answers_are_found_among_the_tokens(tmp_path: Path) -> None:
    task = task_of(frame_of(), start=None)
    places = task.labels.answers
    assert places is not None
    assert [CONTEXT[begin:end] for begin, end in places.tolist()] == ["red lamp", "small kids", "table"]
    assert told(task, "train", tmp_path) == ["red", "lamp"]  # where it stands first
    rows = task.tokenise(tokenizer(), tmp_path)["train"]
    assert rows.spans and ends_of(rows.target)[0][0] == 4  # [CLS] small sofa [SEP] red
    assert told(task, "valid", tmp_path) == ["small", "kids"]


def test_the_column_start_says_which_of_equal_words(tmp_path: Path) -> None:
    task = task_of(frame_of())
    rows = task.tokenise(tokenizer(), tmp_path)["train"]
    assert ends_of(rows.target)[0][0] == 10  # [CLS] small sofa [SEP] red lamp for small kids , red
    assert task.fingerprint != task_of(frame_of(), start=None).fingerprint


def test_white_space_around_an_answer_is_none_of_it(tmp_path: Path) -> None:
    task = task_of(frame_of(answer=["red lamp", " small kids", "table"], at=[0, 12, 34]))
    assert told(task, "valid", tmp_path) == ["small", "kids"]


def test_an_answer_that_is_cut_off_is_no_span_and_is_counted(tmp_path: Path) -> None:
    task = Task.from_frame(frame_of(), {**CONTENT, "max_length": 12})
    rows = task.tokenise(tokenizer(), tmp_path)
    assert len(rows["train"].input_ids) == len(rows["test"].input_ids) == 12
    assert rows["train"].target.tolist() == rows["test"].target.tolist() == [NO_ANSWER]  # half of it, all of it
    assert task.token_report is not None
    assert task.token_report["answers_cut_share"] == pytest.approx(2 / 3)


def test_the_cache_keeps_spans(tmp_path: Path) -> None:
    first = task_of(frame_of()).tokenise(tokenizer(), tmp_path)
    again = task_of(frame_of()).tokenise(tokenizer(), tmp_path)
    assert len(list(tmp_path.glob("tokens/*"))) == 1
    assert all(np.array_equal(first[name].target, again[name].target) for name in first)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"answer": ["red lamp", "blue", "table"]}, "row 2: label 'answer' is 'blue'; at character 13 of the second"),
        ({"answer": ["red lamp", " ", "table"]}, "row 2: label 'answer' is ' '; expected an answer"),
        ({"answer": ["red lamp", None, "table"]}, "row 2: label 'answer' is no value; expected an answer"),
        ({"answer": ["red lamp", 3, "table"]}, "row 2: label 'answer' is 3; expected an answer"),
        ({"at": [25, np.nan, 34]}, "row 2: start 'at' is no value; expected a whole number from 0"),
        ({"at": [25, -1, 34]}, "row 2: start 'at' is -1; expected a whole number from 0"),
        ({"at": [25.0, 12.5, 34.0]}, "row 2: start 'at' is 12.5; expected a whole number from 0"),
        ({"at": [25, "x", 34]}, "row 2: start 'at' is 'x'; expected a whole number from 0"),
        ({"at": [25, 900, 34]}, "row 2: label 'answer' is 'small kids'; at character 900"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, list[Any]], line: str) -> None:
    with pytest.raises(InputError, match=line.replace("(", r"\(")):
        task_of(frame_of(**changes))


def test_without_a_start_an_answer_must_stand_in_the_text() -> None:
    with pytest.raises(InputError, match="row 2: label 'answer' is 'blue'; expected words of the second text"):
        task_of(frame_of(answer=["red lamp", "blue", "table"]), start=None)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"text": ["context"]}, "a span stands in the second of two texts, got the only text 'context'"),
        ({"metric": "accuracy"}, "a span label is scored by span_f1 or exact_match"),
        ({"label": {**CONTENT["label"], "positive": 0.5}}, "no span is the positive one"),
        ({"label": {"column": "answer", "kind": "soft", "start": "at"}}, "start belongs to spans, not to soft labels"),
        ({"label": {**CONTENT["label"], "start": "ad"}}, "no column 'ad' .label.start.; did you mean 'at'"),
    ],
)
def test_a_task_that_cannot_be_is_refused(content: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        Task.from_frame(frame_of(), {**CONTENT, **content})
