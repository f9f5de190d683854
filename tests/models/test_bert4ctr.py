"""BERT4CTR: features read the text and are never read by it; the contract of a cross-encoder holds."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import erf, softmax
from tests.models.reference_encoder import smallest_rank_gap
from tests.models.tiny import LONGEST, config_of, make_config, make_rows
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from sparsefront.latency.runtime import Runtime
from sparsefront.latency.runtime_onnxruntime import OnnxRuntime
from sparsefront.latency.runtime_openvino import OpenVino
from sparsefront.models.batching import FeatureTensors, TensorBatch, to_tensors
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.bert4ctr_graph import TextSideGraph, feature_side, side_values
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.features import FeatureRows
from sparsefront.models.parameters import array_shapes
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_gates import GateSample
from sparsefront.models.training import TrainOptions, train
from sparsefront.spaces import Genome, InputError

LAYERS = 3
SUPERNET = Genome.uniform(LAYERS, heads=3, ffn_units=20)
EDGES = [[0.0, 1.0, 4.0], [-1.0, 1.0]]
IDS = [5, 3]
EVERY_LAYER = (2, 2, 2)
keeps = st.lists(st.integers(1, 100), min_size=LAYERS - 1, max_size=LAYERS - 1)
lengths = st.lists(st.integers(1, LONGEST - 4), min_size=1, max_size=4)


def make_model(genome: Genome = SUPERNET, *, seed: int = 0, scale: float = 0.4, **changes: Any) -> Bert4Ctr:
    """A model in evaluation mode whose every tensor is random and large enough to matter."""
    settings = {"feature_width": 6, "feature_head_size": 3, "layer_feature_heads": EVERY_LAYER, "mixing_units": 7}
    text = make_config(genome).to_dict()
    del text["model_type"]
    model = Bert4Ctr(Bert4CtrConfig(**{**text, "numeric_edges": EDGES, "categorical_ids": IDS, **settings, **changes}))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=scale, generator=generator)
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    model.train(False)
    return model


def featured(rows: TokenRows, seed: int = 0) -> TokenRows:
    """The rows with random features, some of them missing."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(1.0, 2.0, (len(rows), len(EDGES))).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.3] = np.nan
    categorical = rng.integers(0, IDS, (len(rows), len(IDS))).astype(np.int32)
    return TokenRows.from_arrays({**rows.to_arrays(), "numeric": numeric, "categorical": categorical})


def batch_of(rows: TokenRows) -> TensorBatch:
    """All rows, padded, in their own order."""
    (batch,) = rows.batches(batch_size=len(rows))
    tensors = to_tensors(batch, torch.device("cpu"))
    order = tensors.index.argsort()
    features = tensors.features
    assert features is not None
    return TensorBatch(
        tensors.input_ids[order],
        tensors.attention_mask[order],
        tensors.token_type_ids[order],
        tensors.target[order],
        tensors.index[order],
        type(features)(features.numeric[order], features.categorical[order]),
    )


class Seen:
    """Remembers what the encoder tells a reader."""

    def __init__(self) -> None:
        self.states: list[tuple[Tensor, Tensor]] = []

    def __call__(self, layer: int, hidden: Tensor, mask: Tensor, presence: Tensor | None) -> None:
        assert layer == len(self.states) and presence is None
        self.states.append((hidden, mask))


def norm_of(values: NDArray[Any], weight: NDArray[Any], bias: NDArray[Any]) -> NDArray[Any]:
    spread = np.sqrt(values.var(-1, keepdims=True) + 1e-12)
    return np.asarray((values - values.mean(-1, keepdims=True)) / spread * weight + bias)


def reference_tokens(
    model: Bert4Ctr, heads: list[int], numbers: NDArray[Any], ids: NDArray[Any], states: list[NDArray[Any]]
) -> NDArray[Any]:
    """(features, feature_width) of one row, token by token and head by head; ``states``: words before each layer."""
    own = {name: value.detach().numpy().astype(np.float64) for name, value in model.branch.state_dict().items()}

    def norm(values: NDArray[Any], name: str) -> NDArray[Any]:
        return norm_of(values, own[f"{name}.weight"], own[f"{name}.bias"])

    def linear(values: NDArray[Any], name: str) -> NDArray[Any]:
        return np.asarray(values @ own[f"{name}.weight"].T + own[f"{name}.bias"])

    tokens = []
    for column, (value, edges) in enumerate(zip(numbers, EDGES, strict=True)):
        token = own["embedding.missing"][column]
        if not np.isnan(value):
            token = own["embedding.level"][column].copy()
            for piece, (low, high) in enumerate(pairwise(edges)):
                token += min(1.0, max(0.0, (value - low) / (high - low))) * own["embedding.pieces"][column, piece]
        tokens.append(token)
    tokens += [own["embedding.ids"][sum(IDS[:column]) + number] for column, number in enumerate(ids)]
    found = norm(np.array(tokens), "embedding.norm")
    for layer, words in enumerate(states):
        name = f"layers.{layer}"
        if not heads[layer]:
            continue
        query, key, value = linear(found, f"{name}.query"), linear(words, f"{name}.key"), linear(words, f"{name}.value")
        read = [np.zeros((len(found), 0))]
        for head in range(heads[layer]):
            at = slice(head * 3, head * 3 + 3)
            read.append(softmax(query[:, at] @ key[:, at].T / np.sqrt(3), axis=1) @ value[:, at])
        together = np.concatenate(read, axis=1)
        mixed = together @ own[f"{name}.output.weight"].T[: together.shape[1]] + own[f"{name}.output.bias"]
        found = norm(found + mixed, f"{name}.attention_norm")
        inner = linear(found, f"{name}.ffn_in")
        found = norm(found + linear(inner * (1 + erf(inner / np.sqrt(2))) / 2, f"{name}.ffn_out"), f"{name}.ffn_norm")
    return found


