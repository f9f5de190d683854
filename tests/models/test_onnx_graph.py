"""The hand-written graph computes what the row-by-row reference and the torch model compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.models.reference_encoder import reference_logits, smallest_rank_gap

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.onnx_graph import INPUTS, build_graph
from sparsefront.models.parameters import array_shapes, random_arrays
from sparsefront.models.selection import PROTECTIONS, Protect
from sparsefront.spaces import Genome, InputError, LayerGene

Feeds = dict[str, npt.NDArray[np.int64]]
VOCABULARY, SEPARATOR = 50, 3


def make_config(
    genome: Genome, activation: str = "gelu", outputs: int = 1, protect: Protect = "none", per_token: bool = False
) -> CrossEncoderConfig:
    return CrossEncoderConfig(
        per_token=per_token,
        vocab_size=VOCABULARY, hidden_size=16, head_size=4, layer_heads=genome.column("heads"),
        layer_ffn_units=genome.column("ffn_units"), layer_keep_percent=genome.column("keep_percent"),
        max_position_embeddings=24, hidden_act=activation, outputs=outputs, protect=protect, separator_id=SEPARATOR,
    )  # fmt: skip


SPANS = 0
"""Stands for outputs where a head reads every token."""


def headed(genome: Genome, outputs: int, activation: str = "gelu", protect: Protect = "none") -> CrossEncoderConfig:
    return make_config(genome, activation, outputs or 2, protect, per_token=outputs == SPANS)


def make_feeds(lengths: list[int], seed: int) -> Feeds:
    rng = np.random.default_rng(seed)
    mask = (np.arange(max(lengths))[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    ids = rng.integers(1, VOCABULARY, mask.shape) * mask
    ids[(rng.random(mask.shape) < 0.2) & (mask == 1)] = SEPARATOR
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": rng.integers(0, 2, mask.shape) * mask}


def run_graph(model: onnx.ModelProto, feeds: Feeds) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return logits


genes = st.builds(
    LayerGene, st.integers(0, 3), st.sampled_from([0, 1, 8, 17]), st.sampled_from([100, 100, 99, 70, 40, 10, 1])
)
genomes = st.lists(genes, min_size=1, max_size=5).map(lambda layers: Genome(tuple(layers)))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    genome=genomes,
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    activation=st.sampled_from(["gelu", "relu"]),
    outputs=st.sampled_from([1, 2, 5, SPANS, SPANS]),
    protect=st.sampled_from(PROTECTIONS),
    seed=st.integers(0, 1000),
)
def test_graph_equals_reference_and_torch(
    genome: Genome, lengths: list[int], activation: str, outputs: int, protect: Protect, seed: int
) -> None:
    config = headed(genome, outputs, activation, protect)
    arrays = random_arrays(config, seed, scale=0.4)
    feeds = make_feeds(lengths, seed)
    assume(smallest_rank_gap(config, arrays, feeds) > 1e-5)
    model = build_graph(config, arrays)
    onnx.checker.check_model(model, full_check=True)
    logits = run_graph(model, feeds)
    of_row = {1: (), SPANS: (max(lengths), 2)}
    assert logits.shape == (len(lengths), *of_row.get(outputs, (outputs,)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, reference_logits(config, arrays, feeds), atol=1e-4, rtol=1e-4)

    module = CrossEncoder(config)
    module.train(False)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    with torch.no_grad():
        expected = module(**{name: torch.from_numpy(feeds[name]) for name in INPUTS}).logits.numpy()
    np.testing.assert_allclose(logits.reshape(expected.shape), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("outputs", [1, 3, SPANS])
@pytest.mark.parametrize(("keep_percent", "protect"), [(100, "none"), (60, "none"), (60, "first"), (30, "separators")])
def test_padding_never_changes_a_logit(keep_percent: int, outputs: int, protect: Protect) -> None:
    genome = Genome.uniform(3, heads=2, ffn_units=8, keep_percent=keep_percent)
    config = headed(genome, outputs, protect=protect)
    model = build_graph(config, random_arrays(config, 3, scale=0.4))
    feeds = make_feeds([20, 7, 1], seed=5)
    together = run_graph(model, feeds)
    for row, length in enumerate([20, 7, 1]):
        alone = run_graph(model, {name: value[row : row + 1, :length] for name, value in feeds.items()})
        expected = together[row, :length] if outputs == SPANS else together[row]
        np.testing.assert_allclose(alone[0], expected, atol=1e-5)


def test_equal_scores_keep_the_earlier_token() -> None:
    config = make_config(Genome.parse("h2.f8.k0.50-h2.f8.k1.00"))
    arrays = random_arrays(config, 1, scale=0.4)
    # Without queries every token receives the same attention, so the ranking is decided by position alone.
    arrays["encoder.layers.0.query.weight"][:] = 0
    arrays["encoder.layers.0.query.bias"][:] = 0
    feeds = make_feeds([8, 5], seed=2)
    np.testing.assert_allclose(
        run_graph(build_graph(config, arrays), feeds), reference_logits(config, arrays, feeds), atol=1e-4
    )


def test_layers_behind_the_last_attention_compute_only_cls() -> None:
    config = make_config(Genome.parse("h2.f8.k1.00-h0.f8.k0.50-h0.f8.k1.00"))
    model = build_graph(config, random_arrays(config))
    kinds = [node.op_type for node in model.graph.node]
    assert "TopK" not in kinds
    assert "Attention" not in kinds


@pytest.mark.parametrize("change", ["missing", "unknown", "shape"])
def test_wrong_arrays_are_named(change: str) -> None:
    config = make_config(Genome.uniform(2, heads=2, ffn_units=8))
    arrays = random_arrays(config)
    name = "encoder.layers.1.query.weight"
    if change == "missing":
        del arrays[name]
    elif change == "unknown":
        name = "encoder.layers.2.query.weight"
        arrays[name] = np.zeros((8, 16), np.float32)
    else:
        arrays[name] = np.zeros((4, 16), np.float32)
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        build_graph(config, arrays)


@pytest.mark.parametrize("outputs", [1, 4])
def test_array_names_are_the_state_dict(outputs: int) -> None:
    config = make_config(Genome.parse("h2.f8.k1.00-h0.f0.k1.00"), outputs=outputs)
    state = {name: tuple(value.shape) for name, value in CrossEncoder(config).state_dict().items()}
    assert state == array_shapes(config)


def test_export_writes_a_checked_file_and_replaces_nothing(tmp_path: Path) -> None:
    config = make_config(Genome.parse("h2.f8.k0.60-h1.f0.k1.00"))
    module = CrossEncoder(config)
    path = tmp_path / "model.onnx"
    export_onnx(module, path)
    model = onnx.load(path)
    assert next((entry.key, entry.value) for entry in model.metadata_props) == ("genome", config.genome.key())
    with pytest.raises(InputError, match="exists"):
        export_onnx(module, path)
    export_onnx(module, path, overwrite=True)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
