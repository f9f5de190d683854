"""Learning a schedule: within its target, where it hurts least, and the model left as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.models.test_training import GOOD, toy_rows
from tests.models.tiny import config_of, make_config, make_model

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.multiply_adds import multiply_adds
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_gates import TokenGates
from sparsefront.models.token_schedule import ScheduleOptions, TokenSchedule, learn_schedule
from sparsefront.models.training import TrainOptions, train
from sparsefront.spaces import Genome, InputError

DENSE = Genome.uniform(4, heads=4, ffn_units=32)
CONFIG = make_config(DENSE)
FAST = ScheduleOptions(steps=120, tokens_per_batch=256, gate_rate=0.1, multiplier_rate=0.1, distil_share=0)


def cost_of(genomes: Sequence[Genome]) -> NDArray[np.float64]:
    """Multiply-adds at the toy rows' mean length."""
    return multiply_adds(genomes, [16], CONFIG)[:, 0]


@pytest.fixture(scope="module")
def trained() -> CrossEncoder:
    """A model that needs its first layer to find the token that matters: there it is told apart."""
    torch.manual_seed(0)
    model = CrossEncoder(make_config(DENSE, initializer_range=0.1))
    train(model, toy_rows(600), TrainOptions(epochs=8, learning_rate=3e-3, tokens_per_batch=256, precision="fp32"))
    return model


def learned(model: CrossEncoder, target: float = 0.6, **changes: Any) -> TokenSchedule:
    options = ScheduleOptions(**{**vars(FAST), **changes})
    return learn_schedule(model, toy_rows(600), cost_of, target, options)


@pytest.mark.parametrize("shape", ["prefix", "bins"])
def test_it_fills_its_target(trained: CrossEncoder, shape: str) -> None:
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    found = learned(trained, 0.6, shape=shape, bins=20)
    share = cost_of([found.genome])[0] / cost_of([DENSE])[0]
    assert found.cost_share == pytest.approx(share)
    assert 0.5 < share <= 0.6, "within the target, and near it"
    assert found.keep_percents[-1] == 100, "only [CLS] leaves the last layer"
    assert len(found.losses) == 120
    for name, value in trained.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.requires_grad for parameter in trained.parameters())


def test_it_beats_the_same_shares_in_reverse(trained: CrossEncoder) -> None:
    rows = toy_rows(600, seed=9)
    found = learned(trained, 0.5)
    reverse = DENSE.keeping(found.keep_percents[:-1][::-1])

    def loss(genome: Genome) -> float:
        logits = score_rows(trained, rows, genome=genome, precision="fp32")
        return float(np.mean(np.logaddexp(0, -np.where(rows.positive, 1, -1) * logits)))

    assert loss(found.genome) <= loss(reverse) + 1e-6
    assert GOOD  # the toy task's word


def test_other_targets_cost_no_training_of_the_model(trained: CrossEncoder) -> None:
    shares = [learned(trained, target).cost_share for target in (0.8, 0.5)]
    assert shares[1] < 0.51 < shares[0] <= 0.8


def test_layers_that_gates_are_undecided_of_share_what_is_to_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """One gate a little more open than the others must not make its layer drop all there is."""

    def undecided(*arguments: Any) -> list[float]:
        (gates,) = (one for one in arguments if isinstance(one, TokenGates))
        with torch.no_grad():
            gates.layer_logits[:] = torch.tensor([-0.2, -0.2, 0.2])
        return []

    monkeypatch.setattr("sparsefront.models.token_schedule._fit", undecided)
    found = learned(make_model(DENSE), 0.75)
    assert found.cost_share <= 0.75
    first, second, third = found.keep_percents[:3]
    assert first == second and 0 < first - third < 15


def test_the_constraint_alone_brings_the_gates_to_the_target(
    trained: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before what they have learned is scaled to fill it."""
    expected = list[float]()

    def within(costs: Any, gates: TokenGates, target: float) -> tuple[int, ...]:
        expected.append(float(costs.expected(gates.expected_shares().detach())))
        return gates.keep_percents()

    monkeypatch.setattr("sparsefront.models.token_schedule._within", within)
    for target in (0.8, 0.5):
        learned(trained, target)
    assert expected == pytest.approx([0.8, 0.5], abs=0.05)


def test_widths_are_those_asked_for(trained: CrossEncoder) -> None:
    narrow = Genome.uniform(4, heads=2, ffn_units=16, keep_percent=30)
    found = learn_schedule(
        trained, toy_rows(100), cost_of, 0.7, ScheduleOptions(steps=10, distil_share=0), genome=narrow
    )
    assert found.genome.column("heads") == (2,) * 4
    assert found.cost_share <= 0.7


def test_layers_before_the_first_keep_all(trained: CrossEncoder) -> None:
    assert learned(trained, 0.9, first_layer=2, steps=30).keep_percents[:2] == (100, 100)


def test_the_same_seed_learns_the_same(trained: CrossEncoder) -> None:
    first, second = (learned(trained, steps=15, seed=3) for _ in range(2))
    assert first == second


def test_bad_input_is_told(trained: CrossEncoder) -> None:
    rows = toy_rows(20)
    with pytest.raises(InputError, match=r"target 0.05: even one token in a hundred after every layer costs 0\.\d+"):
        learn_schedule(trained, rows, cost_of, 0.05, FAST)
    for target in (0.0, 1.0, float("nan")):
        with pytest.raises(ValueError, match="target_share must be between 0 and 1"):
            learn_schedule(trained, rows, cost_of, target, FAST)
    with pytest.raises(ValueError, match="no layer may prune: 4 layers"):
        learn_schedule(trained, rows, cost_of, 0.5, ScheduleOptions(first_layer=3, distil_share=0))
    with pytest.raises(ValueError, match="no teacher logits"):
        learn_schedule(trained, rows, cost_of, 0.5, ScheduleOptions())
    with pytest.raises(ValueError, match="rows must not be empty"):
        learn_schedule(trained, rows.subset([]), cost_of, 0.5, FAST)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        ScheduleOptions(steps=0)


def test_rows_of_one_token_are_fine() -> None:
    model = make_model(DENSE)
    rows = toy_rows(40)
    short = rows.subset([0, 1])
    one = type(short)(
        input_ids=short.input_ids[short.offsets[:-1]],
        token_type_ids=short.token_type_ids[short.offsets[:-1]],
        offsets=np.arange(3),
        target=short.target,
        positive=short.positive,
    )
    found = learn_schedule(model, one, cost_of, 0.6, ScheduleOptions(steps=3, distil_share=0))
    assert np.isfinite(found.losses).all()
    assert config_of(model).genome == DENSE
