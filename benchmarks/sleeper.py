"""A fitness that sleeps for as long as recorded evaluations took; alone in its file, since every worker imports it."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sparsefront.spaces import Genome


def sleeper(evaluations: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Callable[[Genome], dict[str, float]]:
    """In an actor: as long as one of the recorded evaluations took, drawn by the genome."""
    seconds, quality = evaluations

    def fitness(genome: Genome, bar: float | None = None) -> dict[str, float]:
        at = int(np.random.default_rng(list(genome.key().encode())).integers(len(seconds)))
        time.sleep(float(seconds[at]))
        return {"quality": float(quality[at])}

    return fitness
