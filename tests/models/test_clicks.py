"""Rows of the benchmarks on clicks know nothing of what came later."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

USERS, FILMS, RATINGS, START = 12, 9, 600, 1_000_000_000


@pytest.fixture
def clicks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("clicks")


@pytest.fixture
def ratings(tmp_path: Path) -> pd.DataFrame:
    """A small data set of the same columns; several ratings of a user share a second."""
    rng = np.random.default_rng(0)
    ratings = pd.DataFrame(
        {
            "user_id": rng.integers(1, USERS + 1, RATINGS),
            "movie_id": rng.integers(1, FILMS + 1, RATINGS),
            "rating": rng.integers(1, 6, RATINGS),
            "timestamp": START + 86_400 * rng.integers(0, 200, RATINGS),
            "seq_pos": np.arange(RATINGS),
        }
    )
    films = {
        "title": [f"Film {number} (199{number})" for number in range(FILMS)],
        "genres": "Drama|War",
        "plot": "Told.",
    }
    pd.DataFrame({"movie_id": range(1, FILMS + 1), **films}).to_parquet(tmp_path / "movies.parquet")
    who = {"gender": "F", "age": 25, "occupation": 3, "zip": "12345"}
    pd.DataFrame({"user_id": range(1, USERS + 1), **who}).to_parquet(tmp_path / "users.parquet")
    ratings.to_parquet(tmp_path / "ratings.parquet")
    return ratings.assign(liked=ratings["rating"] >= 4)


def test_features_are_those_of_earlier_seconds_and_what_is_tested_comes_last(
    clicks: Any, ratings: pd.DataFrame, tmp_path: Path
) -> None:
    task = clicks.movielens(tmp_path, RATINGS)
    early = ratings["timestamp"] <= np.quantile(ratings["timestamp"], clicks.EARLY)
    prior = ratings.loc[early, "liked"].mean()
    for row in task.frame.itertuples():
        before = ratings[ratings["timestamp"] < row.timestamp]
        for name, own in (
            ("user", before[before["user_id"] == row.user_id]),
            ("film", before[before["movie_id"] == row.film_id]),
        ):
            share = (own["liked"].sum() + clicks.PRIOR * prior) / (len(own) + clicks.PRIOR)
            assert getattr(row, f"{name}_ratings") == len(own)
            assert getattr(row, f"{name}_liked_share") == pytest.approx(share)
        liked = before[(before["user_id"] == row.user_id) & before["liked"]]
        latest = liked.sort_values(["timestamp", "seq_pos"])["movie_id"].tail(clicks.SHOWN)
        assert row.taste == "; ".join(f"Film {film - 1} (199{film - 1})" for film in latest)
    times = {part: task.frame["timestamp"].iloc[task.indices(part)] for part in ("train", "valid", "test")}
    assert times["train"].max() <= times["valid"].min() and times["valid"].max() <= times["test"].min()
    assert ratings.loc[early, "timestamp"].max() < times["test"].min()


def test_histories_hold_what_was_liked_in_earlier_seconds(clicks: Any, ratings: pd.DataFrame, tmp_path: Path) -> None:
    task = clicks.movielens_histories(tmp_path, RATINGS, least=1, most=500)
    (seen,), (offsets,) = task.histories.behaviours, task.histories.offsets
    assert len(task.frame) > 300
    for row, (user, moment) in enumerate(zip(task.frame["user_id"], task.frame["timestamp"], strict=True)):
        before = ratings[(ratings["user_id"] == user) & (ratings["timestamp"] < moment) & ratings["liked"]]
        expected = sorted(f"Film {film - 1} (199{film - 1}). Drama, War" for film in before["movie_id"])
        assert sorted(task.histories.texts[one] for one in seen[offsets[row] : offsets[row + 1]]) == expected
