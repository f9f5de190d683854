from __future__ import annotations

import itertools

import numpy as np
import optuna
import pytest
import torch
from optuna.samplers import BaseSampler
from tests.search.landscape import Landscape
from tests.search.sampler_conformance import DIRECTIONS, MakeSampler, SamplerConformance, evaluate

from sparsefront.search.baselines import RandomSampler
from sparsefront.search.front import LINEAGE_ATTR, evaluated_of
from sparsefront.search.mutator import MutatorOptions
from sparsefront.search.sampler import EvolutionOptions, ReinforcedEvolutionSampler
from sparsefront.spaces import Genome, InputError


def reinforced(landscape: Landscape, seed: int, *, whole: float = 0.5) -> ReinforcedEvolutionSampler:
    return ReinforcedEvolutionSampler(
        space=landscape.space,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        importance=landscape.importance,
        seed=seed,
        evolution=EvolutionOptions(bases=2, children=6, whole=whole),
    )


class TestReinforced(SamplerConformance):
    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        return reinforced


def with_two_budgets(landscape: Landscape, seed: int) -> ReinforcedEvolutionSampler:
    return ReinforcedEvolutionSampler(
        space=landscape.space,
        predict_many=landscape.predict_many,
        budget_us=(landscape.budget_us, landscape.budget_us / 2),
        importance=landscape.importance,
        seed=seed,
        evolution=EvolutionOptions(bases=2, children=6),
    )


class TestReinforcedWithTwoBudgets(SamplerConformance):
    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        return with_two_budgets

    @pytest.fixture
    def small(self) -> Landscape:
        return Landscape(preset="uniform", budget=0.2)


def test_one_search_serves_two_budgets() -> None:
    landscape = Landscape(layers=4, seed=1)
    study = optuna.create_study(directions=DIRECTIONS, sampler=with_two_budgets(landscape, 0))
    evaluate(study, landscape, 150)
    found = evaluated_of(study)
    for share in (1, 2):
        budget_us = landscape.budget_us / share
        random = RandomSampler(space=landscape.space, predict_many=landscape.predict_many, budget_us=budget_us, seed=0)
        best = max(one.quality for one in found if one.latency_us <= budget_us)
        assert best > best_after(random, landscape, 150)
        assert sum(0.7 * budget_us <= one.latency_us <= budget_us for one in found) > 30


def test_no_budget_is_refused() -> None:
    landscape = Landscape()
    with pytest.raises(ValueError, match="at least one budget"):
        ReinforcedEvolutionSampler(space=landscape.space, predict_many=landscape.predict_many, budget_us=())


def best_after(sampler: BaseSampler, landscape: Landscape, count: int) -> float:
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    evaluate(study, landscape, count)
    return max(one.quality for one in evaluated_of(study))


def optimum(landscape: Landscape) -> float:
    """Best quality within the budget of a 2-layer landscape, by trying every genome."""
    genomes = list(landscape.space)
    fits = landscape.predict_many(genomes) <= landscape.budget_us
    return max(landscape.quality(genome) for genome, fit in zip(genomes, fits, strict=True) if fit)


def test_finds_the_known_optimum_of_a_small_landscape() -> None:
    landscape = Landscape(layers=2, seed=4)
    assert landscape.space.size > 20_000
    best = optimum(landscape)
    found = [best_after(reinforced(landscape, seed), landscape, 150) for seed in range(5)]
    assert min(found) > best - 0.003
    assert np.median(found) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_beats_random_on_layers_that_differ(seed: int) -> None:
    landscape = Landscape(layers=4, seed=seed)
    random = RandomSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=seed
    )
    assert best_after(reinforced(landscape, seed), landscape, 200) > best_after(random, landscape, 200) + 0.005


@pytest.mark.parametrize("critic", [True, False])
def test_beats_its_own_seeds(critic: bool) -> None:
    landscape = Landscape(layers=4, seed=5)
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        seed=0,
        evolution=EvolutionOptions(critic=critic, whole=0.0),  # pruning pays here
        mutator=MutatorOptions(learning_rate=0.1 if critic else 0.03),
    )
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    evaluate(study, landscape, 90)
    lineages = [trial.user_attrs[LINEAGE_ATTR] for trial in study.trials]
    seeds = [trial.values[0] for trial, line in zip(study.trials, lineages, strict=True) if line["how"] == "seed"]
    assert 5 <= len(seeds) < 30
    assert max(trial.values[0] for trial in study.trials) > max(seeds) + 0.002
    assert {line["how"] for line in lineages} >= {"seed", "mutation", "crossover"}


def test_policy_is_restored_from_the_study() -> None:
    landscape = Landscape()
    first = reinforced(landscape, 2)
    study = optuna.create_study(directions=DIRECTIONS, sampler=first)
    evaluate(study, landscape, 60)
    second = reinforced(landscape, 2)
    untrained = [parameter.clone() for parameter in second.mutator.net.parameters()]
    for sampler in (first, second):
        study.sampler = sampler
        study.ask(dict(landscape.space.distributions()))
    assert any(not torch.equal(old, new) for old, new in zip(untrained, second.mutator.net.parameters(), strict=True))
    for left, right in zip(first.mutator.net.parameters(), second.mutator.net.parameters(), strict=True):
        assert torch.equal(left, right)


