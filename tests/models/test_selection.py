"""Token selection against the same rules written as loops over rows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparsefront.models.selection import (
    ABOVE_ATTENTION,
    Protect,
    attention_received,
    leading_first,
    positions_of,
    protected_tokens,
    protecting,
    ranks,
    select_tokens,
)
from sparsefront.spaces import kept_tokens


def mask_of(lengths: list[int], tokens: int) -> Tensor:
    return torch.arange(tokens)[None, :] < torch.tensor(lengths)[:, None]


def probabilities_of(mask: Tensor, heads: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    batch, tokens = mask.shape
    logits = torch.randn(batch, heads, tokens, tokens, generator=generator)
    return logits.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)


lengths_lists = st.lists(st.integers(1, 12), min_size=1, max_size=5)


# -- scores ----------------------------------------------------------------------------------------------------------


@given(lengths_lists, st.integers(0, 3), st.integers(1, 4), st.integers(0, 1000))
def test_attention_received_is_the_mean_over_heads_and_real_queries(
    lengths: list[int], padding: int, heads: int, seed: int
) -> None:
    mask = mask_of(lengths, max(lengths) + padding)
    probabilities = probabilities_of(mask, heads, seed)
    received = attention_received(probabilities, mask)
    assert received.shape == mask.shape
    for row, length in enumerate(lengths):
        for token in range(length):
            values = [float(probabilities[row, head, query, token]) for head in range(heads) for query in range(length)]
            assert float(received[row, token]) == pytest.approx(np.mean(values), abs=1e-6)
        assert (received[row, length:] == 0).all(), "padding received attention"
        assert float(received[row].sum()) == pytest.approx(1.0, abs=1e-5)


def test_what_padding_asks_for_does_not_count() -> None:
    mask = mask_of([3, 5], 5)
    probabilities = probabilities_of(mask, 2, 0)
    changed = probabilities.clone()
    changed[0, :, 3:] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(attention_received(changed, mask), attention_received(probabilities, mask))
    changed[0, :, 2] = torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0])
    assert not torch.allclose(attention_received(changed, mask), attention_received(probabilities, mask))


def test_leading_first_falls_along_the_row() -> None:
    scores = leading_first(mask_of([2, 4], 4))
    assert scores.shape == (2, 4)
    assert (scores[:, 1:] < scores[:, :-1]).all()


# -- selection -------------------------------------------------------------------------------------------------------


@given(lengths_lists, st.integers(0, 4), st.integers(0, 100), st.data())
def test_selection_equals_the_rules_row_by_row(
    lengths: list[int], padding: int, keep_percent: int, data: st.DataObject
) -> None:
    tokens = max(lengths) + padding
    values = st.lists(st.integers(-3, 3), min_size=tokens, max_size=tokens)  # few values, so many ties
    scores = torch.tensor([data.draw(values) for _ in lengths], dtype=torch.float32)
    before = scores.clone()
    positions, survives = select_tokens(scores, mask_of(lengths, tokens), keep_percent)
    assert torch.equal(scores, before), "the scores are the caller's"
    assert positions.shape == survives.shape == (len(lengths), kept_tokens(tokens, keep_percent))
    assert positions.min() >= 0
    assert positions.max() < tokens
    for row, length in enumerate(lengths):
        others = sorted(range(1, length), key=lambda token: (-float(scores[row, token]), token))
        expected = sorted([0, *others[: kept_tokens(length, keep_percent) - 1]])
        assert positions[row][survives[row]].tolist() == expected
        assert survives[row].tolist() == [place < len(expected) for place in range(survives.shape[1])]


@pytest.mark.parametrize(
    ("keep_percent", "kept"),
    [(0, [0]), (1, [0, 3]), (33, [0, 3, 5]), (50, [0, 1, 3, 5]), (66, [0, 1, 3, 5, 6]), (67, [0, 1, 2, 3, 5, 6])],
)
def test_cls_stays_order_stays_and_ties_go_to_the_earlier_token(keep_percent: int, kept: list[int]) -> None:
    scores = torch.tensor([[-9.0, 1.0, 0.0, 3.0, 0.0, 2.0, 1.0]])
    positions, survives = select_tokens(scores, mask_of([7], 7), keep_percent)
    assert positions[0].tolist() == kept
    assert survives.all()


def test_a_short_row_keeps_its_own_share() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0, 9.0, 9.0, 9.0, 9.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    positions, survives = select_tokens(scores, mask_of([3, 7], 7), 50)
    assert survives.tolist() == [[True, True, False, False], [True] * 4]
    assert positions[0, :2].tolist() == [0, 2], "padding never survives, however high its score"
    assert positions[1].tolist() == [0, 4, 5, 6]


def test_ranks_are_the_order_of_selection() -> None:
    scores = torch.tensor([[0.0, 0.3, 0.9, 0.3, 0.5], [9.0, 0.2, 0.1, 0.0, 0.0]])
    present = torch.tensor([[True] * 5, [True, True, True, False, False]])
    found = ranks(scores, present)
    assert found[0, 1:].tolist() == [2, 0, 3, 1], "ties go to the earlier token"
    assert found[1, 1:3].tolist() == [0, 1]
    assert found[0, 0] == 4 and (found[1, [0, 3, 4]] >= 2).all(), "[CLS] and what is not there come last"


def test_protected_tokens_outlive_the_others_as_far_as_there_is_room() -> None:
    ids = torch.tensor([[1, 7, 8, 3, 5, 6, 3], [1, 7, 3, 0, 0, 0, 0]])
    types = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0] * 7])
    mask = mask_of([7, 3], 7)
    scores = torch.tensor([[0.0, 0.1, 0.2, 0.0, 0.9, 0.8, 0.05], [0.0, 0.5, 0.1, 0.0, 0.0, 0.0, 0.0]])

    def kept(protect: Protect, keep_percent: int) -> list[list[int]]:
        protected = protected_tokens(protect, ids, types, separator_id=3)
        lifted = protecting(scores, protected, above=ABOVE_ATTENTION)
        positions, survives = select_tokens(lifted, mask, keep_percent)
        return [row[alive].tolist() for row, alive in zip(positions, survives, strict=True)]

    assert kept("none", 50) == [[0, 2, 4, 5], [0, 1]]
    assert kept("separators", 50) == [[0, 3, 4, 6], [0, 2]]
    assert kept("first", 50) == [[0, 1, 2, 3], [0, 1]]
    assert kept("first", 30) == [[0, 1, 2], [0, 1]], "the best of them where there is no room for all"


def test_positions_end_where_a_sequence_does() -> None:
    mask = torch.tensor([[True, True, True], [True, False, False]])
    assert positions_of(mask).tolist() == [[0, 1, 2], [0, 3, 3]]
