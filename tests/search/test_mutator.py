from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.search.landscape import Landscape

from sparsefront.search.mutator import Lesson, Move, Mutator, MutatorOptions, Situation, front_shape
from sparsefront.spaces import Genome

SHAPE = np.zeros(4)


@pytest.fixture
def landscape() -> Landscape:
    return Landscape()


def mutator_of(landscape: Landscape, **options: float) -> Mutator:
    return Mutator(
        space=landscape.space,
        predict_many=landscape.predict_many,
        seed=0,
        options=MutatorOptions(**options),  # type: ignore[arg-type]
    )


def situation_of(mutator: Mutator, landscape: Landscape, target: float = 1.0) -> Situation:
    index = {"heads": 1, "ffn_units": 5, "keep_percent": 2}
    base = landscape.space.from_params(
        {name: index[name.partition(".")[2]] for name in landscape.space.distributions()}
    )
    return mutator.situations([(base, target * landscape.budget_us, SHAPE)])[0]


def test_an_untrained_policy_is_uniform_over_the_moves_within_the_target(landscape: Landscape) -> None:
    mutator = mutator_of(landscape)
    situation = situation_of(mutator, landscape)
    probabilities = mutator.probabilities(situation)
    base = mutator.axes.genome(situation.base)
    allowed = 0
    for axis, index, move in zip(mutator.axes.axis, mutator.axes.index, mutator.axes.moves, strict=True):
        child = landscape.space.replace(base, *move)
        fits = child != base and landscape.predict_many([child])[0] <= situation.target_us
        allowed += fits
        assert (probabilities[axis, index] > 0) == fits
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert probabilities.max() == pytest.approx(1 / allowed, rel=1e-4)


def test_situation_holds_the_exact_change_of_every_single_move(landscape: Landscape) -> None:
    mutator = mutator_of(landscape)
    situation = situation_of(mutator, landscape)
    base = mutator.axes.genome(situation.base)
    for candidate, move in list(enumerate(mutator.axes.moves))[::7]:
        moved = landscape.predict_many([landscape.space.replace(base, *move)])[0]
        assert situation.latency_us + situation.change_us[candidate] == pytest.approx(moved)


def test_children_differ_from_the_base_by_their_moves(landscape: Landscape) -> None:
    mutator = mutator_of(landscape)
    situation = situation_of(mutator, landscape)
    children = mutator.propose([situation], 40, np.random.default_rng(0))[0]
    assert len({tuple(indices) for indices in children.indices}) > 30
    for child, indices in enumerate(children.indices):
        moves = mutator.moves(children, child)
        assert 1 <= len(moves) <= 11
        replayed = situation.base.copy()
        for move in moves:
            replayed[move.axis] = move.index
        assert (replayed == indices).all()
        free = [move for move in moves if not move.filling]
        assert 1 <= len(free) <= 5
        assert len({move.axis for move in moves}) == len(moves)


def test_filling_uses_the_budget_up(landscape: Landscape) -> None:
    slack = []
    for fill in (0.0, 1.0):
        mutator = mutator_of(landscape, fill=fill)
        children = mutator.propose([situation_of(mutator, landscape)], 30, np.random.default_rng(0))[0]
        latency = landscape.predict_many(mutator.axes.genomes(children.indices))
        slack.append(float(np.median(landscape.budget_us - latency)))
    assert slack[1] < 0.5 * slack[0]


def test_proposals_depend_on_the_generator_only(landscape: Landscape) -> None:
    moves = []
    for _ in range(2):
        mutator = mutator_of(landscape)
        children = mutator.propose([situation_of(mutator, landscape)], 5, np.random.default_rng(1))[0]
        moves.append([mutator.moves(children, child) for child in range(5)])
    assert moves[0] == moves[1]


def test_rewarded_moves_become_likelier_and_punished_ones_rarer(landscape: Landscape) -> None:
    for reward, sign in ((1.0, 1), (-1.0, -1)):
        mutator = mutator_of(landscape)
        situation = situation_of(mutator, landscape)
        move = Move(axis=3, index=2, filling=False)
        before = mutator.probabilities(situation)[3, 2]
        for _ in range(3):
            mutator.learn([Lesson(situation, [move], reward)])
        assert sign * (mutator.probabilities(situation)[3, 2] - before) > 0


