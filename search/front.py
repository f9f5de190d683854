"""What has been evaluated and which of it is not dominated: quality up, latency down."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, overload

import moocore
import numpy as np
import optuna
from numpy.typing import ArrayLike, NDArray
from optuna.trial import FrozenTrial, TrialState

from sparsefront.spaces import Genome

GENOME_ATTR = "genome"
LINEAGE_ATTR = "lineage"
ERROR_ATTR = "error"
"""Of a trial whose evaluation failed for good; its genome is not proposed again."""

_MAXIMISE = [True, False]


@dataclass(frozen=True)
class Evaluated:
    """A genome with its measured quality (higher is better), its latency and the number of its trial."""

    genome: Genome
    quality: float
    latency_us: float
    number: int


class Archive(Sequence[Evaluated]):
    """Evaluations that stay as they are, their values as arrays beside them.

    Args:
        evaluated: in any order, which is kept.
        quality: (evaluations,) theirs, where it is at hand as an array.
        latency_us: (evaluations,) likewise.
    """

    def __init__(
        self,
        evaluated: Sequence[Evaluated],
        quality: NDArray[np.float64] | None = None,
        latency_us: NDArray[np.float64] | None = None,
    ) -> None:
        self._evaluated = evaluated
        self.quality = np.array([one.quality for one in evaluated], np.float64) if quality is None else quality
        if latency_us is None:
            latency_us = np.array([one.latency_us for one in evaluated], np.float64)
        self.latency_us = latency_us

    @classmethod
    def of(cls, evaluated: Sequence[Evaluated]) -> Self:
        """Of any evaluations; itself when it is one."""
        return evaluated if isinstance(evaluated, cls) else cls(evaluated)

    def __len__(self) -> int:
        return len(self._evaluated)

    @overload
    def __getitem__(self, at: int) -> Evaluated: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Evaluated]: ...
    def __getitem__(self, at: int | slice) -> Evaluated | Sequence[Evaluated]:
        return self._evaluated[at]

    def within(self, limit_us: float) -> Archive:
        """Those of at most this latency."""
        return self._chosen(self.latency_us <= limit_us)

    @functools.cached_property
    def front(self) -> Archive:
        """The non-dominated ones, the cheapest first."""
        front = self._chosen(nondominated(self.quality, self.latency_us))
        order = np.argsort(front.latency_us, kind="stable")
        return Archive([front[at] for at in order.tolist()], front.quality[order], front.latency_us[order])

    def _chosen(self, mask: NDArray[np.bool_]) -> Archive:
        if mask.all():
            return self
        return Archive(list(itertools.compress(self._evaluated, mask)), self.quality[mask], self.latency_us[mask])


def nondominated(quality: ArrayLike, latency_us: ArrayLike) -> NDArray[np.bool_]:
    """Mask of the points that no other point beats in both objectives.

    Args:
        quality: (points,), higher is better.
        latency_us: (points,), lower is better.

    Returns:
        (points,) mask. A point with a NaN is never in it; of equal points the first one is. Empty in, empty out.
    """
    points = _points(quality, latency_us)
    mask = np.zeros(len(points), dtype=np.bool_)
    finite = ~np.isnan(points).any(axis=1)
    if finite.any():
        mask[finite] = moocore.is_nondominated(points[finite], maximise=_MAXIMISE, keep_weakly=False)
    return mask


def hypervolume(quality: ArrayLike, latency_us: ArrayLike, *, quality_ref: float, latency_ref_us: float) -> float:
    """Area between the front and the reference point (``quality_ref``, ``latency_ref_us``), in quality times us.

    Points with a NaN and points that do not beat the reference in both objectives add nothing; no points: 0.0.
    """
    points = _points(quality, latency_us)
    inside = (points[:, 0] > quality_ref) & (points[:, 1] < latency_ref_us)  # comparisons with NaN are false
    if not inside.any():
        return 0.0
    return float(moocore.hypervolume(points[inside], ref=[quality_ref, latency_ref_us], maximise=_MAXIMISE))


def genome_of(trial: FrozenTrial) -> Genome | None:
    """The genome of a trial, by its attributes; None for a trial that carries none."""
    key = trial.user_attrs.get(GENOME_ATTR)
    if key is None:
        key = trial.user_attrs.get(LINEAGE_ATTR, {}).get("genome")
    return None if key is None else Genome.parse(key)


def evaluated_of(study: optuna.Study) -> tuple[Evaluated, ...]:
    """Every finished evaluation of a study, by trial number."""
    require_directions(study)
    found = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
        genome = genome_of(trial)
        if genome is not None:
            found.append(Evaluated(genome, trial.values[0], trial.values[1], trial.number))
    return tuple(found)


def front(evaluated: Sequence[Evaluated]) -> tuple[Evaluated, ...]:
    """The non-dominated ones, the cheapest first."""
    return tuple(Archive.of(evaluated).front)


def front_of(study: optuna.Study) -> tuple[Evaluated, ...]:
    """The front of a study, the cheapest first; empty for a study without finished evaluations."""
    return front(evaluated_of(study))


def require_directions(study: optuna.Study) -> None:
    """Raise ``ValueError`` unless the study maximises quality and minimises latency, in this order."""
    wanted = [optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE]
    if list(study.directions) != wanted:
        names = [direction.name.lower() for direction in study.directions]
        raise ValueError(f"the study's directions must be ['maximize', 'minimize'] (quality, latency_us), got {names}")


def _points(quality: ArrayLike, latency_us: ArrayLike) -> NDArray[np.float64]:
    """(points, 2); raises ``ValueError`` when the two lengths differ."""
    columns = np.asarray(quality, dtype=np.float64), np.asarray(latency_us, dtype=np.float64)
    if columns[0].ndim != 1 or columns[0].shape != columns[1].shape:
        raise ValueError(
            f"quality and latency_us must be equally long lists, got {columns[0].shape}, {columns[1].shape}"
        )
    return np.stack(columns, axis=1)
