from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsefront.search.curriculum import Curriculum, random_shape
from sparsefront.spaces import Genome, SearchSpace, Widths

SPACE = SearchSpace.preset("joint", widths=Widths(layers=4, heads=8, ffn_units=64), ffn_granule=8)


def predict_many(genomes: Sequence[Genome]) -> NDArray[np.float64]:
    """10 us a head, 1 us a unit, scaled by the keep shares before."""
    total = []
    for genome in genomes:
        kept, cost = 1.0, 5.0
        for gene in genome:
            cost += kept * 10 * gene.heads
            kept *= gene.keep_percent / 100
            cost += kept * gene.ffn_units
        total.append(cost)
    return np.array(total)


def test_genomes_are_drawn_near_the_budgets() -> None:
    dense_us = float(predict_many([SPACE.largest])[0])
    curriculum = Curriculum(SPACE, predict_many, focus_us=(100.0, 200.0), per_step=4, pool_size=4000, seed=1)
    rng = np.random.default_rng(0)
    steps = [curriculum(rng) for _ in range(300)]
    latency = np.concatenate([predict_many(step[:3]) for step in steps])
    assert np.mean((latency > 60) & (latency < 240)) > 0.95
    assert abs(np.mean(latency < 125) - 0.5) < 0.15  # half of them near either budget
    assert {len(step) for step in steps} == {4, 5}
    dense = np.mean([step[-1] == SPACE.largest and len(step) == 5 for step in steps])
    assert 0.08 < dense < 0.25
    anywhere = predict_many([step[3] for step in steps])
    assert anywhere.min() < 110 and anywhere.max() > 0.7 * dense_us


def test_the_pool_is_in_the_space_without_repeats_and_follows_the_seed() -> None:
    pools = [Curriculum(SPACE, predict_many, focus_us=(100.0,), pool_size=500, seed=seed).pool for seed in (0, 0, 1)]
    assert pools[0] == pools[1] != pools[2]
    assert len(set(pools[0])) == len(pools[0]) and all(SPACE.contains(genome) for genome in pools[0])


def test_budgets_above_what_the_table_says_of_the_dense_model_draw_large_genomes() -> None:
    dense_us = float(predict_many([SPACE.largest])[0])
    curriculum = Curriculum(SPACE, predict_many, focus_us=(2 * dense_us,), pool_size=500)
    rng = np.random.default_rng(0)
    drawn = [genome for _ in range(50) for genome in curriculum(rng)]
    assert predict_many(drawn).min() > np.median(curriculum.latency_us)


def test_a_tiny_space_is_enough() -> None:
    space = SearchSpace.preset("uniform", widths=Widths(layers=1, heads=1, ffn_units=16))
    curriculum = Curriculum(space, predict_many, focus_us=(6.0,), pool_size=50)
    assert all(space.contains(genome) for _ in range(20) for genome in curriculum(np.random.default_rng(0)))


def test_shapes_differ_more_than_uniform_draws() -> None:
    rng = np.random.default_rng(0)
    shapes = [random_shape(SPACE, rng) for _ in range(400)]
    heads = np.array([np.mean(genome.column("heads")) for genome in shapes])
    independent = np.array([np.mean(SPACE.sample(rng).column("heads")) for _ in range(400)])
    assert heads.std() > 1.3 * independent.std()
    assert np.mean([set(genome.column("keep_percent")) == {100} for genome in shapes]) > 0.2


@pytest.mark.parametrize("focus", [(), (0.0,), (10.0, -1.0)])
def test_budgets_must_be_positive(focus: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="focus_us must be positive"):
        Curriculum(SPACE, predict_many, focus_us=focus)
