"""Tasks with features, weights and users: what is fitted, what follows the rows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.models.test_task import CONTENT, make_frame, tokenizer

from sparsefront.models.features import UNSEEN
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
