"""Vectors of a task's texts, from a store that is whole, begun or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from sparsefront.models.backbone import load_backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.search.progress import Silent
from sparsefront.search.rows import vectors_of
from sparsefront.spaces import InputError


@pytest.fixture(scope="module")
def encoder(backbone: Path) -> BehaviourEncoder:
    return BehaviourEncoder.of(load_backbone(str(backbone)), layers=1, max_tokens=16)


@pytest.mark.parametrize("left", [[], ["writer.lock"], ["writer.lock", ".store.json"], ["store.json", "vectors.f16"]])
def test_an_interrupted_creation_of_the_store_is_begun_again(
    tmp_path: Path, encoder: BehaviourEncoder, left: list[str]
) -> None:
    store = tmp_path / "store"
    vectors = vectors_of(["red hat"], encoder, tmp_path / "whole", Silent())
    store.mkdir()
    for name in left:
        (store / name).touch()
    if "store.json" in left:
        shutil.copy(tmp_path / "whole" / "store.json", store)
    assert not BehaviourStore.is_made(store)
    np.testing.assert_array_equal(vectors_of(["red hat"], encoder, store, Silent()), vectors)
    assert BehaviourStore.is_made(store)


def test_what_is_no_interrupted_creation_of_a_store_is_refused(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    store = tmp_path / "store"
    vectors_of(["red hat"], encoder, store, Silent())
    (store / "keys").rename(tmp_path / "keys")
    with pytest.raises(InputError, match=r"data\.mdb: no such file"):
        vectors_of(["red hat"], encoder, store, Silent())
    (store / "store.json").unlink()
    with pytest.raises(InputError, match=r"not a behaviour store \(store.json is missing, vectors.f16 is there\)"):
        vectors_of(["red hat"], encoder, store, Silent())