def test_results_told_out_of_order_train_the_same_policy_in_a_new_process() -> None:
    landscape = Landscape()
    first = reinforced(landscape, 2)
    study = optuna.create_study(directions=DIRECTIONS, sampler=first)
    evaluate(study, landscape, 25)
    for _ in range(5):
        trials = [study.ask(dict(landscape.space.distributions())) for _ in range(3)]
        for trial in reversed(trials):
            genome = landscape.space.from_params(trial.params)
            study.tell(trial, [landscape.quality(genome), float(landscape.predict_many([genome])[0])])
    second = reinforced(landscape, 2)
    for sampler in (first, second):
        study.sampler = sampler
        study.ask(dict(landscape.space.distributions()))
    for left, right in zip(first.mutator.net.parameters(), second.mutator.net.parameters(), strict=True):
        assert torch.equal(left, right)


def test_many_are_proposed_at_once_all_new_and_within_the_budget() -> None:
    landscape = Landscape(layers=4, seed=1)
    sampler = reinforced(landscape, 0)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    first = [one.genome for one in sampler.proposals(study, 40)]  # more than its own seeds, and nothing is known
    assert len(set(first)) == 40
    assert (landscape.predict_many(first) <= landscape.budget_us).all()
    evaluate(study, landscape, 40)
    known = {one.genome for one in evaluated_of(study)}
    later = [one.genome for one in sampler.proposals(study, 10)]
    assert len(set(later)) == 10 and not known & set(later)
    assert (landscape.predict_many(later) <= landscape.budget_us).all()


def test_a_policy_that_may_not_learn_stays_as_it_began() -> None:
    landscape = Landscape()
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space,
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        seed=0,
        mutator=MutatorOptions(learn=False),
    )
    before = [parameter.clone() for parameter in sampler.mutator.net.parameters()]
    evaluate(optuna.create_study(directions=DIRECTIONS, sampler=sampler), landscape, 40)
    pairs = zip(before, sampler.mutator.net.parameters(), strict=True)
    assert all(torch.equal(left, right) for left, right in pairs)


def test_lineage_replays_to_the_genome() -> None:
    landscape = Landscape()
    sampler = reinforced(landscape, 0)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    evaluate(study, landscape, 60)
    checked = 0
    for trial in study.trials:
        lineage = trial.user_attrs[LINEAGE_ATTR]
        assert landscape.space.from_params(trial.params).key() == lineage["genome"]
        if "base" in lineage:
            indices = sampler.mutator.axes.indices(Genome.parse(lineage["base"]))
            for axis, index, _ in lineage["moves"]:
                indices[axis] = index
            assert sampler.mutator.axes.genome(indices).key() == lineage["genome"]
            checked += 1
    assert checked > 20


def test_a_share_of_the_proposals_stays_among_the_genomes_that_keep_all_tokens() -> None:
    def share(whole: float) -> float:
        landscape = Landscape()
        study = optuna.create_study(directions=DIRECTIONS, sampler=reinforced(landscape, 0, whole=whole))
        evaluate(study, landscape, 80)
        lineages = [trial.user_attrs[LINEAGE_ATTR] for trial in study.trials]
        children = [Genome.parse(lineage["genome"]) for lineage in lineages if "parents" in lineage]
        assert len(children) > 40
        return float(np.mean([genome.keeps_all_tokens for genome in children]))

    none, half, every = share(0.0), share(0.5), share(1.0)
    assert none + 0.1 < half < every == 1.0


def test_the_global_random_state_is_left_alone() -> None:
    landscape = Landscape()
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"].copy()
    evaluate(optuna.create_study(directions=DIRECTIONS, sampler=reinforced(landscape, 0)), landscape, 40)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state(legacy=False)["state"]["key"]).all()


def test_refuses_a_budget_that_nothing_fits_and_a_study_of_one_objective() -> None:
    landscape = Landscape()
    with pytest.raises(InputError, match=r"budget_us 1 is below the .* us of the smallest genome"):
        ReinforcedEvolutionSampler(space=landscape.space, predict_many=landscape.predict_many, budget_us=1.0)
    study = optuna.create_study(direction="maximize", sampler=reinforced(landscape, 0))
    with pytest.raises(ValueError, match="directions must be"):
        study.ask(dict(landscape.space.distributions()))
    for field, value in itertools.product(("focus", "crossover", "whole"), (-0.1, 1.1)):
        with pytest.raises(ValueError, match=field):
            EvolutionOptions(**{field: value})  # type: ignore[arg-type]


def test_a_budget_that_nothing_was_evaluated_within_yet_is_no_obstacle() -> None:
    landscape = Landscape(layers=2, preset="weights")
    least_us = float(landscape.predict_many([landscape.space.smallest])[0])
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space,
        predict_many=landscape.predict_many,
        budget_us=(least_us * 1.001, landscape.budget_us),
        seed=0,
    )
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    rng = np.random.default_rng(0)
    for _ in range(200):  # somebody else's evaluations, none within the smaller budget
        genome = landscape.space.sample(rng)
        latency_us = float(landscape.predict_many([genome])[0])
        if least_us * 1.001 < latency_us <= landscape.budget_us:
            params, distributions = landscape.space.to_params(genome), landscape.space.distributions()
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: params[name] for name in distributions},
                    distributions=dict(distributions),
                    values=[landscape.quality(genome), latency_us],
                )
            )
    before = len(study.trials)
    assert before > 30  # the critic has an opinion
    evaluate(study, landscape, 8)
    assert len(study.trials) == before + 8
