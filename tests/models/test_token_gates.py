"""Token gates: odds, exact top-k, gradients, and what they cover."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefront.models.selection import select_tokens
from sparsefront.models.token_gates import GateSample, TokenGates, hard_concrete


def test_gates_are_open_as_often_as_their_logits_say() -> None:
    logits = torch.tensor([-2.0, 0.0, 1.5])
    drawn = hard_concrete(logits, torch.rand(20_000, 3, generator=torch.Generator().manual_seed(0)))
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(drawn.mean(0), logits.sigmoid(), atol=0.02, rtol=0)


def test_gradients_go_straight_through() -> None:
    logits = torch.zeros(3, requires_grad=True)
    hard_concrete(logits, torch.tensor([0.3, 0.5, 0.7])).sum().backward()
    assert logits.grad is not None
    assert (logits.grad > 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 1000))
def test_a_prefix_of_bins_is_top_k(tokens: int, percent: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, tokens, generator=generator).round(decimals=1)  # with ties
    alive = torch.rand(3, tokens, generator=generator) < 0.7
    alive[:, 0] = True
    kept = GateSample.of_schedule((percent,)).kept(0, scores, alive).bool() & alive
    # select_tokens counts from a whole sequence, so give it each row's own tokens.
    for row in range(3):
        own = alive[row].nonzero()[:, 0]
        positions, survives = select_tokens(scores[row, own][None].clone(), torch.ones(1, len(own)).bool(), percent)
        assert kept[row].nonzero()[:, 0].tolist() == own[positions[survives]].tolist()


def test_closed_layers_keep_all() -> None:
    sample = GateSample(prunes=torch.tensor([0.0, 1.0]), keeps=torch.zeros(2, 4), first_layer=1)
    assert [sample.covers(layer) for layer in range(4)] == [False, True, True, False]
    alive = torch.ones(1, 5, dtype=torch.bool)
    scores = torch.rand(1, 5)
    assert sample.kept(1, scores, alive).tolist() == [[1, 1, 1, 1, 1]]
    assert sample.kept(2, scores, alive).tolist() == [[1, 0, 0, 0, 0]]


@pytest.mark.parametrize("shape", ["prefix", "bins"])
def test_expected_shares_are_those_of_the_draws(shape: str) -> None:
    gates = TokenGates(layers=2, shape=shape, bins=20, share=0.6, opening=1.0)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        drawn = [gates.sample(generator) for _ in range(3000)]
        shares = torch.stack([1 - one.prunes * (1 - one.keeps.mean(1)) for one in drawn])
        torch.testing.assert_close(shares.mean(0), gates.expected_shares(), atol=0.02, rtol=0)
        if shape == "prefix":
            keeps = torch.stack([one.keeps for one in drawn])
            assert (keeps.diff(dim=-1) <= 0).all(), "no token stays that ranks below one that goes"


@pytest.mark.parametrize("shape", ["prefix", "bins"])
def test_keep_percents_without_chance(shape: str) -> None:
    gates = TokenGates(layers=2, shape=shape, bins=20, share=0.6, opening=1.0)  # type: ignore[arg-type]
    with torch.no_grad():
        gates.layer_logits[1] = -1
    first, second = gates.keep_percents()
    assert second == 100
    assert first == (100 if shape == "bins" else pytest.approx(60, abs=1)), "every bin is more likely kept"


def test_clamped_gates_can_come_back() -> None:
    gates = TokenGates(layers=1, bins=10, shape="bins")
    with torch.no_grad():
        gates.layer_logits.fill_(50)
        gates.fine.fill_(-50)
    gates.clamp()
    assert gates.layer_logits.item() == pytest.approx(4.605, abs=1e-3)
    assert gates.fine.max().item() == pytest.approx(-4.605, abs=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"layers": 0}, {"layers": 1, "bins": 7}, {"layers": 1, "shape": "ring"}, {"layers": 1, "share": 1.0}]
)
def test_wrong_gates_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must"):
        TokenGates(**wrong)  # type: ignore[arg-type]
