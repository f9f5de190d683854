"""Two-step training: text that is trained already, then the branch beside it, then both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.test_bert4ctr import SUPERNET, featured, make_model
from tests.models.tiny import make_config, make_rows

from sparsefront.models import joint_training
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.joint_training import JointOptions, train_jointly
from sparsefront.models.scoring import score_rows
from sparsefront.models.training import TrainOptions, train

STEP = TrainOptions(epochs=1, learning_rate=1e-3, tokens_per_batch=128)


def test_the_branch_learns_beside_a_text_that_stays_and_then_both_move(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = featured(make_rows([6] * 40))
    torch.manual_seed(0)
    text = CrossEncoder(make_config(SUPERNET)).eval()
    model = Bert4Ctr.of(text, make_model().config)
    np.testing.assert_allclose(score_rows(model, rows), score_rows(text, rows), atol=1e-6)
    states = []
    real = train

    def watched(model: Bert4Ctr, *args: object, **kwargs: object) -> object:
        report = real(model, *args, **kwargs)  # type: ignore[arg-type]
        states.append({name: value.clone() for name, value in model.state_dict().items()})
        return report

    monkeypatch.setattr(joint_training, "train", watched)
    train_jointly(model, rows, JointOptions(branch=STEP, joint=replace(STEP, learning_rate=1e-4)))
    first, second = states
    for name, value in text.state_dict().items():
        assert torch.equal(first[name], value), "the text does not move in the first step"
    assert all((first[name] != second[name]).any() for name in second if "query.weight" in name)
    assert (first["branch.head.weight"] != 0).any()


class Cut(Exception):
    """An interruption."""


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_joint_training_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, at: int) -> None:
    rows, options = featured(make_rows([6] * 40)), JointOptions(branch=STEP, joint=STEP)
    whole, cut, again = (Bert4Ctr.of(CrossEncoder(make_config(SUPERNET)), make_model().config) for _ in range(3))
    for model in (cut, again):
        model.load_state_dict(whole.state_dict())
    train_jointly(whole, rows, options)
    reached = 0

    def interrupt(share: float) -> bool:
        nonlocal reached
        reached += 1
        if reached == at:
            raise Cut
        return True

    path = tmp_path / ".teacher.training.safetensors"
    with pytest.raises(Cut):
        train_jointly(cut, rows, options, checkpoints=Checkpoints(path, shares=(0.5, 1.0), reached=interrupt))
    names = {one.name for one in tmp_path.iterdir()}
    assert names == {f".teacher.training.{part}.safetensors" for part in ("branch", "joint")[: 1 + (at > 2)]}
    train_jointly(again, rows, options, checkpoints=Checkpoints(path, shares=(0.5, 1.0)))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_the_seed_of_a_fresh_branch_decides_it() -> None:
    text, config = CrossEncoder(make_config(SUPERNET)), make_model().config
    one, same, other = (Bert4Ctr.of(text, config, seed=seed).branch.embedding.ids for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
