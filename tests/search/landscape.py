"""A toy landscape: layers differ in how much their heads, FFN units and tokens matter, and saturate."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace, Widths


class Landscape:
    """Quality and latency in closed form. With equal curves in all layers a uniform genome would be best."""

    def __init__(self, *, preset: str = "joint", layers: int = 4, seed: int = 0, budget: float = 0.4) -> None:
        self.space = SearchSpace.preset(preset, widths=Widths(layers, 4, 1024), keep_percents=(50, 75, 100))
        rng = np.random.default_rng(seed)
        self.weights = rng.lognormal(0, 1, (3, layers))
        self.weights /= self.weights.sum(axis=1, keepdims=True)
        self.budget_us = budget * float(self.predict_many([self.space.largest])[0])

    @property
    def importance(self) -> ImportanceCurves:
        decay = {"heads": np.exp(-np.arange(4.0)), "ffn_units": np.exp(-np.arange(1024.0) / 256)}
        return ImportanceCurves(
            heads=[weight * decay["heads"] for weight in self.weights[0]],
            ffn_units=[weight * decay["ffn_units"] for weight in self.weights[1]],
        )

    def predict_many(self, genomes: Sequence[Genome]) -> NDArray[np.float64]:
        heads, ffn, tokens = self._shares(genomes)
        entering = np.concatenate([np.ones((len(genomes), 1)), tokens[:, :-1]], axis=1)
        return np.asarray(20 + 100 * (heads * entering).sum(axis=1) + 200 * (ffn * tokens).sum(axis=1))

    def quality(self, genome: Genome) -> float:
        shares = self._shares([genome])
        gained = sum(
            float((weight * (1 - np.exp(-4 * share[0]))).sum())
            for weight, share in zip(self.weights, shares, strict=True)
        )
        return 0.6 + 0.1 * gained

    def fitness(self, genome: Genome) -> dict[str, float]:
        return {"quality": self.quality(genome), "rows": 10.0}

    def _shares(self, genomes: Sequence[Genome]) -> tuple[NDArray[np.float64], ...]:
        heads = np.array([genome.column("heads") for genome in genomes]) / 4
        ffn = np.array([genome.column("ffn_units") for genome in genomes]) / 1024
        keeps = np.array([genome.column("keep_percent") for genome in genomes]) / 100
        return heads, ffn, np.asarray(np.cumprod(keeps, axis=1), dtype=np.float64)
