"""Ranking distillation: what the loss is, what the teacher says, and that learning it works."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.models.tiny import make_model, make_rows

from sparsefront.models.batching import to_tensors
from sparsefront.models.rank_distillation import RankTeacher, layers_to_teach, rank_loss, teacher_token_scores
from sparsefront.spaces import Genome

DENSE = Genome.uniform(3, heads=3, ffn_units=20)


def test_alike_scores_cost_one_and_the_right_order_less() -> None:
    wanted = torch.tensor([[9.0, 0.1, 0.4, 0.3, 0.2]])
    there = torch.ones(1, 5, dtype=torch.bool)
    alike = torch.full((1, 5), 0.2)
    assert rank_loss(alike, wanted, there).item() == pytest.approx(1)
    assert rank_loss(wanted, wanted, there).item() < 1 < rank_loss(-wanted, wanted, there).item()


def test_the_loss_by_hand() -> None:
    scores, wanted = torch.tensor([[0.5, 0.2, 0.1]]), torch.tensor([[0.0, 1.0, 2.0]])
    there = torch.tensor([[True, True, True]])
    # One pair: the teacher prefers the last token; three tokens, so scores are multiplied by three.
    margin = 3 * (0.1 - 0.2)
    expected = np.log2(1 + np.exp(-margin))
    assert rank_loss(scores, wanted, there).item() == pytest.approx(expected, rel=1e-5)


def test_only_the_teacher_s_best_count() -> None:
    wanted = torch.tensor([[0.0, 4.0, 3.0, 2.0, 1.0]])
    there = torch.ones(1, 5, dtype=torch.bool)
    right = torch.tensor([[0.0, 0.9, 0.8, 0.1, 0.7]])
    assert rank_loss(right, wanted, there, top=2).item() == pytest.approx(
        rank_loss(torch.tensor([[0.0, 0.9, 0.8, 0.3, 0.0]]), wanted, there, top=2).item()
    )


def test_rows_without_a_pair_cost_nothing() -> None:
    scores = torch.rand(3, 4, requires_grad=True)
    there = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]).bool()
    loss = rank_loss(scores, torch.rand(3, 4), there)
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert (scores.grad[:2] == 0).all()
    assert (scores.grad[2, 1:3] != 0).all()


def test_teacher_scores_are_those_of_each_row_alone() -> None:
    model, rows = make_model(DENSE), make_rows([5, 9, 1, 7])
    found = teacher_token_scores(model, rows, precision="fp32")
    assert found.shape == (22,)
    for row in range(4):
        alone = teacher_token_scores(model, rows.subset([row]), precision="fp32")
        np.testing.assert_allclose(found[rows.offsets[row] : rows.offsets[row + 1]], alone, atol=1e-6)
        assert alone.sum() == pytest.approx(1, abs=1e-5), "each query gives away all of its attention"


def test_the_loss_finds_the_tokens_that_are_left_after_pruning() -> None:
    model, rows = make_model(DENSE), make_rows([12, 6, 9])
    genome = Genome.parse("h3.f20.k0.50-h3.f20.k1.00-h3.f20.k1.00")
    (batch,) = (to_tensors(one, torch.device("cpu")) for one in rows.batches(batch_size=3))
    encoded = model.encoder(
        batch.input_ids, batch.attention_mask, batch.token_type_ids, genome=genome, score_layers=(0, 1)
    )
    # A teacher that agrees with what the student's second layer says of the survivors.
    positions, scores = encoded.positions[1], encoded.scores[1]
    assert scores is not None
    wanted = np.zeros(int(rows.offsets[-1]), np.float32)
    for place, row in enumerate(batch.index.tolist()):
        for position, score in zip(positions[place].tolist(), scores[place].tolist(), strict=True):
            if position < batch.input_ids.shape[1]:
                wanted[rows.offsets[row] + position] = score
    agrees = RankTeacher(wanted, rows.offsets, layers=(1,))
    disagrees = RankTeacher(-wanted, rows.offsets, layers=(1,))
    assert agrees.loss(batch, encoded).item() < 1 < disagrees.loss(batch, encoded).item()


def test_layers_without_heads_are_left_out() -> None:
    model, rows = make_model(DENSE), make_rows([8, 8])
    genome = Genome.from_columns([0, 3, 3], [20] * 3, [100] * 3)
    (batch,) = (to_tensors(one, torch.device("cpu")) for one in rows.batches(batch_size=2))
    encoded = model.encoder(
        batch.input_ids, batch.attention_mask, batch.token_type_ids, genome=genome, score_layers=(0,)
    )
    teacher = RankTeacher(np.ones(16, np.float32), rows.offsets, layers=(0,))
    assert teacher.loss(batch, encoded).item() == 0


@pytest.mark.parametrize(("layers", "taught"), [(12, (1, 2, 3)), (9, (1, 2)), (6, (0, 1)), (2, (0,))])
def test_early_layers_are_taught(layers: int, taught: tuple[int, ...]) -> None:
    assert layers_to_teach(layers) == taught


def test_a_teacher_that_does_not_fit_is_refused() -> None:
    rows = make_rows([4, 4])
    with pytest.raises(ValueError, match="scores must be those of 8 tokens"):
        RankTeacher(np.zeros(7, np.float32), rows.offsets, layers=(0,))
    with pytest.raises(ValueError, match="no token is ranked"):
        teacher_token_scores(make_model(Genome.from_columns([3, 0], [20, 20], [100, 100])), rows)
