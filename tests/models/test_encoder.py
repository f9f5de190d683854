"""The elastic encoder: exact against BERT, equal to its slim self, and blind to padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.models.reference_encoder import reference_logits, smallest_rank_gap
from tests.models.tiny import LONGEST, config_of, make_bert, make_config, make_feeds, make_model, state_arrays, to_torch
from torch import nn

from sparsefront.models.backbone import _rename
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import LayerGates
from sparsefront.spaces import Genome, LayerGene

HEADS, UNITS, LAYERS = 3, 20, 3
SUPERNET = Genome.uniform(LAYERS, heads=HEADS, ffn_units=UNITS)
genes = st.builds(
    LayerGene,
    st.integers(0, HEADS),
    st.integers(0, UNITS),
    st.one_of(st.just(100), st.integers(0, 100)),
)
genomes = st.lists(genes, min_size=LAYERS, max_size=LAYERS).map(lambda layers: Genome(tuple(layers)))
lengths_lists = st.lists(st.integers(1, LONGEST - 4), min_size=1, max_size=4)
KINDS_OF_HEAD: list[dict[str, Any]] = [{"outputs": 1}, {"outputs": 3}, {"outputs": 2, "per_token": True}]
heads_of_models = st.sampled_from(KINDS_OF_HEAD)
relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])


def from_bert(bert: Any) -> CrossEncoder:
    """The dense cross-encoder with BERT's weights."""
    own = bert.config
    genome = Genome.uniform(own.num_hidden_layers, heads=own.num_attention_heads, ffn_units=own.intermediate_size)
    config = make_config(
        genome,
        hidden_size=own.hidden_size,
        head_size=own.hidden_size // own.num_attention_heads,
        hidden_act=own.hidden_act,
        layer_norm_eps=own.layer_norm_eps,
    )
    model = CrossEncoder(config)
    model.load_state_dict(_rename("bert", bert.state_dict(), config), strict=False)
    model.train(False)
    return model


def silence(bert: Any, genome: Genome) -> None:
    """Take from BERT what the genome does not keep, by zeroing the columns through which it speaks."""
    size = bert.config.hidden_size // bert.config.num_attention_heads
    with torch.no_grad():
        for layer, gene in zip(bert.encoder.layer, genome, strict=True):
            layer.attention.output.dense.weight[:, gene.heads * size :] = 0
            layer.output.dense.weight[:, gene.ffn_units :] = 0


# -- against transformers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hidden", "heads", "layers", "units", "activation"),
    [(32, 4, 2, 48, "gelu"), (48, 3, 3, 100, "gelu"), (64, 1, 1, 16, "gelu"), (32, 8, 2, 64, "relu")],
)
def test_dense_model_is_bert(hidden: int, heads: int, layers: int, units: int, activation: str) -> None:
    bert = make_bert(
        hidden_size=hidden,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        intermediate_size=units,
        hidden_act=activation,
        layer_norm_eps=1e-3,  # large enough that leaving it out would show
    )
    model = from_bert(bert)
    feeds = to_torch(make_feeds([20, 1, 7, 13], seed=1, tokens=22))
    mask = feeds["attention_mask"].bool()
    with torch.no_grad():
        expected = bert(**feeds).last_hidden_state
        whole = model.encoder(**feeds, cls_only=False)
        cls = model.encoder(**feeds)
    torch.testing.assert_close(whole.hidden[mask], expected[mask], atol=1e-5, rtol=0)
    assert torch.equal(whole.mask, mask)
    assert cls.hidden.shape == (4, 1, hidden)
    assert cls.mask.shape == (4, 1)
    torch.testing.assert_close(cls.hidden[:, 0], expected[:, 0], atol=1e-5, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 48)), min_size=2, max_size=2), st.booleans())
def test_a_narrow_genome_is_bert_with_its_other_units_silenced(widths: list[tuple[int, int]], slim: bool) -> None:
    genome = Genome(tuple(LayerGene(heads, units) for heads, units in widths))
    bert = make_bert(seed=2)
    model = from_bert(bert)
    silence(bert, genome)
    feeds = to_torch(make_feeds([9, 16], seed=3))
    mask = feeds["attention_mask"].bool()
    with torch.no_grad():
        expected = bert(**feeds).last_hidden_state
        encoded = (
            model.slim(genome).encoder(**feeds, cls_only=False)
            if slim
            else model.encoder(**feeds, genome=genome, cls_only=False)
        )
    torch.testing.assert_close(encoded.hidden[mask], expected[mask], atol=1e-5, rtol=0)


# -- slim equals elastic ---------------------------------------------------------------------------------------------


