"""Tasks with features, weights and users: what is fitted, what follows the rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from tests.models.test_task import CONTENT, make_frame, tokenizer

from sparsefront.models import data_file
from sparsefront.models.features import MISSING, UNSEEN
from sparsefront.models.task import Task
from sparsefront.spaces import InputError

FEATURES: dict[str, Any] = {"numeric": ["price"], "categorical": ["shop"], "weight": "rows", "user": "who"}


def featured(rows: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    return make_frame(rows).assign(
        price=rng.gamma(2.0, 10.0, size=rows),
        shop=rng.choice(["corner", "market", "depot"], size=rows),
        rows=rng.integers(1, 4, size=rows),
        who=rng.choice(["ann", "bob", "cat"], size=rows),
    )


def test_features_are_fitted_on_training_rows_alone(tmp_path: Path) -> None:
    frame = featured()
    task = Task.from_frame(frame, {**CONTENT, **FEATURES})
    other = frame.copy()
    tested = task.indices("test")
    other.loc[tested, "price"] = 1e6
    other.loc[tested, "shop"] = "new shop"
    changed = Task.from_frame(other, {**CONTENT, **FEATURES})
    assert changed.features.numeric[0].edges.tolist() == task.features.numeric[0].edges.tolist()
    assert changed.features.report() == task.features.report() == task.report()["features"]
    rows = changed.tokenise(tokenizer(), tmp_path)
    assert rows["test"].features is not None and rows["train"].features is not None
    assert (rows["test"].features.numeric == 1e6).all() and (rows["test"].features.categorical == UNSEEN).all()
    assert (rows["train"].features.categorical != UNSEEN).all()


def test_features_weights_and_users_follow_the_rows_of_each_split(tmp_path: Path) -> None:
    frame = featured()
    task = Task.from_frame(frame, {**CONTENT, **FEATURES})
    for _ in range(2):  # the second time from the cache
        for name, rows in task.tokenise(tokenizer(), tmp_path).items():
            own = frame.iloc[task.indices(name)]
            assert rows.features is not None and rows.weight is not None and rows.user is not None
            np.testing.assert_allclose(rows.features.numeric[:, 0], own["price"], rtol=1e-6)
            assert rows.weight.tolist() == own["rows"].tolist()
            assert len(set(zip(rows.user.tolist(), own["who"], strict=True))) == 3
    plain = Task.from_frame(frame, CONTENT).tokenise(tokenizer(), tmp_path)["train"]
    assert plain.features is None and plain.weight is None and plain.user is None


def test_a_number_like_category_stays_text_in_a_csv(tmp_path: Path) -> None:
    zips = np.array(["00501", "501", "", "NA"])
    frame = make_frame().assign(zip=np.tile(zips, 50))
    frame.to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump({**CONTENT, "data": "rows.csv", "categorical": "zip"}))
    task = Task.from_file(tmp_path / "task.yaml")
    assert task.features.report()["zip"]["known_values"] == 3


def in_parquet(folder: Path, frame: pd.DataFrame, content: dict[str, Any]) -> Path:
    """A task file with its rows beside it, written by something else than pandas, which notes its own types."""
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    pq.write_table(table, folder / "rows.parquet")
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({**content, "data": "rows.parquet"}))
    return path


@pytest.mark.parametrize("max_rows", [None, 190])
def test_identifiers_of_64_bits_stay_what_they_are_where_one_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_rows: int | None
) -> None:
    monkeypatch.setattr(data_file, "CHUNK_ROWS", 15)
    known = [2**60, 2**60 + 1, 2**60 + 2, -(2**60) - 1]
    ads = pd.Series([*known, None] + known * 49, dtype="Int64")[:200]
    frame = make_frame().assign(ad=ads, price=ads - 2**60)
    content = {**CONTENT, "categorical": "ad", "numeric": "price", "max_rows": max_rows}
    task = Task.from_file(in_parquet(tmp_path, frame, content))
    assert len(task) == (max_rows or 200) and task.frame["ad"].isna().sum() == 1
    assert task.features.report()["ad"]["known_values"] == 4
    asked = task.features.encode(pd.DataFrame({"ad": known, "price": 1}), "requests").categorical[:, 0]
    rows = task.features.encode(task.frame, "rows")
    ids = dict(zip(known, asked.tolist(), strict=True))
    assert len(set(ids.values()) | {MISSING, UNSEEN}) == 6
    assert rows.categorical[:, 0].tolist() == [MISSING if pd.isna(ad) else ids[ad] for ad in task.frame["ad"]]
    assert np.isnan(rows.numeric[:, 0]).sum() == 1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"label": {"column": "n", "kind": "binary"}}, "label 'n' is no value; expected 0 or 1"),
        (
            {"label": {"column": "n", "kind": "class"}},
            "label 'n' is no value; expected a class: a whole number or text",
        ),
        ({"weight": "n"}, "weight 'n' is no value; expected at least 0"),
        ({"user": "n"}, "user 'n' is missing"),
        ({"text": ["query", "n"]}, "text 'n' is no value; expected text"),
        ({"split": {"group": "n"}}, "group 'n' is missing"),
        ({"split": {"time": "n"}}, "time 'n' is no value; expected a number or an ISO 8601 date"),
        ({"split": {"column": "n"}}, "split 'n' is no value; expected one of train, valid, test"),
    ],
)
def test_a_whole_number_that_is_missing_in_parquet_is_told_as_in_any_table(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    frame = make_frame().assign(n=pd.array([None, *[0, 1] * 99, 1], dtype="Int64"))
    with pytest.raises(InputError) as caught:
        Task.from_file(in_parquet(tmp_path, frame, {**CONTENT, **change}))
    assert str(caught.value) == f"{tmp_path}/rows.parquet: row 1: {told}"


def test_a_missing_whole_number_in_a_row_that_is_not_drawn_changes_nothing(tmp_path: Path) -> None:
    content = {**CONTENT, **FEATURES, "numeric": ["at"], "categorical": ["at"], "split": {"time": "at"}}
    content |= {"weight": "at", "user": "at", "max_rows": 150, "label": {"column": "click", "kind": "class"}}
    frame = featured().assign(at=np.arange(200))
    task = Task.from_file(in_parquet(tmp_path, frame, content))
    columns = ["at", "click"]
    frame[columns] = frame[columns].astype("Int64")
    frame.loc[min(set(range(200)) - set(task.frame["at"])), columns] = None
    other = Task.from_file(in_parquet(tmp_path, frame, content))
    assert other.frame["at"].tolist() == task.frame["at"].tolist()
    assert other.split.tolist() == task.split.tolist() and other.classes == task.classes
    for one, same in zip(other.tokenise(tokenizer(), tmp_path).values(), task.tokenise(tokenizer(), tmp_path).values(),
                         strict=True):  # fmt: skip
        arrays = same.to_arrays()
        assert all((array == arrays[name]).all() for name, array in one.to_arrays().items())


@pytest.mark.parametrize(
    ("column", "value", "told"),
    [
        ("price", "cheap", "row 3: numeric 'price' is 'cheap'; expected a number or no value"),
        ("price", np.inf, "row 3: numeric 'price' is inf; expected a finite number below 3.4e38"),
        ("rows", -1, "row 3: weight 'rows' is -1; expected at least 0"),
        ("rows", None, "row 3: weight 'rows' is no value; expected at least 0"),
        ("who", None, "row 3: user 'who' is missing"),
    ],
)
def test_wrong_feature_cells(column: str, value: Any, told: str) -> None:
    frame = featured()
    cells = frame[column].astype(object)
    cells[2] = value
    with pytest.raises(InputError) as caught:
        Task.from_frame(frame.assign(**{column: cells}), {**CONTENT, **FEATURES})
    assert str(caught.value) == f"memory: {told}"


@pytest.mark.parametrize("least", [0.0, 1e-60])
def test_some_training_rows_must_have_weight(least: float) -> None:
    frame, content = featured(), {**CONTENT, **FEATURES}
    train = Task.from_frame(frame, content).split == 0
    with pytest.raises(InputError) as caught:
        Task.from_frame(frame.assign(rows=np.where(train, least, 1.0)), content)
    assert str(caught.value) == "memory: weight 'rows' is 0 in all 120 training rows; expected some above 0"
    Task.from_frame(frame.assign(rows=np.where(train, 1.0, 0.0)), content)


@pytest.mark.parametrize("key", list(FEATURES))
def test_columns_that_are_not_there_are_named_by_their_key(key: str) -> None:
    with pytest.raises(InputError, match=rf"memory: no column 'shp' \({key}\)"):
        Task.from_frame(
            featured(), {**CONTENT, **FEATURES, key: ["shp"] if key in ("numeric", "categorical") else "shp"}
        )


def test_the_fingerprint_knows_features_and_a_task_without_them_keeps_its_own() -> None:
    frame = featured()
    prints = {Task.from_frame(frame, {**CONTENT, key: value}).fingerprint for key, value in FEATURES.items()}
    plain = Task.from_frame(frame, CONTENT)
    assert len({*prints, plain.fingerprint}) == 5 and plain.warnings == ()


def test_a_feature_that_tells_the_label_is_warned_of() -> None:
    frame = featured()
    task = Task.from_frame(frame.assign(price=frame["click"] * 2.0), {**CONTENT, **FEATURES})
    assert [line.split(":")[0] for line in task.warnings] == ["feature 'price' alone ranks the labels with AUC 1.000"]
