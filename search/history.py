"""History: what a sampler reads from the study, each finished trial decoded once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.front import ERROR_ATTR, LINEAGE_ATTR, Archive, Evaluated, genome_of
from sparsefront.spaces import Genome, SearchSpace

_TAKEN = (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING, TrialState.FAIL)


def genome_in(trial: FrozenTrial, space: SearchSpace) -> Genome | None:
    """The genome of a trial by its attributes or its parameters, enqueued ones too; None when it has none in full.

    A trial that another objective or another space left in the study has none either.
    """
    genome = genome_of(trial)
    if genome is not None:
        return genome
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    if any(name not in params for name in space.distributions()):
        return None
    try:
        return space.from_params(params)
    except (IndexError, TypeError):
        return None


class History:
    """Finished evaluations in the order in which they finished; a memo of the study, never a second truth."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._known: dict[str, Evaluated] = {}
        self._order: list[Evaluated] = []
        self._values = np.zeros((2, 64))  # quality and latency_us of each, and room
        self._feasible: dict[float, Archive] = {}  # by budget, of what is known now
        self._seen: set[int] = set()
        self._keys: dict[int, str] = {}
        self._settled: dict[int, str] = {}  # of the complete ones, which stay complete

    def __len__(self) -> int:
        """Evaluations known."""
        return len(self._order)

    def news(self, study: optuna.Study) -> Iterator[tuple[Evaluated, dict[str, Any]]]:
        """Trials that have finished since the last call, with their lineage ({} for those without)."""
        fresh = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.number not in self._seen
        ]
        for trial in sorted(fresh, key=lambda one: (str(one.datetime_complete), one.number)):
            self._seen.add(trial.number)
            genome = genome_in(trial, self._space)
            if genome is not None and self._space.contains(genome):
                lineage: dict[str, Any] = trial.user_attrs.get(LINEAGE_ATTR, {})
                yield Evaluated(genome, trial.values[0], trial.values[1], trial.number), lineage

    def add(self, one: Evaluated) -> None:
        """Append an evaluation."""
        count = len(self._order)
        if count == self._values.shape[1]:
            self._values = np.concatenate([self._values, np.zeros_like(self._values)], axis=1)
        self._values[:, count] = one.quality, one.latency_us
        self._known[one.genome.key()] = one
        self._order.append(one)
        self._feasible.clear()

    def find(self, key: str) -> Evaluated | None:
        """The evaluation of a genome, by its key."""
        return self._known.get(key)

    def feasible(self, budget_us: float) -> Archive:
        """Those within the budget, as known now."""
        if budget_us not in self._feasible:
            quality, latency_us = self._values[:, : len(self._order)]
            self._feasible[budget_us] = Archive(list(self._order), quality, latency_us).within(budget_us)
        return self._feasible[budget_us]

    def taken(self, study: optuna.Study, *, but: int | None = None) -> set[str]:
        """Keys of the genomes that are complete, running, waiting or failed for good, except trial number ``but``."""
        found = set()
        for trial in study.get_trials(deepcopy=False, states=_TAKEN):
            if trial.number in self._settled or trial.number == but:
                continue
            if trial.state == TrialState.FAIL and ERROR_ATTR not in trial.user_attrs:
                continue  # left by a driver that was killed: asked again
            key = self._keys.get(trial.number)
            if key is None:
                genome = genome_in(trial, self._space)
                if genome is None:
                    continue
                key = self._keys[trial.number] = genome.key()
            if trial.state == TrialState.COMPLETE:
                self._settled[trial.number] = key
            found.add(key)
        return found.union(self._settled.values())
