"""Critic: a Gaussian process on genomes that picks which of the mutator's children is worth an evaluation.

Our own addition to reinforced evolution: an evaluation costs seconds, a prediction microseconds. It knows only what
has been told, is refitted from it in closed form, and therefore needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace

Floats = NDArray[np.float64]
Hyper = tuple[float, float, float]

_MOST_POINTS = 500
_LINEAR = 10.0
_erf = np.vectorize(math.erf, otypes=[np.float64])
# (weight of the additive part, length of the interacting part, noise variance); the likeliest is taken
_HYPERPARAMETERS = [
    (additive, length, noise) for additive in (0.5, 0.9) for length in (0.3, 0.7) for noise in (1e-3, 1e-2, 1e-1)
]


def genome_features(
    genomes: Sequence[Genome], *, space: SearchSpace, importance: ImportanceCurves | None = None
) -> Floats:
    """(genomes, features): per layer the shares of heads, FFN units and tokens kept, and importance kept if known.

    Tokens are the share that has survived up to the layer: this, not the layer's own keep share, is what it sees.
    """
    upper = np.array([space.widths.heads, space.widths.ffn_units, 100])
    columns = np.array(
        [[(gene.heads, gene.ffn_units, gene.keep_percent) for gene in genome] for genome in genomes], dtype=np.float64
    )
    shares = columns.transpose(0, 2, 1) / upper[None, :, None]  # (genomes, fields, layers)
    shares[:, 2] = np.cumprod(shares[:, 2], axis=1)
    parts = [shares.reshape(len(genomes), -1)]
    if importance is not None:
        layers = space.widths.layers
        kept = [
            [layers * importance.kept(field, layer, genome.column(field)[layer]) for layer in range(layers)]
            for genome in genomes
            for field in ("heads", "ffn_units")
        ]
        parts.append(np.array(kept).reshape(len(genomes), -1))
    return np.concatenate(parts, axis=1)


class Critic:
    """Posterior over quality. The kernel adds a linear part on concave features of each unit and an RBF part.

    Args:
        features: (points, features) as of :func:`genome_features`; the latest 500 are used.
        quality: (points,).
        hyper: hyperparameters; the likeliest of a small grid when None (costs about ten times as much).
    """

    def __init__(self, features: Floats, quality: Floats, *, hyper: Hyper | None = None) -> None:
        if len(features) == 0 or len(features) != len(quality):
            raise ValueError(f"the critic needs as many qualities as points, got {len(quality)} and {len(features)}")
        features, quality = features[-_MOST_POINTS:], np.asarray(quality, dtype=np.float64)[-_MOST_POINTS:]
        # Hopeless designs (a corner without any head) would stretch the scale until good ones look alike.
        low = float(np.quantile(quality, 0.5) - 4 * max(float(np.subtract(*np.quantile(quality, [0.75, 0.25]))), 1e-9))
        quality = np.maximum(quality, low)
        self._mean, self._scale = float(quality.mean()), max(float(quality.std()), 1e-12)
        self._points = features
        self._centre = _concave(features).mean(axis=0)
        targets = (quality - self._mean) / self._scale
        best = -np.inf
        linear, distances = self._parts(features, features)
        for one in _HYPERPARAMETERS if hyper is None else (hyper,):
            kernel = _kernel(linear, distances, one) + one[2] * np.eye(len(features))
            factor = np.linalg.cholesky(kernel)
            whitened = np.linalg.solve(factor, targets)
            likelihood = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum())
            if likelihood > best:
                best, self.hyper, self._factor, self._whitened = likelihood, one, factor, whitened

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """(points,) mean and standard deviation of the noise-free quality."""
        cross = _kernel(*self._parts(features, self._points), self.hyper)
        solved = np.linalg.solve(self._factor, cross.T)
        concave = _concave(features) - self._centre
        prior = self.hyper[0] * (1 + (concave**2).mean(axis=1) * _LINEAR) + 1 - self.hyper[0]
        variance = np.maximum(prior - (solved**2).sum(axis=0), 1e-12)
        return self._mean + self._scale * (solved.T @ self._whitened), self._scale * np.sqrt(variance)

    def _parts(self, left: Floats, right: Floats) -> tuple[Floats, Floats]:
        """Linear kernel on centred concave features, and mean squared distance; both (left, right)."""
        a, b = _concave(left) - self._centre, _concave(right) - self._centre
        linear = 1 + (a @ b.T) / a.shape[1] * _LINEAR
        square = (left**2).sum(1)[:, None] + (right**2).sum(1)[None] - 2 * left @ right.T
        return linear, np.maximum(square, 0) / left.shape[1]


def expected_improvement(mean: Floats, deviation: Floats, best: Floats) -> Floats:
    """Expected positive part of quality minus ``best``, for a normal posterior; all (points,)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * 0.5 * (1 + _erf(z / np.sqrt(2))) + density))


def _concave(features: Floats) -> Floats:
    """Each share, its square root and whether it is there at all: quality saturates in width and jumps at zero."""
    return np.concatenate([features, np.sqrt(features), (features > 0).astype(np.float64)], axis=1)


def _kernel(linear: Floats, distances: Floats, hyper: Hyper) -> Floats:
    additive, length, _ = hyper
    return np.asarray(additive * linear + (1 - additive) * np.exp(-distances / (2 * length**2)))
