from __future__ import annotations

import optuna
import pytest
from optuna.samplers import BaseSampler
from tests.search.landscape import Landscape
from tests.search.sampler_conformance import DIRECTIONS, MakeSampler, SamplerConformance, evaluate, proposed

from sparsefront.search.baselines import RandomSampler, SweepSampler
from sparsefront.spaces import InputError


def random_sampler(landscape: Landscape, seed: int) -> BaseSampler:
    return RandomSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=seed
    )


def sweep(landscape: Landscape, seed: int) -> BaseSampler:
    return SweepSampler(space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us)


class TestRandom(SamplerConformance):
    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        return random_sampler


class TestSweep(SamplerConformance):
    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        return sweep

    @pytest.fixture
    def landscape(self) -> Landscape:
        return Landscape(preset="uniform", budget=0.6)


def test_random_covers_a_tight_budget() -> None:
    landscape = Landscape(layers=12, budget=0.12)
    study = optuna.create_study(directions=DIRECTIONS, sampler=random_sampler(landscape, 0))
    evaluate(study, landscape, 30)
    genomes = proposed(study, landscape)
    assert len(set(genomes)) == 30
    assert landscape.predict_many(genomes).max() <= landscape.budget_us
    assert landscape.predict_many(genomes).max() > 0.8 * landscape.budget_us


def test_random_seeds_differ() -> None:
    landscape = Landscape()
    studies = [optuna.create_study(directions=DIRECTIONS, sampler=random_sampler(landscape, seed)) for seed in (0, 1)]
    for study in studies:
        evaluate(study, landscape, 10)
    assert set(proposed(studies[0], landscape)).isdisjoint(proposed(studies[1], landscape))


def test_sweep_goes_in_the_order_of_the_space() -> None:
    landscape = Landscape(preset="uniform", budget=0.6)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sweep(landscape, 0))
    evaluate(study, landscape, 20)
    fitting = [one for one in landscape.space if landscape.predict_many([one])[0] <= landscape.budget_us]
    assert proposed(study, landscape) == fitting[:20]


def test_sweep_refuses_a_space_that_cannot_be_listed() -> None:
    with pytest.raises(InputError, match="can be listed"):
        sweep(Landscape(layers=4), 0)