@relaxed
@given(genome=genomes, lengths=lengths_lists, head=heads_of_models, seed=st.integers(0, 1000))
def test_slim_equals_elastic_and_the_reference(
    genome: Genome, lengths: list[int], head: dict[str, Any], seed: int
) -> None:
    supernet = make_model(SUPERNET, seed=seed, **head)
    small = supernet.slim(genome)
    feeds = make_feeds(lengths, seed)
    arrays = state_arrays(small)
    assume(smallest_rank_gap(config_of(small), arrays, feeds) > 1e-5)
    batch = to_torch(feeds)
    with torch.no_grad():
        logits = small(**batch).logits
        torch.testing.assert_close(logits, supernet(**batch, genome=genome).logits, atol=1e-5, rtol=0)
    shape = (len(lengths), *((max(lengths),) if "per_token" in head else ()), head["outputs"])
    assert logits.shape == shape
    expected = torch.from_numpy(reference_logits(config_of(small), arrays, feeds)).float()
    torch.testing.assert_close(logits, expected.reshape(shape), atol=1e-4, rtol=1e-4)


@settings(max_examples=30, deadline=None)
@given(genome=genomes)
def test_slim_holds_no_more_than_the_genome(genome: Genome) -> None:
    supernet = make_model(SUPERNET)
    small = supernet.slim(genome)
    assert small.genome == small.config.genome == genome
    assert supernet.genome == SUPERNET
    layers: Any = small.encoder.layers
    for layer, gene in zip(layers, genome, strict=True):
        inner = gene.heads * supernet.config.head_size
        assert [tuple(linear.weight.shape) for linear in (layer.query, layer.key, layer.value)] == [(inner, 32)] * 3
        assert tuple(layer.output.weight.shape) == (32, inner)
        assert tuple(layer.ffn_in.weight.shape) == (gene.ffn_units, 32)
        assert tuple(layer.ffn_out.weight.shape) == (32, gene.ffn_units)


def test_slim_is_a_copy() -> None:
    supernet = make_model(SUPERNET)
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    small = supernet.slim(SUPERNET)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    for name, value in supernet.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not small.training
    assert supernet.train().slim(SUPERNET).training


# -- padding ---------------------------------------------------------------------------------------------------------


@relaxed
@given(
    genome=genomes,
    lengths=lengths_lists,
    padding=st.integers(0, 4),
    head=heads_of_models,
    seed=st.integers(0, 1000),
)
def test_padding_never_changes_a_logit(
    genome: Genome, lengths: list[int], padding: int, head: dict[str, Any], seed: int
) -> None:
    model = make_model(genome, seed=seed, **head).double()  # rounding is another matter
    feeds = make_feeds(lengths, seed, tokens=max(lengths) + padding)
    assume(smallest_rank_gap(config_of(model), state_arrays(model), feeds) > 1e-5)
    batch = to_torch(feeds)
    with torch.no_grad():
        together = model(**batch).logits
        assert together.dtype == torch.float64
        for row, length in enumerate(lengths):
            alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()}).logits
            there = together[row, :length] if "per_token" in head else together[row]
            torch.testing.assert_close(alone[0], there, atol=1e-10, rtol=0)


# -- token pruning ---------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(genome=genomes, lengths=lengths_lists)
def test_each_row_keeps_its_own_number_of_tokens(genome: Genome, lengths: list[int]) -> None:
    model = make_model(genome)
    with torch.no_grad():
        encoded = model.encoder(**to_torch(make_feeds(lengths, 0)), cls_only=False)
    assert encoded.mask.sum(1).tolist() == [genome.lengths(length)[-1] for length in lengths]
    assert encoded.hidden.shape[:2] == encoded.mask.shape == (len(lengths), genome.lengths(max(lengths))[-1])


def test_a_dropped_token_keeps_the_state_in_which_it_was_dropped() -> None:
    genome = Genome.parse("h2.f8.k0.30-h2.f8.k1.00")
    model = make_model(genome, outputs=2, per_token=True)
    feeds = to_torch(make_feeds([12], seed=1))
    with torch.no_grad():
        encoded = model.encoder(**feeds)
        embedded = model.encoder.embeddings(feeds["input_ids"], feeds["token_type_ids"])
        attended, _ = model.encoder.elastic_layers[0].attend(embedded, feeds["attention_mask"].bool(), 2)
    dropped = sorted(set(range(12)) - set(encoded.positions[1][0].tolist()))
    assert len(dropped) == 7
    assert encoded.every is not None and encoded.every.shape == attended.shape
    torch.testing.assert_close(encoded.every[0, dropped], attended[0, dropped], atol=1e-5, rtol=0)
    torch.testing.assert_close(encoded.every[0, encoded.positions[1][0]], encoded.hidden[0])


def test_pruning_changes_the_logit_and_keeping_all_does_not() -> None:
    model = make_model(SUPERNET)
    batch = to_torch(make_feeds([20, 15], 0))
    with torch.no_grad():
        dense = model(**batch).logits
        for keep_percent, same in ((100, True), (50, False)):
            genome = Genome.uniform(LAYERS, heads=HEADS, ffn_units=UNITS, keep_percent=keep_percent)
            assert torch.allclose(model(**batch, genome=genome).logits, dense, atol=1e-6, rtol=0) is same
        last = SUPERNET.replace(LAYERS - 1, "keep_percent", 10)
        pruned = model(**batch, genome=last).logits
    torch.testing.assert_close(pruned, dense, atol=1e-6, rtol=0, msg="only [CLS] leaves the last layer")


