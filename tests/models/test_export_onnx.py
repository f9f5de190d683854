"""The exported file: the torch model's logits, written whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.models.reference_encoder import smallest_rank_gap
from tests.models.tiny import config_of, make_feeds, make_model, make_rows, state_arrays, to_torch

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.scoring import score_rows
from sparsefront.spaces import Genome, InputError, LayerGene

SUPERNET = Genome.uniform(3, heads=3, ffn_units=20)
SMALL = Genome.parse("h2.f11.k0.50-h0.f7.k0.60-h1.f0.k1.00")
genes = st.builds(LayerGene, st.integers(0, 3), st.integers(0, 20), st.sampled_from([100, 80, 50, 10, 0]))


def session_of(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
@given(
    layers=st.lists(genes, min_size=3, max_size=3),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    padding=st.integers(0, 4),
    outputs=st.sampled_from([1, 3]),
    seed=st.integers(0, 1000),
)
def test_the_file_computes_the_supernets_logits_of_its_genome(
    tmp_path: Path, layers: list[LayerGene], lengths: list[int], padding: int, outputs: int, seed: int
) -> None:
    genome = Genome(tuple(layers))
    supernet = make_model(SUPERNET, seed=seed, outputs=outputs)
    small = supernet.slim(genome)
    feeds = make_feeds(lengths, seed, tokens=max(lengths) + padding)
    assume(smallest_rank_gap(config_of(small), state_arrays(small), feeds) > 1e-5)
    export_onnx(small, tmp_path / "model.onnx", overwrite=True)
    with torch.no_grad():
        expected = supernet(**to_torch(feeds), genome=genome).logits.numpy()
    logits = session_of(tmp_path / "model.onnx").run(["logits"], feeds)[0]
    assert logits.shape == ((len(lengths),) if outputs == 1 else (len(lengths), outputs))
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("outputs", [1, 3])
def test_one_file_serves_batches_of_every_shape(tmp_path: Path, outputs: int) -> None:
    model, rows = make_model(SMALL, outputs=outputs), make_rows([5, 1, 20, 13, 2, 9, 9, 24])
    export_onnx(model, tmp_path / "model.onnx")
    session = session_of(tmp_path / "model.onnx")
    expected = score_rows(model, rows, precision="fp32")
    for tokens_per_batch in (1, 30, 1000):
        logits: NDArray[np.float32] = np.full(expected.shape, np.nan, np.float32)
        for batch in rows.batches(tokens_per_batch=tokens_per_batch, shuffle_seed=1):
            feeds = {name: getattr(batch, name) for name in ("input_ids", "attention_mask", "token_type_ids")}
            logits[batch.index] = session.run(["logits"], feeds)[0]
        np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_dropout_and_half_precision_do_not_reach_the_file(tmp_path: Path) -> None:
    model, feeds = make_model(SMALL), make_feeds([9, 4], 0)
    export_onnx(model, tmp_path / "plain.onnx")
    export_onnx(make_model(SMALL).train(), tmp_path / "training.onnx")
    assert (tmp_path / "plain.onnx").read_bytes() == (tmp_path / "training.onnx").read_bytes()
    export_onnx(make_model(SMALL).bfloat16(), tmp_path / "bf16.onnx")
    exact, rounded = (session_of(tmp_path / name).run(None, feeds)[0] for name in ("plain.onnx", "bf16.onnx"))
    assert rounded.dtype == np.float32
    np.testing.assert_allclose(rounded, exact, atol=0.1)


# -- the file --------------------------------------------------------------------------------------------------------


def test_the_file_can_be_read_by_others(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    export_onnx(make_model(SMALL), str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    onnx.checker.check_model(onnx.load(path), full_check=True)


def test_an_existing_file_is_replaced_only_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"precious")
    with pytest.raises(InputError) as refusal:
        export_onnx(make_model(SMALL), path)
    assert str(refusal.value) == f"{path} exists; it is replaced only with --overwrite"
    assert path.read_bytes() == b"precious"
    export_onnx(make_model(SMALL), path, overwrite=True)
    assert next(entry.value for entry in onnx.load(path).metadata_props if entry.key == "genome") == SMALL.key()


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "none" / "model.onnx"
    with pytest.raises(InputError) as refusal:
        export_onnx(make_model(SMALL), path)
    assert str(refusal.value) == f"{path.parent} is not a folder, so model.onnx cannot be written there"
    assert not path.parent.exists()


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("existing", [False, True])
def test_a_crash_leaves_the_old_file_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, existing: bool
) -> None:
    path = tmp_path / "model.onnx"
    if existing:
        path.write_bytes(b"precious")

    def crash(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, step, crash)
    with pytest.raises(OSError, match="the disk is full"):
        export_onnx(make_model(SMALL), path, overwrite=True)
    assert [(item.name, item.read_bytes()) for item in tmp_path.iterdir()] == (
        [("model.onnx", b"precious")] if existing else []
    )


def test_weights_that_do_not_fit_the_config_write_nothing(tmp_path: Path) -> None:
    model: CrossEncoder = make_model(SMALL)
    model.config = model.config.with_genome(SUPERNET)
    with pytest.raises(ValueError, match=r"encoder\.layers\.0\.query\.weight"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
