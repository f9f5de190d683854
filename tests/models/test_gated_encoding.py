"""Masking out equals gathering out, and reaches the gates with a gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tests.models.reference_encoder import smallest_rank_gap
from tests.models.tiny import LONGEST, config_of, make_feeds, make_model, state_arrays, to_torch
from torch import Tensor

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded, among_present
from sparsefront.models.gated_encoding import encode_gated
from sparsefront.models.selection import PROTECTIONS, Protect
from sparsefront.models.token_gates import GateSample, TokenGates
from sparsefront.spaces import Genome

LAYERS = 3
SUPERNET = Genome.uniform(LAYERS, heads=3, ffn_units=20)


def gated(model: CrossEncoder, feeds: dict[str, Tensor], gates: GateSample, genome: Genome | None = None) -> Encoded:
    inputs = feeds["input_ids"], feeds["attention_mask"], feeds["token_type_ids"]
    return encode_gated(model.encoder, *inputs, gates=gates, genome=genome)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(
    st.lists(st.integers(1, LONGEST - 4), min_size=1, max_size=4),
    st.lists(st.integers(1, 100), min_size=LAYERS - 1, max_size=LAYERS - 1),
    st.lists(st.integers(0, 3), min_size=LAYERS, max_size=LAYERS),
    st.sampled_from(PROTECTIONS),
    st.booleans(),
    st.integers(0, 100),
)
def test_it_is_the_encoder_that_gathers(
    lengths: list[int], keeps: list[int], heads: list[int], protect: Protect, per_token: bool, seed: int
) -> None:
    outputs = 2 if per_token else 1
    model = make_model(SUPERNET, seed=seed, protect=protect, separator_id=3, per_token=per_token, outputs=outputs)
    genome = Genome.from_columns(heads, [20, 7, 20], [*keeps, 100])
    feeds = make_feeds(lengths, seed=seed)
    slim = model.slim(genome)
    assume(smallest_rank_gap(config_of(slim), state_arrays(slim), feeds) > 1e-5)
    tensors = to_torch(feeds)
    with torch.no_grad():
        gathered = model.encoder(**tensors, genome=genome)
        masked = gated(model, tensors, GateSample.of_schedule(tuple(keeps)), genome)
    torch.testing.assert_close(masked.hidden[:, :1], gathered.hidden[:, :1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.logits_of(masked), model.logits_of(gathered), atol=1e-4, rtol=1e-4)
    for mine, theirs, places in zip(masked.scores, gathered.scores, gathered.positions, strict=True):
        if theirs is not None and mine is not None:
            there = places < tensors["input_ids"].shape[1]
            chosen = mine.gather(1, places.masked_fill(~there, 0))
            torch.testing.assert_close(chosen[there], theirs[there], atol=1e-5, rtol=1e-5)


def test_a_gradient_reaches_gates_of_kept_and_of_dropped_tokens() -> None:
    model = make_model(SUPERNET)
    keeps = torch.tensor([[1.0, 1.0, 0.0, 0.0]], requires_grad=True)
    gates = GateSample(torch.ones(1), keeps)
    encoded = gated(model, to_torch(make_feeds([20, 13], seed=2)), gates)
    model.logits_of(encoded).sum().backward()
    assert keeps.grad is not None
    assert (keeps.grad[0] != 0).all()
    assert torch.isfinite(keeps.grad).all()


def test_a_gradient_says_what_a_token_changes_even_where_most_attention_goes_to_one_that_is_gone() -> None:
    probabilities = torch.tensor([0.02, 0.03, 0.05, 0.9], dtype=torch.float64)[None, None, None]
    values = torch.tensor([1.0, -2.0, 3.0, 4.0], dtype=torch.float64)

    def mixed(presence: Tensor) -> Tensor:
        return (among_present(probabilities, presence[None]) * values).sum()

    for there in ([1.0, 1.0, 1.0, 0.0], [1.0, 0.0, 1.0, 1.0]):
        presence = torch.tensor(there, dtype=torch.float64, requires_grad=True)
        mixed(presence).backward()
        assert presence.grad is not None
        for token in range(4):
            one, none = presence.detach().clone(), presence.detach().clone()
            one[token], none[token] = 1, 0
            assert presence.grad[token].item() == pytest.approx(float(mixed(one) - mixed(none)))


def test_without_gates_nothing_is_dropped() -> None:
    model = make_model(SUPERNET)
    feeds = to_torch(make_feeds([9, 4], seed=3))
    gates = GateSample.of_schedule((100,) * (LAYERS - 1))
    torch.testing.assert_close(gated(model, feeds, gates).hidden, model.encoder(**feeds).hidden)


def test_gates_learn_in_a_layer_without_heads() -> None:
    model = make_model(SUPERNET)
    genome = Genome.from_columns([0, 3, 3], [20, 20, 20], [100, 100, 100])
    gates = TokenGates(layers=2, bins=10, share=0.5, opening=2.0)
    sample = gates.sample(torch.Generator().manual_seed(0))
    encoded = gated(model, to_torch(make_feeds([20], seed=4)), sample, genome)
    model.logits_of(encoded).sum().backward()
    assert gates.fine.grad is not None
    assert torch.isfinite(gates.fine.grad).all()
    assert gates.fine.grad[0] != 0, "the layer without heads"
