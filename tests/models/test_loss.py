"""The loss of one logit and of a logit per class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsefront.models.loss import label_loss

numbers = st.floats(-20, 20)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, st.floats(0, 1)), min_size=1, max_size=8))
def test_one_logit_is_the_second_of_two_whose_first_is_zero(rows: list[tuple[float, float]]) -> None:
    logits, target = torch.tensor(rows, dtype=torch.float64).T
    two = torch.stack([torch.zeros_like(logits), logits], dim=1)
    soft = torch.stack([1 - target, target], dim=1)
    assert label_loss(logits, target).item() == pytest.approx(label_loss(two, soft).item(), abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers, numbers, st.integers(0, 2)), min_size=1, max_size=8))
def test_the_index_of_a_class_is_its_certainty(rows: list[tuple[float, float, float, int]]) -> None:
    table = torch.tensor(rows, dtype=torch.float64)
    logits, index = table[:, :3], table[:, 3]
    certain = torch.nn.functional.one_hot(index.long(), 3)
    whole, each = label_loss(logits, index, reduction="sum"), label_loss(logits, index.float())
    assert whole.item() == pytest.approx(label_loss(logits, certain, reduction="sum").item(), abs=1e-9)
    assert whole.item() == pytest.approx(len(rows) * each.item(), abs=1e-6)
    assert whole.item() == pytest.approx(-torch.log_softmax(logits, 1)[certain.bool()].sum().item(), abs=1e-9)


@given(st.integers(0, 100), st.sampled_from([(5,), (5, 3), (5, 4, 2)]))
def test_weights_multiply_the_losses_of_their_rows(seed: int, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator, dtype=torch.float64)
    target = torch.rand(shape[:1], generator=generator).double() if len(shape) == 1 else logits.softmax(1).flip(0)
    weight = torch.rand(5, generator=generator).double()
    alone = torch.stack([label_loss(logits[[row]], target[[row]]) for row in range(5)])
    assert label_loss(logits, target, weight=weight).item() == pytest.approx((alone * weight).mean().item())
    whole = label_loss(logits, target, weight=weight, reduction="sum")
    assert whole.item() == pytest.approx((alone * weight).sum().item())
    assert label_loss(logits, target, weight=torch.ones(5)).item() == pytest.approx(label_loss(logits, target).item())