def test_without_any_attention_the_leading_tokens_stay() -> None:
    genome = Genome.parse("h0.f8.k0.50-h2.f8.k1.00")
    model = make_model(genome)
    batch = to_torch(make_feeds([9], 4))
    with torch.no_grad():
        whole = model(**batch).logits
        cut = model(
            **{name: value[:, :5] for name, value in batch.items()}, genome=genome.replace(0, "keep_percent", 100)
        )
    torch.testing.assert_close(whole, cut.logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("keep_percent", [100, 60])
@pytest.mark.parametrize("slim", [False, True])
def test_a_layer_without_heads_prunes_by_the_latest_attention(keep_percent: int, slim: bool) -> None:
    genome = Genome.parse("h3.f20.k1.00-h0.f20.k0.40-h3.f20.k1.00").replace(0, "keep_percent", keep_percent)
    supernet = make_model(SUPERNET)
    small = supernet.slim(genome)
    feeds = make_feeds([20, 13, 2], 7)
    expected = torch.from_numpy(reference_logits(config_of(small), state_arrays(small), feeds)).float()
    with torch.no_grad():
        output = small(**to_torch(feeds)) if slim else supernet(**to_torch(feeds), genome=genome)
    torch.testing.assert_close(output.logits[:, 0], expected, atol=1e-4, rtol=1e-4)


def test_scores_are_returned_where_asked() -> None:
    model = make_model(Genome.parse("h2.f8.k1.00-h2.f8.k0.50-h0.f8.k1.00-h2.f8.k1.00"))
    batch = to_torch(make_feeds([9, 4], 4))
    with torch.no_grad():
        scores = model.encoder(**batch).scores
        assert [score is not None for score in scores] == [False, True, False, False]
        scores = model.encoder(**batch, score_layers=(0, 1, 2, 3)).scores
    assert [score is not None for score in scores] == [True, True, False, False]
    for score in scores[:2]:
        assert score is not None
        torch.testing.assert_close(score.sum(1), torch.ones(2))
        assert (score[1, 4:] == 0).all()


# -- single layers ---------------------------------------------------------------------------------------------------


def test_a_layer_without_heads_and_units_still_adds_biases_and_normalises() -> None:
    model = make_model(SUPERNET)
    layer: Any = model.encoder.layers[0]
    hidden = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 5, dtype=torch.bool)
    with torch.no_grad():
        attended, scores = layer.attend(hidden, mask, 0, cls_only=False, score=True, gates=None)
        fed = layer.feed(attended, 0, gates=None)
    expected = layer.attention_norm(hidden + layer.output.bias)
    assert scores is None
    torch.testing.assert_close(attended, expected)
    torch.testing.assert_close(fed, layer.ffn_norm(expected + layer.ffn_out.bias))


def test_gates_of_one_change_nothing_and_gates_of_zero_remove_units() -> None:
    model = make_model(SUPERNET)
    batch = to_torch(make_feeds([9, 4], 4))

    def gates(value: float) -> list[LayerGates]:
        return [LayerGates(*(torch.full((2, count), value) for count in (HEADS, UNITS, 0))) for _ in range(LAYERS)]

    with torch.no_grad():
        dense = model.encoder(**batch).hidden
        empty = model.encoder(**batch, genome=Genome.uniform(LAYERS, heads=0, ffn_units=0)).hidden
        torch.testing.assert_close(model.encoder(**batch, gates=gates(1.0)).hidden, dense, atol=1e-6, rtol=0)
        torch.testing.assert_close(model.encoder(**batch, gates=gates(0.0)).hidden, empty, atol=1e-6, rtol=0)


def test_dropout_acts_in_training_only() -> None:
    model = make_model(SUPERNET)
    batch = to_torch(make_feeds([9, 4], 4))
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**batch).logits)
        model.train()
        assert not torch.equal(model(**batch).logits, model(**batch).logits)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                assert module.p == model.config.hidden_dropout_prob


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("h1.f8.k1.00", "genome must have 2 layers, got 1: h1.f8.k1.00"),
        ("h1.f8.k1.00-h4.f8.k1.00", "layer 1 holds h3.f8.k1.00 at most, got h4.f8.k1.00"),
        ("h3.f10.k0.50-h1.f8.k1.00", "layer 0 holds h2.f9.k1.00 at most, got h3.f10.k0.50"),
        ("h2.f10.k1.00-h1.f8.k1.00", "layer 0 holds h2.f9.k1.00 at most, got h2.f10.k1.00"),
    ],
)
def test_a_genome_that_does_not_fit_is_refused(text: str, line: str) -> None:
    model = make_model(Genome.parse("h2.f9.k1.00-h3.f8.k1.00"))
    genome = Genome.parse(text)
    for run in (lambda: model(torch.ones(1, 3, dtype=torch.long), genome=genome), lambda: model.slim(genome)):
        with pytest.raises(ValueError) as refusal:
            run()
        assert str(refusal.value).startswith(line)
        assert text in str(refusal.value)
