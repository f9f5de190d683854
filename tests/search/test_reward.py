from __future__ import annotations

import numpy as np
import pytest

from sparsefront.search.front import Evaluated
from sparsefront.search.reward import Reward, hypervolume_improvement, mnas_score, normalise, rank_reward
from sparsefront.spaces import Genome

GENOME = Genome.uniform(2, heads=1, ffn_units=8)


def point(quality: float, latency_us: float) -> Evaluated:
    return Evaluated(GENOME, quality, latency_us, 0)


def test_mnas_score_is_the_formula() -> None:
    assert mnas_score(0.8, 50.0, budget_us=100, under=-0.5, over=-2) == pytest.approx(0.8 * 0.5**-0.5)
    assert mnas_score(0.8, 200.0, budget_us=100, under=-0.5, over=-2) == pytest.approx(0.8 * 2.0**-2)
    assert mnas_score(0.8, 100.0, budget_us=100, under=-0.5, over=-2) == pytest.approx(0.8)


def test_being_over_budget_never_helps_a_bad_quality() -> None:
    assert mnas_score(-0.5, 200.0, budget_us=100, under=0, over=-2) == -0.5


def test_normalise() -> None:
    assert normalise(0.75, floor=0.7, ceiling=0.8) == pytest.approx(0.5)
    assert normalise(0.75, floor=0.75, ceiling=0.75) == 0.5


def test_hypervolume_improvement_is_a_share_of_the_box() -> None:
    archive = [point(0.6, 80.0), point(0.7, 100.0)]
    added = hypervolume_improvement(archive, 0.7, 50.0, floor=0.5, ceiling=0.7, budget_us=100)
    assert added == pytest.approx((0.2 * 50 - 0.1 * 20) / (0.2 * 100))
    assert hypervolume_improvement(archive, 0.55, 90.0, floor=0.5, ceiling=0.7, budget_us=100) == 0.0
    assert hypervolume_improvement(archive, 0.9, 120.0, floor=0.5, ceiling=0.7, budget_us=100) == 0.0


def test_reward_pays_for_the_parent_beaten_and_for_the_front() -> None:
    archive = [point(0.5, 40.0), point(0.7, 90.0), point(0.6, 60.0)]
    parent = [archive[1]]
    reward = Reward()
    better = reward.of(point(0.72, 90.0), parent, archive, budget_us=100)
    worse = reward.of(point(0.66, 90.0), parent, archive, budget_us=100)
    off_budget = reward.of(point(0.72, 130.0), parent, archive, budget_us=100)
    elsewhere = Reward(score_weight=0).of(point(0.65, 55.0), parent, archive, budget_us=100)
    assert worse < 0 < better
    assert off_budget < better
    assert elsewhere > 0  # worse than its parent, yet it widens the front
    assert worse >= -1 and better <= 1


def test_the_best_parent_counts() -> None:
    archive = [point(0.5, 40.0), point(0.7, 90.0)]
    reward = Reward(hypervolume_weight=0)
    child = point(0.6, 90.0)
    assert reward.of(child, archive, archive, budget_us=100) == reward.of(child, archive[1:], archive, budget_us=100)
    assert reward.of(child, archive[:1], archive, budget_us=100) > 0


def test_refuses_exponents_that_reward_slowness() -> None:
    with pytest.raises(ValueError, match="exponents"):
        Reward(over=0.5)
    with pytest.raises(ValueError, match="weights"):
        Reward(score_weight=-1)


def test_the_best_quarter_of_judged_children_is_rewarded_by_rank() -> None:
    improvement = np.array([1e-9, 5.0, 1e-3, 0.0, 0.2, 1e-6, 1e-4, 0.0])
    reward = rank_reward(improvement)
    assert reward.argmax() == 1 and reward[4] > 0
    assert (reward[[0, 2, 3, 5, 6, 7]] == 0).all()
    assert rank_reward(1e6 * improvement).tolist() == reward.tolist()
