"""What users have already: samplers that the reinforced one is compared with, each with the same engine around it.

All see the budget: what is predicted slower is never evaluated and costs them nothing, and none evaluates a genome
twice. Optuna's own samplers are told of the constraint by the search loop.
"""

from __future__ import annotations

import numpy as np
import optuna
from optuna.samplers import BaseSampler

from sparsefront.search.axes import Axes
from sparsefront.search.baselines import FeasibleSampler
from sparsefront.search.feasible import PredictMany
from sparsefront.search.front import Evaluated, evaluated_of, front
from sparsefront.spaces import Genome, SearchSpace

POPULATION = 50
TOURNAMENT = 10
_TRIES = 50


class _Evolution(FeasibleSampler):
    """Random mutation of one place, by the rules of a subclass; a random genome until somebody is there to mutate."""

    def __init__(self, *, space: SearchSpace, predict_many: PredictMany, budget_us: float, seed: int) -> None:
        super().__init__(space=space, predict_many=predict_many, budget_us=budget_us, seed=seed)
        self.axes = Axes(space=space, importance=None)

    def propose(self, study: optuna.Study, rng: np.random.Generator, taken: set[str]) -> Genome:
        known = list(evaluated_of(study))
        for _ in range(_TRIES if known else 0):
            child = self.child(known, rng)
            if child.key() not in taken and self.feasible.fits([child])[0]:
                return child
        return self.feasible.random(rng, taken)

    def child(self, known: list[Evaluated], rng: np.random.Generator) -> Genome:
        """One proposal, perhaps taken or beyond the budget."""
        raise NotImplementedError

    def mutated(self, genome: Genome, rng: np.random.Generator) -> Genome:
        """One (layer, field) set to another of its values."""
        indices = self.axes.indices(genome)
        axis = int(rng.integers(len(indices)))
        indices[axis] = (indices[axis] + rng.integers(1, self.axes.sizes[axis])) % self.axes.sizes[axis]
        return self.axes.genome(indices)

    def crossed(self, one: Genome, other: Genome, rng: np.random.Generator) -> Genome:
        """Every place from one of the two."""
        first, second = self.axes.indices(one), self.axes.indices(other)
        return self.axes.genome(np.where(rng.random(len(first)) < 0.5, first, second))


class RegularisedEvolution(_Evolution):
    """The best of ten drawn from the latest fifty is mutated (Real et al. 2019, arXiv 1802.01548; 100 and 25 there)."""

    def child(self, known: list[Evaluated], rng: np.random.Generator) -> Genome:
        latest = sorted(known, key=lambda one: one.number)[-POPULATION:]
        drawn = rng.choice(len(latest), size=min(TOURNAMENT, len(latest)), replace=False)
        return self.mutated(max((latest[at] for at in drawn), key=lambda one: one.quality).genome, rng)


class ParetoEvolution(_Evolution):
    """A genome of the front, crossed with another in half of the cases, is mutated."""

    def child(self, known: list[Evaluated], rng: np.random.Generator) -> Genome:
        points = front(known)
        genome = points[int(rng.integers(len(points)))].genome
        if rng.random() < 0.5:
            genome = self.crossed(genome, points[int(rng.integers(len(points)))].genome, rng)
        return self.mutated(genome, rng)


class LocalSearch(_Evolution):
    """Neighbours of the best genome that has any left (one step in one place), in random order."""

    def propose(self, study: optuna.Study, rng: np.random.Generator, taken: set[str]) -> Genome:
        for one in sorted(evaluated_of(study), key=lambda one: -one.quality):
            near = [genome for genome in self.space.neighbours(one.genome) if genome.key() not in taken]
            near = [genome for genome, fits in zip(near, self.feasible.fits(near), strict=True) if fits]
            if near:
                return near[int(rng.integers(len(near)))]
        return self.feasible.random(rng, taken)


def optuna_sampler(name: str, *, seed: int) -> BaseSampler:
    """Optuna's own: ``tpe`` (multivariate), ``nsga2`` or ``nsga3``."""
    if name == "tpe":
        return optuna.samplers.TPESampler(seed=seed, multivariate=True)
    kind = {"nsga2": optuna.samplers.NSGAIISampler, "nsga3": optuna.samplers.NSGAIIISampler}[name]
    sampler: BaseSampler = kind(seed=seed, population_size=POPULATION)
    return sampler


def uniform_space(space: SearchSpace) -> SearchSpace:
    """The same choices, one for all layers."""
    return SearchSpace(name="uniform", widths=space.widths, choices=space.choices, tied=True)
