"""Which genomes a step of elastic training runs: drawn by their latency, mostly from around the budgets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sparsefront.spaces import Genome, SearchSpace

PredictMany = Callable[[Sequence[Genome]], NDArray[np.float64]]


class Curriculum:
    """Draws the genomes of one training step.

    A pool of random genomes of many shapes is costed once by the latency table. Each step then takes: one genome near
    each of ``per_step - 1`` budgets drawn at random, one anywhere between the smallest budget and the dense model
    (log-uniform), and, in a share of the steps, the dense model itself.
    """

    def __init__(
        self,
        space: SearchSpace,
        predict_many: PredictMany,
        *,
        focus_us: Sequence[float],
        per_step: int = 3,
        dense_share: float = 0.15,
        pool_size: int = 20_000,
        seed: int = 0,
    ) -> None:
        if not focus_us or min(focus_us) <= 0:
            raise ValueError(f"focus_us must be positive budgets in microseconds, got {list(focus_us)}")
        rng = np.random.default_rng(seed)
        pool = list(dict.fromkeys(random_shape(space, rng) for _ in range(pool_size)))
        latency = predict_many(pool)
        order = np.argsort(latency, kind="stable")
        self.pool: list[Genome] = [pool[index] for index in order]
        self.latency_us = latency[order]
        self.dense = space.largest
        self.dense_us = float(predict_many([space.largest])[0])
        self.focus_us = tuple(focus_us)
        self.per_step = per_step
        self.dense_share = dense_share

    def __call__(self, rng: np.random.Generator) -> list[Genome]:
        """The genomes of one step."""
        lowest = 0.7 * min(self.focus_us)
        targets = [float(rng.choice(self.focus_us)) * rng.uniform(0.7, 1.1) for _ in range(self.per_step - 1)]
        # A table of a loud machine may put the dense model below what was measured of it, and below the budgets.
        low, high = sorted((lowest, self.dense_us))
        targets.append(float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        genomes = [self._near(target, rng) for target in targets]
        if rng.random() < self.dense_share:
            genomes.append(self.dense)
        return genomes

    def _near(self, target_us: float, rng: np.random.Generator) -> Genome:
        centre = int(np.searchsorted(self.latency_us, target_us))
        window = max(20, len(self.pool) // 200)
        low = max(0, min(centre - window, len(self.pool) - 2 * window))
        return self.pool[int(rng.integers(low, min(len(self.pool), low + 2 * window)))]


def random_shape(space: SearchSpace, rng: np.random.Generator) -> Genome:
    """A random genome whose fields have levels of their own.

    Independent uniform draws per layer all look alike (half the heads, half the units, hardly a token left); a search
    also visits wide-but-short, narrow-but-long and near-uniform genomes, and the supernet must have seen those.
    """
    params: dict[str, int] = {}
    spread = 0.0 if rng.random() < 0.2 else rng.uniform(0.05, 0.35)
    levels = {field: rng.random() for field in ("heads", "ffn_units", "keep_percent")}
    levels["keep_percent"] = 1.0 if rng.random() < 0.3 else rng.uniform(0.3, 1.0)
    if space.widths.feature_heads:
        levels["feature_heads"] = rng.random()
    if space.widths.behaviours:
        levels["behaviours"] = 1.0 if rng.random() < 0.5 else rng.random()
    for name, distribution in space.distributions().items():
        field = name.partition(".")[2]
        noise = 0.0 if levels[field] == 1.0 else rng.normal(0.0, spread)
        level = min(1.0, max(0.0, levels[field] + noise))
        params[name] = round(level * distribution.high)
    return space.from_params(params)
