"""The built-in ad log: deterministic, with a known signal in each part and none where it must not be."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sparsefront.models.ad_log import CATEGORICAL, NUMERIC, ORACLE, best_achievable_auc, generate_ad_log
from sparsefront.models.task import Task


@pytest.fixture(scope="module")
def log() -> pd.DataFrame:
    return generate_ad_log(rows=8000, seed=0)


def test_columns_and_ranges(log: pd.DataFrame) -> None:
    assert [*log.columns] == ["query", "ad_title", *NUMERIC, *CATEGORICAL, "history", "click", *ORACLE]
    assert set(log["click"]) == {0, 1}
    lengths = log["history"].map(len)
    assert lengths.min() >= 3 and lengths.max() <= 30
    query_words, title_words = (log[name].str.count(" ") + 1 for name in ("query", "ad_title"))
    assert query_words.between(2, 14).all() and 2.5 <= query_words.median() <= 5
    assert title_words.quantile(0.05) >= 6 and title_words.quantile(0.95) <= 14
    assert {name for name in log.columns if log[name].isna().any()} == {"age", "past_ctr", "price_gap"}


def test_the_seed_decides_everything(log: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(log, generate_ad_log(rows=8000, seed=0))
    assert (generate_ad_log(rows=8000, seed=1)["query"] != log["query"]).mean() > 0.9


def test_oracles_stand_where_they_are_documented(log: pd.DataFrame) -> None:
    best = best_achievable_auc(log)
    assert 0.88 <= best["full"] <= 0.92
    assert 0.79 <= best["text"] <= 0.85
    assert 0.64 <= best["features"] < best["text"]
    assert 0.64 <= best["history"] < best["text"]


def test_clicks_follow_their_probability(log: pd.DataFrame) -> None:
    fifth = (log["click_probability"] * 5).astype(int)
    table = log.groupby(fifth)[["click", "click_probability"]].mean()
    assert np.abs(table["click"] - table["click_probability"]).max() < 0.04


def test_counting_shared_words_is_far_from_the_text_oracle(log: pd.DataFrame) -> None:
    overlap = [len(set(q.split()) & set(t.split())) for q, t in zip(log["query"], log["ad_title"], strict=True)]
    assert roc_auc_score(log["click"], overlap) < best_achievable_auc(log)["text"] - 0.08


def test_twenty_thousand_rows_take_two_seconds() -> None:
    started = time.process_time()
    generate_ad_log(rows=20_000, seed=3)
    assert time.process_time() - started < 4  # twice the promise: test machines are shared


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 100, got 5"):
        generate_ad_log(rows=5, seed=0)


def test_builtin_task_is_split_by_query() -> None:
    task = Task.builtin(rows=2000)
    query = task.frame["query"]
    parts = [set(query.iloc[task.indices(name)]) for name in ("train", "valid", "test")]
    assert sum(map(len, parts)) == query.nunique() < len(task)
    assert [len(task.indices(name)) for name in ("train", "valid", "test")] == [1600, 200, 200]
    assert task.report()["name"] == "ad_log"
    assert task.fingerprint == Task.builtin(rows=2000).fingerprint != Task.builtin(rows=2000, seed=1).fingerprint