def test_learns_which_layer_pays(landscape: Landscape) -> None:
    mutator = mutator_of(landscape, learning_rate=0.03)
    situation = situation_of(mutator, landscape)
    rng = np.random.default_rng(0)
    for _ in range(200):
        first = mutator.moves(mutator.propose([situation], 1, rng)[0], 0)[0]
        mutator.learn([Lesson(situation, [first], 1.0 if mutator.axes.layer[first.axis] == 2 else -0.2)])
    by_axis = mutator.probabilities(situation).sum(axis=1)
    assert by_axis[mutator.axes.layer == 2].sum() > 0.5


def test_the_baseline_learns_the_mean_reward(landscape: Landscape) -> None:
    mutator = mutator_of(landscape, learning_rate=0.03)
    situation = situation_of(mutator, landscape)
    for _ in range(150):
        mutator.learn([Lesson(situation, [Move(0, 1, False)], 0.4)])
    state = torch.from_numpy(mutator._state(situation)).float()[None]
    assert float(mutator.net.baseline(state)[0].detach()) == pytest.approx(0.4, abs=0.1)


def test_no_move_within_the_target_gives_the_base_back(landscape: Landscape) -> None:
    mutator = mutator_of(landscape)
    base = landscape.space.smallest
    exact = float(landscape.predict_many([base])[0])
    (situation,) = mutator.situations([(base, exact - 1, SHAPE)])
    (children,) = mutator.propose([situation], 3, np.random.default_rng(0))
    assert [mutator.moves(children, child) for child in range(3)] == [[], [], []]
    assert (children.indices == situation.base).all()


def test_front_shape() -> None:
    shape = front_shape([0.5, 0.6, 0.7], [20.0, 60.0, 100.0], budget_us=100)
    assert shape.tolist() == pytest.approx([3 / 50, 0.8, 0.5, 1.0])
    assert front_shape([], [], budget_us=100).tolist() == [0, 0, 0, 0]


def test_refuses_bad_options_and_moves(landscape: Landscape) -> None:
    with pytest.raises(ValueError, match="fill must be between 0 and 1"):
        MutatorOptions(fill=1.5)
    mutator = mutator_of(landscape)
    with pytest.raises(ValueError, match="not a move"):
        mutator.learn([Lesson(situation_of(mutator, landscape), [Move(0, 99, False)], 1.0)])


def test_what_the_better_judged_children_of_a_base_did_becomes_likelier(landscape: Landscape) -> None:
    mutator = mutator_of(landscape, learning_rate=0.02, more_moves=0.3)
    situation = situation_of(mutator, landscape)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(60):
        (children,) = mutator.propose([situation], 16, rng)
        better = (children.indices[:, 3] == 2).astype(np.float64)
        shares.append(better.mean())
        mutator.imagine([situation], [children], [better])
    assert np.mean(shares[-10:]) > 0.5 > 2 * np.mean(shares[:5])


def test_the_policy_sees_what_is_expected_of_every_single_move(landscape: Landscape) -> None:
    def opinion(genomes: Sequence[Genome]) -> NDArray[np.float64]:
        return np.array([3.0 * (one.layers[1].heads > 1) for one in genomes])

    hinted, blind = mutator_of(landscape), mutator_of(landscape, hints=False)
    base = landscape.space.replace(landscape.space.smallest, 1, "heads", 1)
    shape = base, landscape.budget_us, SHAPE
    (situation,) = hinted.situations([shape], opinion=opinion)
    better = (hinted.axes.layer == 1)[hinted.axes.axis] & (hinted.axes.field == 0)[hinted.axes.axis]
    better &= hinted.axes.values[hinted.axes.axis, hinted.axes.index] > 1
    assert (situation.gain == 3.0 * better).all() and better.any()
    assert not blind.situations([shape], opinion=opinion)[0].gain.any()
    assert not hinted.situations([shape])[0].gain.any()


def test_children_that_are_all_judged_alike_teach_nothing(landscape: Landscape) -> None:
    mutator = mutator_of(landscape)
    situation = situation_of(mutator, landscape)
    before = mutator.probabilities(situation)
    children = mutator.propose([situation], 8, np.random.default_rng(0))
    mutator.imagine([situation], children, [np.ones(8)])
    assert (mutator.probabilities(situation) == before).all()