@settings(max_examples=25)
@given(lengths, keeps, st.lists(st.integers(0, 2), min_size=LAYERS, max_size=LAYERS), st.integers(0, 100))
def test_tokens_are_those_of_the_reference(
    lengths: list[int], keeps: list[int], feature_heads: list[int], seed: int
) -> None:
    genome = Genome.from_columns([3, 0, 2], [20, 7, 0], [*keeps, 100], feature_heads)
    model = make_model(seed=seed)
    rows = featured(make_rows(lengths, seed=seed), seed)
    batch, seen = batch_of(rows), Seen()
    with torch.no_grad():
        encoded = model.encode(batch, genome=genome)
        inputs = batch.input_ids, batch.attention_mask, batch.token_type_ids
        model.encoder(*inputs, genome=genome, reader=seen)
        logits = model.logits_of(encoded)
    assert encoded.features is not None and rows.features is not None
    for row in range(len(rows)):
        states = [hidden[row][mask[row]].numpy().astype(np.float64) for hidden, mask in seen.states]
        numbers, ids = rows.features.numeric[row], rows.features.categorical[row]
        expected = reference_tokens(model, feature_heads, numbers, ids, states)
        np.testing.assert_allclose(encoded.features[row], expected, atol=1e-4)
        branch = model.branch
        together = torch.cat([encoded.hidden[row, 0], torch.from_numpy(expected).float().flatten()])
        added = branch.head(torch.nn.functional.gelu(branch.mixing(together)))
        torch.testing.assert_close(logits[row], (model.head(encoded.hidden[row, 0]) + added)[0], atol=1e-4, rtol=1e-4)


