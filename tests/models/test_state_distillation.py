"""State distillation: what the loss is, what the teacher says, and that learning it works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.models.test_bahe import make_bahe, make_histories
from tests.models.tiny import make_model, make_rows

from sparsefront.models.batching import to_tensors
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_model import FeatureModel
from sparsefront.models.rows import TokenRows
from sparsefront.models.state_distillation import StateTeacher, teacher_states
from sparsefront.models.training import TrainOptions, train
from sparsefront.spaces import Genome, InputError

DENSE = Genome.uniform(3, heads=3, ffn_units=20)
FAST = TrainOptions(epochs=8, learning_rate=3e-3, tokens_per_batch=64, precision="fp32")


def states_of(model: CrossEncoder, rows: TokenRows) -> np.ndarray[Any, np.dtype[np.float32]]:
    return teacher_states(model, rows, precision="fp32")


def test_saying_the_mean_costs_the_weight_and_the_truth_nothing() -> None:
    states = np.random.default_rng(0).normal(3.0, 2.0, (50, 7)).astype(np.float32)
    teacher = StateTeacher(states, weight=0.5)
    every = torch.arange(50)
    mean = torch.from_numpy(states.mean(axis=0)).expand(50, 7)
    assert teacher.loss(every, mean).item() == pytest.approx(0.5, rel=1e-4)
    assert teacher.loss(torch.tensor([4, 2]), torch.from_numpy(states[[4, 2]])).item() == 0
    one = StateTeacher(np.ones((3, 2), np.float32))
    assert np.isfinite(one.loss(torch.tensor([0]), torch.zeros(1, 2)).item()), "rows that are all alike"


def test_states_are_those_of_each_row_alone_and_what_the_head_reads() -> None:
    for model, rows in (
        (make_model(DENSE), make_rows([5, 9, 1, 7])),
        (make_bahe(histories=2), make_histories([[4, 3], [0, 1], [6, 0]])),
    ):
        found = states_of(model, rows)
        assert found.shape == (len(rows), model.config.head_inputs)
        for row in range(len(rows)):
            (batch,) = rows.subset([row]).batches(batch_size=1)
            tensors = to_tensors(batch, torch.device("cpu"))
            with torch.no_grad():
                encoded = model.encode(tensors)
                alone = model.read(encoded)
                np.testing.assert_allclose(model.head(alone)[:, 0], model.logits_of(encoded), atol=1e-6)
            np.testing.assert_allclose(found[row], alone[0], atol=2e-6 * float(alone.abs().max()))


def test_a_pruned_model_comes_nearer_to_what_the_teacher_reads() -> None:
    teacher, rows = make_model(DENSE), make_rows([6] * 64)
    wanted = states_of(teacher, rows)
    away = {}
    for name, states in (("with", StateTeacher(wanted)), ("without", None)):
        student = teacher.slim(Genome.parse("h2.f12.k0.50-h2.f12.k0.50-h2.f12.k1.00"))
        before = np.abs(states_of(student, rows) - wanted).mean()
        train(student, rows, FAST, states=states)
        away[name] = np.abs(states_of(student, rows) - wanted).mean() / before
    assert away["with"] < 0.8 and away["with"] < away["without"] - 0.1


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    model, rows = make_model(DENSE), make_rows([5, 9, 3, 7])
    states = StateTeacher(states_of(model, rows))
    with pytest.raises(ValueError, match=r"states must be those of the rows that are trained on, \(2, 32\)"):
        train(model, rows.subset([0, 1]), FAST, states=states)
    for wrong in (np.zeros(4, np.float32), np.full((2, 3), np.nan, np.float32), np.zeros((0, 3), np.float32)):
        with pytest.raises(ValueError, match="states must be"):
            StateTeacher(wrong)
    with pytest.raises(ValueError, match="weight must be positive, got 0"):
        StateTeacher(states.states, weight=0)
    spans = make_model(DENSE, per_token=True, outputs=2)
    with pytest.raises(ValueError, match="no one state to teach"):
        teacher_states(spans, rows)
    keep = Checkpoints(tmp_path / "training.safetensors", shares=(0.5,), reached=lambda _: False)
    train(make_model(DENSE), rows, FAST, states=states, checkpoints=keep)
    with pytest.raises(InputError, match="another training"):
        train(make_model(DENSE), rows, FAST, checkpoints=keep)


def test_a_model_of_features_alone_has_no_states() -> None:
    text = make_model(DENSE).config
    config = Bert4CtrConfig.from_dict(
        {**{k: v for k, v in text.to_dict().items() if k != "model_type"}, "numeric_edges": [[0.0, 1.0]]}
    )
    with pytest.raises(
        ValueError, match="a model of features ranks no tokens, and has no genomes and no teacher's states"
    ):
        train(FeatureModel(config), make_rows([5, 9]), FAST, states=StateTeacher(np.ones((2, 32), np.float32)))
