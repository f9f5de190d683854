"""Judge: what a proposal is for, and how much each child promises for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sparsefront.search.critic import (
    Critic,
    Floats,
    expected_hypervolume,
    expected_improvement,
    genome_features,
)
from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.front import Archive, Evaluated
from sparsefront.spaces import Genome, SearchSpace

FIRST_FIT = 20
"""Evaluations that the critic needs at least."""
_MOST_ADDED = 125


class Aim(NamedTuple):
    """What a proposal is for: the best within the budget, or the front below it.

    Attributes:
        budget_us: one of the budgets.
        target_us: no child may be slower; below the budget where the front is the aim.
    """

    budget_us: float
    target_us: float

    @property
    def focused(self) -> bool:
        """Whether only the best within the budget counts."""
        return self.target_us == self.budget_us


class Judge:
    """Keeps a critic that knows the evaluations, and asks it.

    Args:
        space: of the genomes.
        importance: Fisher importance per unit, if known.
        first: evaluations before which it has no opinion.
    """

    def __init__(self, *, space: SearchSpace, importance: ImportanceCurves | None, first: int) -> None:
        self._space, self._importance, self._first = space, importance, first
        self._known: tuple[int, int, Critic] | None = None  # evaluations that it was fitted on, that it knows, critic

    def knows_enough(self, archive: Sequence[Evaluated]) -> bool:
        """Whether its opinion is worth anything."""
        return len(archive) >= self._first

    def improvement(
        self, genomes: Sequence[Genome], latency_us: Floats, archive: Sequence[Evaluated], aim: Aim
    ) -> Floats:
        """(genomes,) expected improvement of the best within the budget, or of the front."""
        mean, deviation = self.critic(archive).predict(self._features(genomes))
        inside = Archive.of(archive).within(aim.budget_us)
        if aim.focused:
            return expected_improvement(mean, deviation, np.full(len(mean), inside.quality.max()))
        known, floor = (inside.front.quality, inside.front.latency_us), float(inside.quality.min())
        return expected_hypervolume(mean, deviation, latency_us, front=known, floor=floor, limit_us=aim.budget_us)

    def standing(self, genomes: Sequence[Genome], archive: Sequence[Evaluated]) -> Floats:
        """(genomes,) expected quality, in standard deviations of what is known."""
        return self.critic(archive).standing(self._features(genomes))

    def critic(self, archive: Sequence[Evaluated]) -> Critic:
        """The critic that knows the archive: fitted now and then, the latest evaluations added.

        A resumed search has the same one: each fit starts from the one before it, and the first ones are made again.
        """
        for fitted in _fits(len(archive)):
            if self._known is None or self._known[0] < fitted:
                known = archive[:fitted]
                features = self._features([one.genome for one in known])
                start = None if self._known is None else self._known[2]
                self._known = fitted, fitted, Critic(features, np.array([one.quality for one in known]), start=start)
        if self._known is None:
            raise ValueError(f"the critic needs at least {FIRST_FIT} evaluations, got {len(archive)}")
        fitted, judged, critic = self._known
        if judged < len(archive):
            new = archive[judged:]
            features = self._features([one.genome for one in new])
            for row, one in zip(features, new, strict=True):
                critic.add(row, one.quality)
            self._known = fitted, len(archive), critic
        return critic

    def _features(self, genomes: Sequence[Genome]) -> Floats:
        return genome_features(genomes, space=self._space, importance=self._importance)


def _fits(known: int) -> list[int]:
    """After how many evaluations, of so many, the critic's hyperparameters are fitted.

    When a quarter more is known: fitting then costs less per evaluation than asking the critic does. At the latest
    after 125 more, since what is added to a full critic makes every question dearer.
    """
    found, fitted = [], FIRST_FIT
    while fitted <= known:
        found.append(fitted)
        fitted += min(max(5, fitted // 4), _MOST_ADDED)
    return found
