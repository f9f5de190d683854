"""FeasibleSpace: the part of a search space whose predicted latency is within the budget."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsefront.search.axes import Axes
from sparsefront.spaces import Genome, InputError, SearchSpace

PredictMany = Callable[[Sequence[Genome]], NDArray[np.float64]]

ENUMERABLE = 100_000
"""Spaces up to this size are listed in full when random draws no longer find anything new, and sweeps list all: the
uniform space of MiniLM with features and histories has 91,000 genomes."""

_BATCH = 64
_ROUNDS = 8


class SpaceExhausted(Exception):
    """Every genome within the budget has been proposed: there is nothing left to evaluate."""


class FeasibleSpace:
    """Draws genomes within the budget that have not been taken yet.

    Args:
        space: the whole space.
        predict_many: genomes -> (genomes,) latency in microseconds.
        budget_us: largest latency allowed. Raises :class:`InputError` when not even the smallest genome fits.
    """

    def __init__(self, *, space: SearchSpace, predict_many: PredictMany, budget_us: float) -> None:
        if not budget_us > 0:
            raise InputError(f"budget_us must be positive, got {budget_us}")
        self.space, self.predict_many, self.budget_us = space, predict_many, float(budget_us)
        self._axes = Axes(space=space, importance=None)
        self._listed: tuple[Genome, ...] | None = None
        least = float(predict_many([space.smallest])[0])
        if least > budget_us:
            raise InputError(
                f"budget_us {budget_us:g} is below the {least:.1f} us of the smallest genome {space.smallest}: "
                f"nothing fits"
            )

    def fits(self, genomes: Sequence[Genome], *, limit_us: float | None = None) -> NDArray[np.bool_]:
        """(genomes,) mask of the genomes within ``limit_us`` (the budget by default)."""
        if not genomes:
            return np.zeros(0, dtype=np.bool_)
        limit = self.budget_us if limit_us is None else limit_us
        return np.asarray(np.asarray(self.predict_many(genomes)) <= limit, dtype=np.bool_)

    def random(self, rng: np.random.Generator, taken: Collection[str] = ()) -> Genome:
        """A genome within the budget whose key is not in ``taken``.

        Uniform over the feasible genomes by rejection. When under about 1 in 500 draws is feasible, a uniform draw is
        shrunk instead: all its grid indices are scaled down together as little as the budget demands, which favours
        genomes near the budget. When that finds nothing new either, a space of up to ``ENUMERABLE`` genomes is listed
        and a remaining one drawn uniformly; a larger one is walked from taken genomes step by step.

        Raises:
            SpaceExhausted: nothing within the budget is left.
        """
        for _ in range(_ROUNDS):
            drawn = [self.space.sample(rng) for _ in range(_BATCH)]
            fitting = [genome for genome, fits in zip(drawn, self.fits(drawn), strict=True) if fits]
            fresh = [genome for genome in fitting if genome.key() not in taken]
            if fresh:
                return fresh[0]
            if fitting:  # the budget is wide enough; what is short is new genomes
                break
        for _ in range(_ROUNDS):
            shrunk = self._shrunk(self.space.sample(rng))
            if shrunk.key() not in taken:
                return shrunk
        if self.space.size <= ENUMERABLE:
            left = [genome for genome in self.listed() if genome.key() not in taken]
            if left:
                return left[int(rng.integers(len(left)))]
            raise SpaceExhausted(self._exhausted_line(len(self.listed())))
        return self._walk(rng, taken)

    def listed(self) -> tuple[Genome, ...]:
        """Every genome within the budget, smallest grid indices first; refuses spaces over ``ENUMERABLE``."""
        if self._listed is None:
            if self.space.size > ENUMERABLE:
                raise InputError(
                    f"space {self.space.name!r} has {self.space.size} genomes; at most {ENUMERABLE} can be listed"
                )
            every = list(self.space)
            self._listed = tuple(genome for genome, fits in zip(every, self.fits(every), strict=True) if fits)
        return self._listed

    def exhausted(self, taken: Collection[str]) -> bool:
        """Whether a listable space has nothing left; a larger one is never called exhausted here."""
        if self.space.size > ENUMERABLE:
            return False
        return all(genome.key() in taken for genome in self.listed())

    def largest_along(self, path: Sequence[Genome], *, limit_us: float | None = None) -> Genome | None:
        """The genome furthest along a path that is within the limit; None when none is."""
        fitting = np.flatnonzero(self.fits(path, limit_us=limit_us))
        return path[int(fitting[-1])] if len(fitting) else None

    def _shrunk(self, genome: Genome) -> Genome:
        indices = self._axes.indices(genome)
        path = [self._axes.genome(np.floor(indices * scale + 1e-9).astype(np.int64)) for scale in np.linspace(0, 1, 33)]
        return self.largest_along(path) or self.space.smallest

    def _walk(self, rng: np.random.Generator, taken: Collection[str]) -> Genome:
        """Breadth first from the smallest genome over feasible neighbours until one is new."""
        frontier, seen = [self.space.smallest], {self.space.smallest.key()}
        while frontier:
            genome = frontier.pop(int(rng.integers(len(frontier))))
            if genome.key() not in taken:
                return genome
            near = [one for one in self.space.neighbours(genome) if one.key() not in seen]
            seen.update(one.key() for one in near)
            frontier.extend(one for one, fits in zip(near, self.fits(near), strict=True) if fits)
        raise SpaceExhausted(self._exhausted_line(len(seen)))

    def _exhausted_line(self, count: int) -> str:
        return f"all genomes of space {self.space.name!r} within {self.budget_us:g} us are taken ({count} looked at)"
