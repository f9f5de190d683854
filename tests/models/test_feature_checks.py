"""What is said of suspicious feature columns, and that nothing is said of the others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.feature_checks import warnings_of
from sparsefront.models.features import Features

ROWS = 400


def told(
    frame: pd.DataFrame, positive: NDArray[np.bool_], *, numeric: Sequence[str] = (), categorical: Sequence[str] = ()
) -> list[str]:
    features = Features.fit(frame, numeric=numeric, categorical=categorical, origin="rows")
    return list(warnings_of(features, features.encode(frame, "rows"), frame, positive))


def test_honest_columns_pass() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(ROWS) < 0.3
    frame = pd.DataFrame(
        {
            "signal": positive + rng.normal(size=ROWS),
            "holes": np.where(rng.random(ROWS) < 0.5, np.nan, rng.random(ROWS)),
            "city": rng.choice(["rome", "oslo", "lima"], size=ROWS),
            "user": rng.integers(0, 100, size=ROWS),
        }
    )
    assert told(frame, positive, numeric=["signal", "holes"], categorical=["city", "user"]) == []


def test_no_noise_is_warned_of() -> None:
    for seed in range(100):
        rng = np.random.default_rng(seed)
        rows = (40, 100, ROWS)[seed % 3]
        positive = rng.random(rows) < 0.2
        positive[:2] = True, False
        frame = pd.DataFrame(
            {
                "flat": rng.random(rows),
                "holes": np.where(rng.random(rows) < rng.random(), np.nan, rng.normal(size=rows)),
                "count": rng.poisson(1.0, rows),
                "rare": np.where(rng.random(rows) < 0.05, rng.random(rows), np.nan),
            }
        )
        lines = told(frame, positive, numeric=["flat", "holes", "count", "rare"])
        assert not [line for line in lines if "alone ranks" in line], seed


def test_columns_that_tell_the_label_are_named() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(ROWS) < 0.3
    frame = pd.DataFrame(
        {
            "paid": np.where(positive, -5.0, np.nan),
            "gone": np.where(positive, np.nan, rng.random(ROWS)),
            "far": np.where(positive, 3.0, 1.0) * rng.uniform(0.5, 1.4, ROWS) * rng.choice([-1, 1], ROWS),
            "sign": np.where(positive, rng.choice([-1, 1], ROWS), 0),
            "against": -positive.astype(float),
            "outcome": np.where(positive, "bought", "left"),
        }
    )
    lines = told(frame, positive, numeric=["paid", "gone", "far", "sign", "against"], categorical=["outcome"])
    assert [line.split(" alone")[0] for line in lines if "alone ranks" in line] == [
        f"feature '{name}'" for name in ("paid", "gone", "far", "sign", "against", "outcome")
    ]
    assert lines[0].startswith("feature 'paid' alone ranks the labels with AUC 1.000: ")
    assert not any("alone ranks" in line for line in told(frame, np.zeros(ROWS, bool), numeric=["against"]))


def test_an_identifier_does_not_leak_by_being_different_in_every_row() -> None:
    positive = np.arange(ROWS) % 2 == 0
    frame = pd.DataFrame({"id": [f"request-{number}" for number in range(ROWS)]})
    assert told(frame, positive, categorical=["id"]) == [
        "feature 'id': 100% of the training rows have a value that hardly repeats"
    ]


def test_texts_and_constants_are_named() -> None:
    rng = np.random.default_rng(2)
    words = np.array(["red", "blue", "sofa", "lamp", "for", "two"])
    frame = pd.DataFrame(
        {
            "comment": [" ".join(rng.choice(words, size=5)) for _ in range(ROWS)],
            "version": "v1",
            "unit": 1.0,
            "lost": np.nan,
            "rated": np.where(rng.random(ROWS) < 0.5, 1.0, np.nan),
        }
    )
    positive = rng.random(ROWS) < 0.5
    assert told(frame, positive, numeric=["unit", "lost", "rated"], categorical=["comment", "version"]) == [
        "feature 'unit' is the same in all training rows",
        "feature 'lost' is the same in all training rows",
        "feature 'comment' looks like free text; a column under text would be read word by word",
        "feature 'version' is the same in all training rows",
    ]
