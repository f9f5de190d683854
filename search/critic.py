"""Critic: a Gaussian process on genomes that picks which of the mutator's children is worth an evaluation.

Our own addition to reinforced evolution: an evaluation costs seconds, a prediction microseconds. It knows only what
has been told, and therefore needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize
from scipy.special import ndtr

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genome import FIELDS

Floats = NDArray[np.float64]

_MOST_POINTS = 500
_MOST_STEPS = 40
_NOISE = 0.01
"""Variance of the noise to start with, as a share of that of the qualities."""
_PRIOR = 2.0
"""Standard deviation of the logarithms of hyperparameters, before anything is known."""
_ROOT3 = math.sqrt(3)


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
    """Gaussian process: posterior over quality, given the features of genomes.

    The kernel is Matern 3/2 with a length scale per feature (Rasmussen and Williams 2006, equation 4.17 and chapter 5),
    on square roots of the features, since quality saturates in width. Scale and hyperparameters are those of the points
    that it is made with; :meth:`add` costs a row of the factorisation only.

    Args:
        features: (points, features) between 0 and 1 as of :func:`genome_features`; the latest 500 are used.
        quality: (points,).
    """

    def __init__(self, features: Floats, quality: Floats) -> None:
        if len(features) == 0 or len(features) != len(quality):
            raise ValueError(f"the critic needs as many qualities as points, got {len(quality)} and {len(features)}")
        quality = np.asarray(quality, dtype=np.float64)[-_MOST_POINTS:]
        # How bad the bad ones are says nothing about the good ones, and would take the scale.
        low, middle, high = np.quantile(quality, [0.25, 0.5, 0.75])
        self._low = float(middle - max(high - low, 1e-9))
        quality = np.maximum(quality, self._low)
        self._mean, self._scale = float(quality.mean()), max(float(quality.std()), 1e-12)
        self._points = np.sqrt(features[-_MOST_POINTS:])
        targets = (quality - self._mean) / self._scale
        start = np.zeros(self._points.shape[1] + 2)
        start[-1] = np.log(_NOISE)
        found = minimize(
            _loss, start, (self._points, targets), method="L-BFGS-B", jac=True, options={"maxiter": _MOST_STEPS}
        )
        self._set(found.x)
        kernel = self._signal * _matern(_distance(self._points, self._points, self._weights))
        kernel[np.diag_indices_from(kernel)] += self._noise
        self._factor = np.linalg.cholesky(kernel)
        self._whitened = solve_triangular(self._factor, targets, lower=True, check_finite=False)

    def __len__(self) -> int:
        """Points known."""
        return len(self._points)

    def add(self, features: Floats, quality: float) -> None:
        """Another point, with features (features,)."""
        count, point = len(self), np.sqrt(features[None])
        cross = self._signal * _matern(_distance(point, self._points, self._weights))[0]
        row = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        corner = math.sqrt(max(self._signal + self._noise - float(row @ row), 1e-12))
        factor = np.zeros((count + 1, count + 1))
        factor[:count, :count], factor[count, :count], factor[count, count] = self._factor, row, corner
        target = (max(quality, self._low) - self._mean) / self._scale
        self._whitened = np.append(self._whitened, (target - float(row @ self._whitened)) / corner)
        self._factor = factor
        self._points = np.concatenate([self._points, point])

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """(points,) mean and standard deviation of the noise-free quality."""
        cross = self._signal * _matern(_distance(np.sqrt(features), self._points, self._weights))
        solved = solve_triangular(self._factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(self._signal - (solved**2).sum(axis=0), 1e-12)
        return self._mean + self._scale * (solved.T @ self._whitened), self._scale * np.sqrt(variance)

    def _set(self, logarithms: Floats) -> None:
        self._weights = np.exp(logarithms[:-2])
        self._signal, self._noise = (float(one) for one in np.exp(logarithms[-2:]))


def _loss(logarithms: Floats, points: Floats, targets: Floats) -> tuple[float, Floats]:
    """Negative log-posterior of the hyperparameters and its gradient.

    ``logarithms`` are those of the squared inverse length scales, of the signal's and of the noise's variance; a wide
    normal prior around the start keeps what the points do not tell.
    """
    weights, (signal, noise) = np.exp(logarithms[:-2]), np.exp(logarithms[-2:])
    distance = _distance(points, points, weights)
    decay = np.exp(-_ROOT3 * distance)
    shape = (1 + _ROOT3 * distance) * decay
    kernel = signal * shape
    kernel[np.diag_indices_from(kernel)] += noise + 1e-8
    factor, failed = dpotrf(kernel, lower=1)
    if failed:
        return 1e12, np.zeros_like(logarithms)
    inverse = dpotri(factor, lower=1)[0]
    inverse = np.tril(inverse) + np.tril(inverse, -1).T
    solved = inverse @ targets
    slope = 0.5 * (inverse - np.outer(solved, solved))
    pull = slope * (-1.5 * signal * decay)  # of the squared distances
    rows = pull.sum(axis=1)
    squares = 2 * (rows @ points**2 - np.einsum("ij,ij->j", points, pull @ points))
    gradient = np.append(weights * squares, [signal * float((slope * shape).sum()), noise * float(np.trace(slope))])
    away = logarithms - np.append(np.zeros(len(weights) + 1), np.log(_NOISE))
    loss = 0.5 * float(targets @ solved) + float(np.log(np.diag(factor)).sum()) + 0.5 * float(away @ away) / _PRIOR**2
    return loss, gradient + away / _PRIOR**2


def _distance(left: Floats, right: Floats, weights: Floats) -> Floats:
    """(left, right) distances with squared differences weighted per feature."""
    a, b = left * np.sqrt(weights), right * np.sqrt(weights)
    square = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.asarray(np.sqrt(np.maximum(square, 0)))


def _matern(distance: Floats) -> Floats:
    return np.asarray((1 + _ROOT3 * distance) * np.exp(-_ROOT3 * distance))


def expected_improvement(mean: Floats, deviation: Floats, best: Floats) -> Floats:
    """Expected positive part of quality minus ``best``, for a normal posterior; all (points,)."""
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(deviation * (z * ndtr(z) + density))


def expected_hypervolume(
    mean: Floats, deviation: Floats, latency_us: Floats, *, front: tuple[Floats, Floats], floor: float, limit_us: float
) -> Floats:
    """Expected area that a point adds to a front, for a normal posterior of its quality and a known latency.

    A point at latency t adds the part of its quality above the front's at every latency from t to the limit; the front
    is constant between its points, so the expectation is a sum of expected improvements.

    Args:
        mean: (points,).
        deviation: (points,).
        latency_us: (points,).
        front: (steps,) quality and (steps,) latency of the front, the cheapest first.
        floor: quality below which nothing counts.
        limit_us: latency beyond which nothing counts.
    """
    quality = np.concatenate([[floor], np.maximum(front[0], floor)])
    begin = np.concatenate([[0.0], front[1]])
    end = np.append(begin[1:], limit_us)
    width = np.clip(end - np.maximum(begin, latency_us[:, None]), 0, None)  # (points, steps)
    return np.asarray((width * expected_improvement(mean[:, None], deviation[:, None], quality)).sum(axis=1))
