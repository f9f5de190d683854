"""Critic: a Gaussian process on genomes that picks which of the mutator's children is worth an evaluation.

Our own addition to reinforced evolution: an evaluation costs seconds, a prediction microseconds. It knows only what
has been told, and therefore needs no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpotrf, dpotri
from scipy.optimize import minimize
from scipy.special import ndtr

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genomes import Genomes

Floats = NDArray[np.float64]

_MOST_POINTS = 500
_FITTED_POINTS = 200
"""Hyperparameters are those of so many points at most, since a step of the fit costs the cube of their number."""
_MOST_STEPS = 40
_MORE_STEPS = 12
"""Of a fit that starts from the hyperparameters of an earlier one."""
_ROOM = 64
_NOISE = 0.01
"""Variance of the noise to start with, as a share of that of the qualities."""
_PRIOR = 2.0
"""Standard deviation of the logarithms of hyperparameters, before anything is known."""


def genome_features(
    genomes: Sequence[Genome], *, space: SearchSpace, importance: ImportanceCurves | None = None
) -> Floats:
    """(genomes, features): per layer the shares of heads, FFN units, tokens and feature heads kept, the share of
    behaviours that are read, and importance kept if known.

    Tokens are the share that has survived up to the layer: this, not the layer's own keep share, is what it sees.
    """
    widths = space.widths
    # (genomes, layers) each
    heads, ffn_units, keep_percent, feature_heads, behaviours = Genomes.of(genomes).columns.transpose(2, 0, 1)
    tokens = np.cumprod(keep_percent / 100, axis=1)
    parts = [heads / widths.heads, ffn_units / widths.ffn_units, tokens]
    parts += [feature_heads / widths.feature_heads] if widths.feature_heads else []
    parts += [behaviours[:, :1] / widths.behaviours] if widths.behaviours else []
    if importance is not None:
        columns = {"heads": heads, "ffn_units": ffn_units, "feature_heads": feature_heads}
        for field, curves in importance.kept_by_count.items():
            counts = columns[field]
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
        start: of an earlier critic, whose hyperparameters the fit starts from.
    """

    def __init__(self, features: Floats, quality: Floats, *, start: Critic | None = None) -> None:
        if len(features) == 0 or len(features) != len(quality):
            raise ValueError(f"the critic needs as many qualities as points, got {len(quality)} and {len(features)}")
        quality = np.asarray(quality, dtype=np.float64)[-_MOST_POINTS:]
        # How bad the bad ones are says nothing about the good ones, and would take the scale.
        low, middle, high = np.quantile(quality, [0.25, 0.5, 0.75])
        self._low = float(middle - max(high - low, 1e-9))
        quality = np.maximum(quality, self._low)
        self._mean, self._scale = float(quality.mean()), max(float(quality.std()), 1e-12)
        points = np.sqrt(features[-_MOST_POINTS:])
        targets = (quality - self._mean) / self._scale
        begin: Floats
        if start is None:
            begin, steps = np.append(np.zeros(points.shape[1] + 1), np.log(_NOISE)), _MOST_STEPS
        else:
            begin, steps = start._logarithms, _MORE_STEPS
        few = np.linspace(0, len(points) - 1, min(len(points), _FITTED_POINTS)).astype(np.int64)
        known = points[few], targets[few]
        found = minimize(_loss, begin, known, method="L-BFGS-B", jac=True, options={"maxiter": steps})
        self._logarithms: Floats = np.asarray(found.x, np.float64)
        self._weights = np.exp(self._logarithms[:-2])
        self._signal, self._noise = (float(one) for one in np.exp(self._logarithms[-2:]))
        kernel = self._signal * _matern(points, points, self._weights)
        kernel[np.diag_indices_from(kernel)] += self._noise
        self._count = len(points)
        self._points = np.zeros((0, points.shape[1]))
        self._factor, self._whitened = np.zeros((0, 0), order="F"), np.zeros(0)
        self._grow(len(points) + _ROOM)
        self._points[: len(points)] = points
        self._factor[: len(points), : len(points)] = np.linalg.cholesky(kernel)
        self._whitened[: len(points)] = solve_triangular(self._known_factor, targets, lower=True, check_finite=False)

    def __len__(self) -> int:
        """Points known."""
        return self._count

    def add(self, features: Floats, quality: float) -> None:
        """Another point, with features (features,)."""
        count, point = self._count, np.sqrt(features[None])
        if count == len(self._points):
            self._grow(count + _ROOM)
        cross = self._signal * _matern(point, self._points[:count], self._weights)[0]
        row = solve_triangular(self._known_factor, cross, lower=True, check_finite=False)
        corner = math.sqrt(max(self._signal + self._noise - float(row @ row), 1e-12))
        target = (max(quality, self._low) - self._mean) / self._scale
        self._whitened[count] = (target - float(row @ self._whitened[:count])) / corner
        self._factor[count, :count], self._factor[count, count] = row, corner
        self._points[count] = point[0]
        self._count += 1

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """(points,) mean and standard deviation of the noise-free quality."""
        cross = self._signal * _matern(np.sqrt(features), self._known_points, self._weights)
        solved = solve_triangular(self._known_factor, cross.T, lower=True, check_finite=False)
        variance = np.maximum(self._signal - (solved**2).sum(axis=0), 1e-12)
        mean = solved.T @ self._whitened[: self._count]
        return self._mean + self._scale * mean, self._scale * np.sqrt(variance)

    def standing(self, features: Floats) -> Floats:
        """(points,) mean of the noise-free quality in standard deviations of the qualities.

        Cheaper than :meth:`predict`, and in single precision: it is asked of every move from every base.
        """
        known = self._known_factor, self._whitened[: self._count]
        pulls = self._signal * solve_triangular(*known, lower=True, trans="T", check_finite=False)
        points, known_points, weights = (
            one.astype(np.float32) for one in (np.sqrt(features), self._known_points, self._weights)
        )
        return np.asarray(_matern(points, known_points, weights) @ pulls.astype(np.float32), np.float64)

    @property
    def _known_points(self) -> Floats:
        return self._points[: self._count]

    @property
    def _known_factor(self) -> Floats:
        return self._factor[: self._count, : self._count]

    def _grow(self, room: int) -> None:
        """Room for so many points."""
        count = self._count if len(self._whitened) else 0
        points, factor = np.zeros((room, self._points.shape[1])), np.zeros((room, room), order="F")
        whitened = np.zeros(room)
        points[:count], whitened[:count] = self._points[:count], self._whitened[:count]
        factor[:count, :count] = self._factor[:count, :count]
        self._points, self._factor, self._whitened = points, factor, whitened


