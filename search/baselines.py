"""What a search has to beat: random genomes within the budget, and a sweep over a small space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.feasible import FeasibleSpace, PredictMany, SpaceExhausted
from sparsefront.search.front import LINEAGE_ATTR
from sparsefront.search.history import History, genome_in
from sparsefront.search.sampler import stop_quietly
from sparsefront.spaces import Genome, SearchSpace


class FeasibleSampler(BaseSampler):
    """Proposes genomes within the budget, each once; subclasses say which.

    A proposal depends on ``seed``, the trial's number and the study, so an interrupted search goes on as it would have.
    """

    def __init__(self, *, space: SearchSpace, predict_many: PredictMany, budget_us: float, seed: int | None) -> None:
        self.space = space
        self.feasible = FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us)
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._history = History(space)
        self._independent = optuna.samplers.RandomSampler(seed=self._seed)

    @abstractmethod
    def propose(self, study: optuna.Study, rng: np.random.Generator, taken: set[str]) -> Genome:
        """A genome whose key is not taken; raises :class:`SpaceExhausted` when there is none."""

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self.space.distributions())

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if genome_in(trial, self.space) is not None:  # enqueued by somebody: nothing to propose
            return {}
        rng = np.random.default_rng([self._seed, trial.number])
        try:
            genome = self.propose(study, rng, self._history.taken(study, but=trial.number))
        except SpaceExhausted:
            study.tell(trial.number, state=TrialState.FAIL)  # ask() fails, and would leave the trial running for ever
            raise
        study._storage.set_trial_user_attr(trial._trial_id, LINEAGE_ATTR, {"genome": genome.key(), "how": "baseline"})
        params = self.space.to_params(genome)
        return {name: params[name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        if state == TrialState.COMPLETE and self.feasible.exhausted(self._history.taken(study)):
            stop_quietly(study)


class RandomSampler(FeasibleSampler):
    """Uniform over the genomes within the budget, or of several within one drawn at random, without repeats.

    By rejection while that works; where almost nothing fits, uniform draws are shrunk until they do
    (see :meth:`FeasibleSpace.random`). A proposal depends on ``seed``, the trial's number and the genomes taken.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        predict_many: PredictMany,
        budget_us: float | Sequence[float],
        seed: int | None = None,
    ) -> None:
        budgets_us = [budget_us] if isinstance(budget_us, int | float) else sorted(budget_us)
        super().__init__(space=space, predict_many=predict_many, budget_us=budgets_us[-1], seed=seed)
        lower = [FeasibleSpace(space=space, predict_many=predict_many, budget_us=one) for one in budgets_us[:-1]]
        self._within = [*lower, self.feasible]

    def propose(self, study: optuna.Study, rng: np.random.Generator, taken: set[str]) -> Genome:
        within = self._within[int(rng.integers(len(self._within)))] if len(self._within) > 1 else self.feasible
        try:
            return within.random(rng, taken)
        except SpaceExhausted:  # a small budget runs out first
            return self.feasible.random(rng, taken)


class SweepSampler(FeasibleSampler):
    """Every genome within the budget once, in the space's order, then stops. For small (tied) spaces.

    Raises:
        InputError: the space is too large to be listed.
    """

    def __init__(self, *, space: SearchSpace, predict_many: PredictMany, budget_us: float) -> None:
        super().__init__(space=space, predict_many=predict_many, budget_us=budget_us, seed=0)
        self.feasible.listed()

    def propose(self, study: optuna.Study, rng: np.random.Generator, taken: set[str]) -> Genome:
        for genome in self.feasible.listed():
            if genome.key() not in taken:
                return genome
        raise SpaceExhausted(f"all {len(self.feasible.listed())} genomes within the budget are taken")
