"""Critic: a Gaussian process on genomes that picks which of the mutator's children is worth an evaluation.

Our own addition to reinforced evolution: an evaluation costs seconds, a prediction microseconds. It knows only what
has been told, is refitted from it in closed form, and therefore needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.special import ndtr

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genome import FIELDS

Floats = NDArray[np.float64]
Hyper = tuple[float, float, float]

_MOST_POINTS = 500
_LINEAR = 10.0
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
    widths = space.widths
    fields = [np.array([genome.column(field) for genome in genomes]) for field in FIELDS]  # each (genomes, layers)
    heads, ffn_units, keep_percent = fields
    tokens = np.cumprod(keep_percent / 100, axis=1)
    parts = [heads / widths.heads, ffn_units / widths.ffn_units, tokens]
    if importance is not None:
        for field, counts in (("heads", heads), ("ffn_units", ffn_units)):
            curves = importance.kept_by_count[field]
            parts.append(widths.layers * np.stack([curve[counts[:, at]] for at, curve in enumerate(curves)], axis=1))
    return np.concatenate(parts, axis=1)


class Critic:
    """Posterior over quality. The kernel adds a linear part on concave features of each unit and an RBF part.

    Scale and hyperparameters are those of the points that it is made with; :meth:`add` costs a row of the
    factorisation only.

    Args:
        features: (points, features) as of :func:`genome_features`; the latest 500 are used.
        quality: (points,).
    """

    def __init__(self, features: Floats, quality: Floats) -> None:
        if len(features) == 0 or len(features) != len(quality):
            raise ValueError(f"the critic needs as many qualities as points, got {len(quality)} and {len(features)}")
        features, quality = features[-_MOST_POINTS:], np.asarray(quality, dtype=np.float64)[-_MOST_POINTS:]
        # Hopeless designs (a corner without any head) would stretch the scale until good ones look alike.
        self._low = float(
            np.quantile(quality, 0.5) - 4 * max(float(np.subtract(*np.quantile(quality, [0.75, 0.25]))), 1e-9)
        )
        quality = np.maximum(quality, self._low)
        self._mean, self._scale = float(quality.mean()), max(float(quality.std()), 1e-12)
        self._points = features
        self._concave = _concave(features)
        self._centre = self._concave.mean(axis=0)
        self._concave = self._concave - self._centre
        targets = (quality - self._mean) / self._scale
        best = -np.inf
        linear, distances = self._parts(features, self._concave)
        for one in _HYPERPARAMETERS:
            kernel = _kernel(linear, distances, one) + one[2] * np.eye(len(features))
            factor = np.linalg.cholesky(kernel)
            whitened = solve_triangular(factor, targets, lower=True, check_finite=False)
            likelihood = -0.5 * float(whitened @ whitened) - float(np.log(np.diag(factor)).sum())
            if likelihood > best:
                best, self._hyper, self._factor, self._whitened = likelihood, one, factor, whitened

    def __len__(self) -> int:
        """Points known."""
        return len(self._points)

    def add(self, features: Floats, quality: float) -> None:
        """Another point, with features (features,)."""
        count = len(self)
        concave = _concave(features[None]) - self._centre
        cross = _kernel(*self._parts(features[None], concave), self._hyper)[0]
        row = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        corner = math.sqrt(max(float(self._prior(concave)[0]) + self._hyper[2] - float(row @ row), 1e-12))
        factor = np.zeros((count + 1, count + 1))
        factor[:count, :count], factor[count, :count], factor[count, count] = self._factor, row, corner
        target = (max(quality, self._low) - self._mean) / self._scale
        self._whitened = np.append(self._whitened, (target - float(row @ self._whitened)) / corner)
        self._factor = factor
        self._points = np.concatenate([self._points, features[None]])
        self._concave = np.concatenate([self._concave, concave])

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """(points,) mean and standard deviation of the noise-free quality."""
        concave = _concave(features) - self._centre
        cross = _kernel(*self._parts(features, concave), self._hyper)
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(self._prior(concave) - (solved**2).sum(axis=0), 1e-12)
        return self._mean + self._scale * (solved.T @ self._whitened), self._scale * np.sqrt(variance)

    def _prior(self, concave: Floats) -> Floats:
        """(points,) variance before anything is known."""
        additive = self._hyper[0]
        return np.asarray(additive * (1 + (concave**2).mean(axis=1) * _LINEAR) + 1 - additive)

    def _parts(self, features: Floats, concave: Floats) -> tuple[Floats, Floats]:
        """Linear kernel on centred concave features, and mean squared distance, to the points; both (these, points)."""
        linear = 1 + (concave @ self._concave.T) / concave.shape[1] * _LINEAR
        square = (features**2).sum(1)[:, None] + (self._points**2).sum(1)[None] - 2 * features @ self._points.T
        return linear, np.maximum(square, 0) / features.shape[1]


def expected_improvement(mean: Floats, deviation: Floats, best: Floats) -> Floats:
    """Expected positive part of quality minus ``best``, for a normal posterior; all (points,)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * ndtr(z) + density))


def _concave(features: Floats) -> Floats:
    """Each share, its square root and whether it is there at all: quality saturates in width and jumps at zero."""
    return np.concatenate([features, np.sqrt(features), (features > 0).astype(np.float64)], axis=1)


def _kernel(linear: Floats, distances: Floats, hyper: Hyper) -> Floats:
    additive, length, _ = hyper
    return np.asarray(additive * linear + (1 - additive) * np.exp(-distances / (2 * length**2)))