def _loss(logarithms: Floats, points: Floats, targets: Floats) -> tuple[float, Floats]:
    """Negative log-posterior of the hyperparameters and its gradient.

    ``logarithms`` are those of the squared inverse length scales, of the signal's and of the noise's variance; a wide
    normal prior around the start keeps what the points do not tell.
    """
    weights, (signal, noise) = np.exp(logarithms[:-2]), np.exp(logarithms[-2:])
    decay, scaled = _decay(points, points, weights)
    shape = (1 + scaled) * decay
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


def _decay(left: Any, right: Any, weights: Any) -> tuple[Any, Any]:
    """exp(-s) and s (left, right), s being root 3 times the distance, with squared differences weighted per feature.

    In the precision of what is given. All that is large is made once and changed in place: asking for memory would take
    longer than the arithmetic.
    """
    a, b = left * np.sqrt(3 * weights), right * np.sqrt(3 * weights)
    scaled = a @ (-2 * b.T)
    scaled += (a**2).sum(1)[:, None]
    scaled += (b**2).sum(1)
    np.maximum(scaled, 0, out=scaled)
    np.sqrt(scaled, out=scaled)
    decay = np.negative(scaled)
    return np.exp(decay, out=decay), scaled


def _matern(left: Any, right: Any, weights: Any) -> Any:
    """(left, right) kernel of variance 1."""
    decay, scaled = _decay(left, right, weights)
    scaled += 1
    scaled *= decay
    return scaled


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
