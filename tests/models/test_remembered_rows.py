"""Rows that an open store remembers: found without a look at its keys, bounded, and never older than what is there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.models.test_behaviour_store import made, named, vectors_of, writer

from sparsefront.models import behaviour_store
from sparsefront.models.behaviour_store import BehaviourStore


def test_rows_are_remembered_and_no_more_of_them_than_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(behaviour_store, "REMEMBERED", 10)
    texts = [*named(8), "x" * 1000]
    looked_up: list[int] = []
    with BehaviourStore.open(made(tmp_path / "store", texts)) as store:
        find = store._keys.rows

        def counted(keys: Sequence[bytes]) -> tuple[NDArray[np.int64], int]:
            looked_up.append(len(keys))
            return find(keys)

        monkeypatch.setattr(store._keys, "rows", counted)
        for _ in range(2):
            assert store.rows([*texts, "new"]).tolist() == [*range(9), -1]
        assert looked_up == [10, 2]  # the long one is not kept, and what is not there may come
        assert store.rows(texts[2:5][::-1]).tolist() == [4, 3, 2] and looked_up == [10, 2]
        assert store.stats()["hits"] == 21 and store.stats()["misses"] == 2


def test_what_is_remembered_is_dropped_where_it_gets_too_much_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(behaviour_store, "REMEMBERED", 10)
    texts = named(40)
    with BehaviourStore.open(made(tmp_path / "store", texts)) as store:
        for first in (0, 4, 8, 12, 0, 20):
            assert store.rows(texts[first : first + 8]).tolist() == list(range(first, first + 8))
            assert len(store._remembered) <= 10
        assert store.rows(texts).tolist() == list(range(40))


def test_a_text_that_comes_later_is_found_then(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    with BehaviourStore.open(path) as reader:
        assert reader.rows(["late", "viewed item 1"]).tolist() == [-1, 1]
        with writer(path) as store:
            store.put(["late"], vectors_of(["late"]))
        assert reader.rows(["late", "viewed item 1"]).tolist() == [3, 1]
