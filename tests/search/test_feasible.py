from __future__ import annotations

import numpy as np
import optuna
import pytest
from tests.search.landscape import Landscape

from sparsefront.search.feasible import FeasibleSpace, SpaceExhausted
from sparsefront.search.seeds import enqueue_seeds, seed_genomes
from sparsefront.spaces import Genome, InputError


def feasible_of(landscape: Landscape) -> FeasibleSpace:
    return FeasibleSpace(space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us)


def test_draws_are_uniform_over_a_small_feasible_space() -> None:
    landscape = Landscape(preset="uniform", budget=0.1)
    feasible = feasible_of(landscape)
    rng = np.random.default_rng(0)
    listed = feasible.listed()
    counts = dict.fromkeys(listed, 0)
    for _ in range(100 * len(listed)):
        counts[feasible.random(rng)] += 1
    chi_square = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_square < len(listed) + 4 * (2 * len(listed)) ** 0.5


def test_finds_the_last_one_left() -> None:
    landscape = Landscape(preset="uniform", budget=0.1)
    feasible = feasible_of(landscape)
    last = feasible.listed()[-1]
    taken = {genome.key() for genome in feasible.listed()} - {last.key()}
    assert not feasible.exhausted(taken)
    assert feasible.random(np.random.default_rng(0), taken) == last
    taken.add(last.key())
    assert feasible.exhausted(taken)
    with pytest.raises(SpaceExhausted, match="all genomes of space 'uniform' within"):
        feasible.random(np.random.default_rng(0), taken)


def test_a_large_space_with_few_feasible_genomes_is_walked_to_the_end() -> None:
    landscape = Landscape(preset="weights", layers=12)
    smallest = float(landscape.predict_many([landscape.space.smallest])[0])
    feasible = FeasibleSpace(space=landscape.space, predict_many=landscape.predict_many, budget_us=smallest + 10)
    taken: set[str] = set()
    with pytest.raises(SpaceExhausted):
        for _ in range(200):
            genome = feasible.random(np.random.default_rng(len(taken)), taken)
            assert landscape.predict_many([genome])[0] <= feasible.budget_us
            assert genome.key() not in taken
            taken.add(genome.key())
    assert len(taken) == 13  # the smallest one, and one layer with the narrowest FFN


def test_refuses_impossible_budgets() -> None:
    landscape = Landscape()
    for budget_us, line in ((0.0, "must be positive"), (float("nan"), "must be positive"), (3.0, "nothing fits")):
        with pytest.raises(InputError, match=line):
            FeasibleSpace(space=landscape.space, predict_many=landscape.predict_many, budget_us=budget_us)


@pytest.mark.parametrize("preset", ["joint", "weights", "tokens", "uniform"])
def test_seeds_fill_the_budget_in_several_shapes(preset: str) -> None:
    landscape = Landscape(preset=preset, layers=6, budget=0.6)
    feasible = feasible_of(landscape)
    seeds = seed_genomes(feasible, landscape.importance)
    assert len(seeds) == len(set(seeds)) >= 2
    assert all(landscape.space.contains(seed) for seed in seeds)
    latencies = landscape.predict_many(seeds)
    assert latencies.max() <= landscape.budget_us
    if preset in ("joint", "weights"):
        assert (latencies > 0.9 * landscape.budget_us).sum() >= 4


def test_some_seeds_leave_no_room_for_another_head_or_ffn_step() -> None:
    landscape = Landscape(layers=6, budget=0.2)
    feasible = feasible_of(landscape)
    full = 0
    for seed in seed_genomes(feasible, landscape.importance):
        wider = [
            landscape.space.replace(seed, layer, field, value)
            for layer, field, value in landscape.space.moves()
            if field != "keep_percent" and value > seed.column(field)[layer]
        ]
        full += not feasible.fits(wider).any()
    assert full >= 4


def test_the_importance_seed_gives_the_important_layer_more() -> None:
    landscape = Landscape(layers=4, seed=1)
    with_importance = set(seed_genomes(feasible_of(landscape), landscape.importance))
    added = with_importance - set(seed_genomes(feasible_of(landscape)))
    fullest = max(added, key=lambda genome: float(landscape.predict_many([genome])[0]))
    units, weights = fullest.column("ffn_units"), landscape.weights[1]
    assert units[int(weights.argmax())] > units[int(weights.argmin())]


def test_enqueued_seeds_are_asked_first_and_once() -> None:
    landscape = Landscape()
    feasible = feasible_of(landscape)
    study = optuna.create_study(directions=["maximize", "minimize"])
    count = enqueue_seeds(study, feasible)
    assert enqueue_seeds(study, feasible) == count
    asked: list[Genome] = []
    for _ in range(count):
        trial = study.ask(dict(landscape.space.distributions()))
        asked.append(landscape.space.from_params(trial.params))
    assert asked == list(seed_genomes(feasible))
    assert len(study.trials) == count
