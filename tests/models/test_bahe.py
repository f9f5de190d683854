"""Bahe: histories and the item go through the layers on their own; the contract of a cross-encoder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.models.test_bert4ctr import EDGES, IDS
from tests.models.tiny import make_config

from sparsefront.latency.runtime_onnxruntime import onnx_session
from sparsefront.models.bahe import Bahe
from sparsefront.models.bahe_config import BaheConfig
from sparsefront.models.batching import to_tensors
from sparsefront.models.behaviours import Sequences
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.features import FeatureRows
from sparsefront.models.importance import fisher_importance
from sparsefront.models.onnx_graph import build_graph
from sparsefront.models.parameters import array_shapes, random_arrays
from sparsefront.models.ranker import load_ranker, ranker_from
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_gates import GateSample
from sparsefront.models.training import TrainOptions, train
from sparsefront.search.export import feeds_of
from sparsefront.spaces import Genome, InputError

LAYERS = 3
WIDTH = 32
TEXTS = 11
SUPERNET = Genome.uniform(LAYERS, heads=3, ffn_units=20)
BRANCH: dict[str, Any] = {
    "numeric_edges": EDGES,
    "categorical_ids": IDS,
    "feature_width": 6,
    "feature_head_size": 3,
    "layer_feature_heads": (2, 0, 1),
}
counts_of_rows = st.lists(st.lists(st.integers(0, 6), min_size=3, max_size=3), min_size=1, max_size=4)
keeps = st.lists(st.integers(1, 100), min_size=LAYERS - 1, max_size=LAYERS - 1)


def make_config_of(genome: Genome = SUPERNET, *, histories: int = 1, **changes: Any) -> BaheConfig:
    """A configuration of these layers, for at most 7 behaviours."""
    text = make_config(genome).to_dict()
    del text["model_type"]
    return BaheConfig(
        **{**text, "max_position_embeddings": 8, "history_count": histories, "meeting_units": 9, **changes}
    )


def make_bahe(genome: Genome = SUPERNET, *, histories: int = 1, seed: int = 0, **changes: Any) -> Bahe:
    """A model in evaluation mode whose every tensor is random and large enough to matter."""
    config = make_config_of(genome, histories=histories, **changes)
    model = Bahe(config)
    arrays = random_arrays(config, seed, scale=0.4)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    model.train(False)
    return model


def make_histories(counts: list[list[int]], *, features: bool = False, seed: int = 0) -> TokenRows:
    """Rows of so many behaviours per history, of random texts, with an item each."""
    rng = np.random.default_rng(seed)
    histories = len(counts[0])
    types = [np.repeat(np.arange(histories + 1), [*own, 1]) for own in counts]
    lengths = [len(one) for one in types]
    rows = len(counts)
    found = FeatureRows(
        rng.normal(1.0, 2.0, (rows, len(EDGES))).astype(np.float32), rng.integers(0, IDS, (rows, 2)).astype(np.int32)
    )
    return TokenRows(
        input_ids=rng.integers(0, TEXTS, sum(lengths)).astype(np.int32),
        token_type_ids=np.concatenate(types).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=rng.integers(0, 2, rows).astype(np.float32),
        positive=np.zeros(rows, np.bool_),
        vectors=rng.normal(size=(TEXTS, WIDTH)).astype(np.float16),
        features=found if features else None,
    )


def served(model: CrossEncoder, rows: TokenRows) -> NDArray[np.float32]:
    """Logits by the exported graph, all rows padded in one batch."""
    config: Any = model.config
    graph = build_graph(config, {name: value.numpy() for name, value in model.state_dict().items()})
    session = onnx_session(graph.SerializeToString(), 1)
    (batch,) = rows.batches(batch_size=len(rows))
    names = {node.name for node in session.get_inputs()}
    logits = np.empty(len(rows), np.float32)
    feeds = {name: values for name, values in feeds_of(batch).items() if name in names}
    logits[batch.index] = session.run(None, feeds)[0]
    return logits


def test_the_arrays_of_a_model_are_known_without_it() -> None:
    for histories, branch in ((1, {}), (3, BRANCH)):
        model = make_bahe(histories=histories, **branch)
        shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        assert shapes == array_shapes(make_config_of(histories=histories, **branch))


@settings(deadline=None, max_examples=20)
@given(counts_of_rows, keeps, st.booleans(), st.integers(1, 7))
def test_slim_graph_and_single_rows_agree_with_the_elastic_model(
    counts: list[list[int]], kept: list[int], with_features: bool, behaviours: int
) -> None:
    branch: dict[str, Any] = BRANCH if with_features else {}
    model = make_bahe(histories=3, **branch)
    reading = (1, 0, 1) if with_features else (0, 0, 0)
    genome = Genome.from_columns([2, 3, 1], [9, 0, 20], [*kept, 100], reading, [behaviours, 0, 0])
    rows = make_histories(counts, features=with_features)
    elastic = score_rows(model, rows, genome=genome, precision="fp32")
    slim = model.slim(genome)
    assert slim.genome == genome and len(slim.encoder.embeddings.position.weight) == 1 + behaviours
    np.testing.assert_allclose(score_rows(slim, rows, precision="fp32"), elastic, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(served(slim, rows), elastic, atol=1e-4)
    alone = [score_rows(model, rows.subset([row]), genome=genome, precision="fp32")[0] for row in range(len(rows))]
    np.testing.assert_allclose(alone, elastic, atol=1e-5, rtol=1e-5)


def test_histories_and_item_meet_only_in_the_head() -> None:
    model = make_bahe(histories=2)
    rows = make_histories([[4, 3]])
    (batch,) = rows.batches(batch_size=1)
    tensors = to_tensors(batch, torch.device("cpu"))
    states = model.encode(tensors).hidden[0]
    assert states.shape == (3, WIDTH)
    assert tensors.vectors is not None
    for place, changed in ((0, 0), (4, 1), (7, 2)):
        tensors.vectors[0, place, 0] += 3
        moved = (model.encode(tensors).hidden[0] - states).abs().amax(1) > 1e-6
        assert moved.tolist() == [number == changed for number in range(3)]
        tensors.vectors[0, place, 0] -= 3


def test_an_item_is_told_apart_even_without_heads() -> None:
    model = make_bahe(Genome.uniform(LAYERS, heads=0, ffn_units=20))
    rows = make_histories([[3], [3]])
    first, second = score_rows(model, rows, precision="fp32")
    assert abs(first - second) > 1e-3


def test_order_matters_and_a_user_without_behaviours_has_a_logit() -> None:
    model = make_bahe()
    rows = make_histories([[5], [0]])
    backwards = TokenRows.from_arrays(
        {**rows.to_arrays(), "input_ids": np.r_[rows.input_ids[:5][::-1], rows.input_ids[5:]].astype(np.int32)}
    )
    told, other = (score_rows(model, one, precision="fp32") for one in (rows, backwards))
    assert np.isfinite(told).all() and abs(told[0] - other[0]) > 1e-3 and told[1] == other[1]


def test_the_newest_behaviours_are_read_and_no_others() -> None:
    model = make_bahe(histories=2)
    rows, newest = make_histories([[6, 2]]), make_histories([[6, 2]])
    genome = SUPERNET.replace(0, "behaviours", 3)
    kept = np.r_[0:3, 6:9]
    newest = TokenRows.from_arrays(
        {
            **newest.to_arrays(),
            "input_ids": rows.input_ids[kept],
            "token_type_ids": rows.token_type_ids[kept],
            "offsets": np.array([0, len(kept)]),
        }
    )
    told = score_rows(model, rows, genome=genome, precision="fp32")
    assert told == pytest.approx(score_rows(model, newest, precision="fp32"), abs=1e-5)
    assert abs(told - score_rows(model, rows, precision="fp32")) > 1e-3
    with pytest.raises(ValueError, match=r"layer 0 holds h3\.f20\.k1\.00\.b7 at most"):
        score_rows(model, rows, genome=SUPERNET.replace(0, "behaviours", 8))
    with pytest.raises(ValueError, match="a model of texts has no history that could be cut"):
        make_config(SUPERNET).with_genome(genome)


def test_gates_that_drop_what_a_schedule_drops_give_the_same_logits() -> None:
    model = make_bahe(histories=2)
    rows = make_histories([[6, 2], [1, 5]])
    genome = SUPERNET.keeping((60, 50))
    gathered = score_rows(model, rows, genome=genome, precision="fp32")
    masked = score_rows(model, rows, gates=GateSample.of_schedule((60, 50)), precision="fp32")
    np.testing.assert_allclose(masked, gathered, atol=1e-5)


def test_what_all_texts_share_is_nothing_to_a_centred_model() -> None:
    """Vectors that differ by what fp16 holds exactly, so that only the model could tell them from others."""
    rows = make_histories([[6, 2], [0, 5], [3, 0]])
    assert rows.vectors is not None
    vectors = np.round(rows.vectors * 64) / np.float16(64)
    rows = replace(rows, vectors=vectors)
    moved = replace(rows, vectors=vectors + np.linspace(-4, 3.75, WIDTH).astype(np.float16))

    def logits(of: TokenRows, *, centred: bool) -> NDArray[np.float32]:
        model = make_bahe(histories=2)
        if centred:
            model.centre(of)
        return score_rows(model, of, precision="fp32")

    assert np.abs(logits(moved, centred=False) - logits(rows, centred=False)).min() > 1e-2
    np.testing.assert_allclose(logits(moved, centred=True), logits(rows, centred=True), atol=1e-4)
    with pytest.raises(ValueError, match="needs rows with vectors"):
        make_bahe().centre(replace(rows, vectors=None))


def test_importance_does_not_change_the_function_and_training_learns() -> None:
    model = make_bahe(histories=2, **BRANCH)
    rows = make_histories([[6, 2], [1, 5], [3, 0], [2, 2]], features=True)
    before = score_rows(model, rows, precision="fp32")
    fisher_importance(model, rows).apply(model)
    np.testing.assert_allclose(score_rows(model, rows, precision="fp32"), before, atol=1e-5)
    fresh = ranker_from(model.config.to_dict())
    first = train(fresh, rows, TrainOptions(epochs=1, learning_rate=1e-2)).final_loss
    assert train(fresh, rows, TrainOptions(epochs=40, learning_rate=1e-2)).final_loss < first / 2


def test_a_checkpoint_comes_back_as_what_it_was(tmp_path: Path) -> None:
    model = make_bahe(histories=2, encoder_fingerprint="of the lower layers", **BRANCH)
    model.save_pretrained(tmp_path)
    loaded = load_ranker(tmp_path)
    assert isinstance(loaded, Bahe) and loaded.config.encoder_fingerprint == "of the lower layers"
    rows = make_histories([[6, 2]], features=True)
    np.testing.assert_allclose(score_rows(loaded, rows), score_rows(model, rows), atol=1e-5)
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="cannot load a Bahe"):
        load_ranker(tmp_path)


def test_forward_takes_what_the_graph_takes_and_tells_what_does_not_fit() -> None:
    model = make_bahe(histories=2)
    rows = make_histories([[6, 2], [1, 5]])
    (batch,) = rows.batches(batch_size=2)
    sequences = Sequences.of(to_tensors(batch, torch.device("cpu")), 2)
    told = model(sequences.vectors, sequences.mask, sequences.item, labels=torch.tensor([1.0, 0.0]))
    np.testing.assert_allclose(
        told.logits[:, 0].detach(), score_rows(model, rows, precision="fp32")[batch.index], atol=1e-5
    )
    assert told.loss > 0
    with pytest.raises(ValueError, match="vectors must be of 2 histories, got 1"):
        model(sequences.vectors[:, :1], sequences.mask[:, :1], sequences.item)
    with pytest.raises(ValueError, match="rows must have 1 histories and an item, got 2 and an item"):
        score_rows(make_bahe(), rows)
    with pytest.raises(ValueError, match="needs rows with features"):
        score_rows(make_bahe(histories=2, **BRANCH), rows)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"history_count": 0}, "history_count must be a whole number of at least 1, got 0"),
        ({"meeting_units": 1.5}, "meeting_units must be a whole number of at least 1, got 1.5"),
        ({"protect": "separators"}, "no behaviour is protected"),
    ],
)
def test_a_configuration_that_makes_no_model_is_refused(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        make_config_of(**changes)


def test_upper_layers_are_those_above_the_frozen_ones() -> None:
    text = make_config(Genome.from_columns([1, 2, 3], [4, 5, 6], [100] * 3))
    upper = BaheConfig.over(text, layers=1, histories=2, behaviours=5, encoder_fingerprint="of the first layer")
    assert upper.genome == Genome.from_columns([2, 3], [5, 6], [100] * 2, behaviours=[5, 0])
    assert (upper.histories, upper.max_position_embeddings) == (2, 6)
    with pytest.raises(ValueError, match="frozen layers must be between 0 and 2, got 3"):
        BaheConfig.over(text, layers=3, histories=1, behaviours=5, encoder_fingerprint="")
    with pytest.raises(ValueError, match="behaviours must be between 1 and 23"):
        BaheConfig.over(text, layers=1, histories=1, behaviours=24, encoder_fingerprint="")