@settings(max_examples=25)
@given(lengths, keeps, st.lists(st.integers(0, 3), min_size=LAYERS, max_size=LAYERS), st.integers(0, 100))
def test_slim_equals_elastic_and_a_row_alone_equals_it_among_others(
    lengths: list[int], keeps: list[int], heads: list[int], seed: int
) -> None:
    model = make_model(seed=seed)
    rows = featured(make_rows(lengths, seed=seed), seed)
    genome = Genome.from_columns(heads, [20, 0, 7], [*keeps, 100], [seed % 3, 2, seed // 3 % 3])
    together = score_rows(model, rows, genome=genome, precision="fp32")
    np.testing.assert_allclose(score_rows(model.slim(genome), rows, precision="fp32"), together, atol=1e-4)
    for row in range(len(rows)):
        alone = score_rows(model, rows.subset([row]), genome=genome, precision="fp32")
        np.testing.assert_allclose(alone, together[[row]], atol=1e-4)


def served(model: Bert4Ctr, batch: TensorBatch, runtime: Runtime) -> NDArray[np.float32]:
    """Logits by a serving runtime."""
    arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    assert batch.features is not None
    feeds = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "token_type_ids": batch.token_type_ids,
        "numeric": batch.features.numeric,
        "categorical": batch.features.categorical,
    }
    config: Any = model.config
    given = {name: value.numpy() for name, value in feeds.items() if value.shape[1]}
    return np.asarray(runtime.load(config, arrays).run(given))


@settings(max_examples=25)
@given(
    lengths,
    keeps,
    st.lists(st.integers(0, 3), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.integers(0, 2), min_size=LAYERS, max_size=LAYERS),
    st.sampled_from(["both", "numeric", "categorical"]),
    st.integers(1, 2),
    st.integers(0, 100),
)
def test_the_graph_equals_torch(
    lengths: list[int],
    keeps: list[int],
    heads: list[int],
    feature_heads: list[int],
    kinds: str,
    outputs: int,
    seed: int,
) -> None:
    genome = Genome.from_columns(heads, [20, 0, 7], [*keeps, 100])
    numeric, categorical = (EDGES if kinds != "categorical" else []), (IDS if kinds != "numeric" else [])
    model = make_model(
        genome,
        seed=seed,
        layer_feature_heads=feature_heads,
        outputs=outputs,
        numeric_edges=numeric,
        categorical_ids=categorical,
    )
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert array_shapes(config_of(model)) == shapes
    batch = batch_of(featured(make_rows(lengths, seed=seed), seed))
    assert batch.features is not None
    features = FeatureTensors(
        batch.features.numeric[:, : len(numeric)], batch.features.categorical[:, : len(categorical)]
    )
    batch = replace(batch, features=features)
    assume_no_ties(model, batch)
    with torch.no_grad():
        expected = model.logits_of(model.encode(batch)).numpy()
    for runtime in (OnnxRuntime(), OpenVino()):
        np.testing.assert_allclose(served(model, batch, runtime), expected, atol=2e-4, rtol=2e-4)


def ran(graph: onnx.ModelProto, feeds: dict[str, Any]) -> dict[str, NDArray[Any]]:
    """All outputs of a checked graph by name."""
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    asked = {one.name for one in session.get_inputs()}
    return dict(zip(names, session.run(names, {name: feeds[name] for name in asked}), strict=True))


@settings(max_examples=20)
@given(
    lengths,
    st.integers(1, 3),
    keeps,
    st.lists(st.integers(0, 3), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.integers(0, 2), min_size=LAYERS, max_size=LAYERS),
    st.integers(1, 2),
    st.integers(0, 100),
)
def test_both_sides_are_the_whole(
    lengths: list[int],
    rows_per_text: int,
    keeps: list[int],
    heads: list[int],
    feature_heads: list[int],
    outputs: int,
    seed: int,
) -> None:
    genome = Genome.from_columns(heads, [20, 0, 7], [*keeps, 100])
    model = make_model(genome, seed=seed, layer_feature_heads=feature_heads, outputs=outputs)
    config: Any = model.config
    arrays = {name: value.detach().numpy() for name, value in model.state_dict().items()}
    texts = make_rows(lengths, seed=seed)
    every = featured(texts.subset(np.repeat(np.arange(len(texts)), rows_per_text)), seed)
    assert every.features is not None
    alone, together = batch_of(featured(texts)), batch_of(every)
    assume_no_ties(model, alone)
    with torch.no_grad():
        expected = model.logits_of(model.encode(together)).numpy()
    feeds = {name: getattr(alone, name).numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    said = ran(TextSideGraph(config, arrays, "fp32").build(), feeds)
    assert {one.name for one in side_values(config)} == set(said)
    ids = every.features.categorical.astype(np.int64)
    answered = ran(feature_side(config, arrays), {**said, "numeric": every.features.numeric, "categorical": ids})
    np.testing.assert_allclose(answered["logits"], expected, atol=2e-4, rtol=2e-4)


def assume_no_ties(model: Bert4Ctr, batch: TensorBatch) -> None:
    """Tokens whose scores are so close that rounding ranks them otherwise in another runtime prove nothing."""
    text = {name: value for name, value in model.state_dict().items() if "branch" not in name}
    arrays = {name: value.detach().numpy() for name, value in text.items()}
    feeds = {name: getattr(batch, name).numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    assume(smallest_rank_gap(config_of(model), arrays, feeds) > 1e-5)


def test_text_never_sees_the_features() -> None:
    model, rows = make_model(), make_rows([9, 20, 1])
    with torch.no_grad():
        one, other = (model.encode(batch_of(featured(rows, seed))) for seed in (1, 2))
    torch.testing.assert_close(one.hidden, other.hidden, atol=0, rtol=0)
    assert one.features is not None and other.features is not None
    assert (one.features - other.features).abs().max() > 0.1


def test_masking_tokens_out_equals_gathering_them_out() -> None:
    model, batch = make_model(), batch_of(featured(make_rows([20, 13, 7], seed=4)))
    genome = Genome.from_columns([3, 3, 3], [20, 20, 20], [60, 40, 100], EVERY_LAYER)
    with torch.no_grad():
        gathered = model.logits_of(model.encode(batch, genome=genome))
        masked = model.logits_of(model.encode(batch, gates=GateSample.of_schedule((60, 40))))
    torch.testing.assert_close(masked, gathered, atol=1e-4, rtol=1e-4)


def test_without_heads_in_any_layer_features_only_meet_cls() -> None:
    model = make_model(layer_feature_heads=(0, 0, 0))
    assert not any(name.startswith("branch.layers") for name in model.state_dict())
    rows = featured(make_rows([9, 4]))
    with torch.no_grad():
        encoded = model.encode(batch_of(rows))
        tokens = model.branch.embedding(batch_of(rows).features)
    assert encoded.features is not None
    torch.testing.assert_close(encoded.features, tokens)


def test_a_fresh_branch_adds_nothing_to_the_text_model(tmp_path: Path) -> None:
    fresh = Bert4Ctr(make_model().config).eval()
    rows = featured(make_rows([9, 20, 3]))
    text = CrossEncoder(make_config(SUPERNET)).eval()
    text.load_state_dict({name: value for name, value in fresh.state_dict().items() if "branch" not in name})
    np.testing.assert_allclose(score_rows(fresh, rows), score_rows(text, rows), atol=1e-6)
    fresh.save_pretrained(tmp_path)
    assert (Bert4Ctr.from_pretrained(tmp_path).branch.head.weight == 0).all()


def test_it_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    model, rows = make_model(layer_feature_heads=(2, 0, 1)), featured(make_rows([9, 20, 3]))
    model.save_pretrained(tmp_path)
    for load in (Bert4Ctr.from_pretrained, AutoModelForSequenceClassification.from_pretrained):
        back = load(tmp_path)
        assert isinstance(back, Bert4Ctr)
        np.testing.assert_allclose(score_rows(back, rows), score_rows(model, rows), atol=1e-5)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load a Bert4Ctr"):
        Bert4Ctr.from_pretrained(tmp_path)


def test_forward_takes_what_hugging_face_users_expect() -> None:
    model, rows = make_model(), featured(make_rows([9, 20, 3]))
    batch = batch_of(rows)
    assert batch.features is not None
    output = model(
        batch.input_ids,
        batch.attention_mask,
        batch.token_type_ids,
        numeric=batch.features.numeric,
        categorical=batch.features.categorical,
        labels=batch.target,
    )
    np.testing.assert_allclose(output.logits[:, 0].detach(), score_rows(model, rows, precision="fp32"), atol=1e-5)
    assert output.loss > 0
    numbers = make_model(categorical_ids=[])
    assert numbers(batch.input_ids, numeric=batch.features.numeric).logits.shape == (3, 1)


def test_features_of_other_columns_are_refused() -> None:
    ids = torch.ones((2, 3), dtype=torch.long)
    with pytest.raises(ValueError, match=r"must be \(2, 2\) numbers and categories, got \(1, 0\)"):
        make_model()(ids, numeric=torch.zeros(2, 1))
    with pytest.raises(ValueError, match=r"must be \(0, 0\) numbers and categories, got \(1, 0\)"):
        CrossEncoder(make_config(SUPERNET))(ids, numeric=torch.zeros(2, 1))


def test_rows_without_features_are_refused() -> None:
    with pytest.raises(ValueError, match="needs rows with features"):
        score_rows(make_model(), make_rows([3]))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"numeric_edges": [], "categorical_ids": []}, "needs features, got none"),
        ({"numeric_edges": [[1.0]]}, "at least two finite numbers that rise"),
        ({"numeric_edges": [[1.0, 1.0]]}, "at least two finite numbers that rise"),
        ({"numeric_edges": [[0.0, float("nan")]]}, "at least two finite numbers that rise"),
        ({"categorical_ids": [0]}, "categorical_ids must be whole numbers of at least 1"),
        ({"layer_feature_heads": [1, 1]}, "layer_feature_heads must be 3 whole numbers of at least 0"),
        ({"layer_feature_heads": [1, 1, -1]}, "layer_feature_heads must be 3 whole numbers of at least 0"),
        ({"feature_width": 0}, "feature_width must be a whole number of at least 1"),
        ({"mixing_units": 2.5}, "mixing_units must be a whole number of at least 1"),
        ({"per_token": True, "outputs": 2}, "does not go with a head of every token"),
    ],
)
def test_configurations_that_make_no_model(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make_model(**change)


def test_training_learns_from_features_what_no_word_says() -> None:
    rows = make_rows([6] * 300, seed=1)
    rng = np.random.default_rng(0)
    features = FeatureRows(
        rng.normal(1.0, 2.0, (300, 2)).astype(np.float32), rng.integers(0, IDS, (300, 2)).astype(np.int32)
    )
    clicked = (features.numeric[:, 0] > 1) == (features.categorical[:, 1] == 1)
    target = clicked.astype(np.float32)
    rows = TokenRows(
        input_ids=rows.input_ids,
        token_type_ids=rows.token_type_ids,
        offsets=rows.offsets,
        target=target,
        positive=clicked,
        features=features,
    )
    model = Bert4Ctr(make_model().config)
    train(model, rows, TrainOptions(epochs=30, learning_rate=3e-3, tokens_per_batch=256, dropout=0.0))
    right = (score_rows(model, rows) > 0) == clicked
    assert right.mean() > 0.9
