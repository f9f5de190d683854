"""Vectors of a task's texts, from a store that is whole, begun or damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tests.search.conftest import Cli, Notes
from tests.search.tiny import write_backbone, write_history_task
from transformers import BertForMaskedLM

from sparsefront.models.backbone import load_backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder, Pooling
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.task import Task
from sparsefront.search.progress import Silent
from sparsefront.search.rows import ALIKE_SHARE, rows_of, vectors_of
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


@pytest.mark.parametrize(("pooling", "alike"), [("cls", True), ("mean", False)])
def test_vectors_that_tell_no_texts_apart_are_told(cli: Cli, tmp_path: Path, pooling: Pooling, alike: bool) -> None:
    folder = write_backbone(tmp_path / "backbone")
    model = BertForMaskedLM.from_pretrained(folder)
    for layer in model.bert.encoder.layer:
        layer.attention.output.dense.weight.data.zero_()  # no token hears of another
    model.save_pretrained(folder)
    task = Task.from_file(write_history_task(tmp_path / "task"))
    backbone = load_backbone(str(folder)).above(FrozenLayers(layers=1, pooling=pooling, max_tokens=8), task)
    notes = Notes()
    rows_of(task, backbone, tmp_path / "store", notes)
    assert [line.startswith("the vectors of all texts are alike") for line in notes.lines] == [True] * alike
    encode = ["encode", tmp_path / "task" / "rows.parquet", "--column", "item", "--backbone", folder, "--layers", 1]
    encode += ["--pooling", pooling, "--max-tokens", 8, "--store", tmp_path / "other"]
    told = cli(*encode)
    assert told.status == 0 and ("the vectors of all texts are alike" in told.out) == alike, told.err
    assert (cli(*encode, "--json").json["spread_share"] < ALIKE_SHARE) == alike
