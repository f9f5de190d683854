"""Reward: what a child is worth to the mutator; latency-aware and multi-objective.

The scalar has MnasNet's form, ``quality * (latency / budget) ** w`` (Tan et al. 2019, arXiv 1807.11626, equation 2),
to which the hypervolume that the child adds to the archive is added. SwiftPruner (arXiv 2209.00625) names a
"latency-aware multi-objective reward" without its formula: normalisation, weights and reference point are our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsefront.search.front import Archive, Evaluated, hypervolume


def normalise(quality: float, *, floor: float, ceiling: float) -> float:
    """Quality on the archive's own scale: 0 at its floor, 1 at its ceiling; 0.5 when both are equal.

    Ranking metrics of a whole archive differ by a few hundredths, so that a raw product would see latency only.
    """
    return 0.5 if ceiling <= floor else (quality - floor) / (ceiling - floor)


def mnas_score(quality: float, latency_us: float, *, budget_us: float, under: float, over: float) -> float:
    """``quality * (latency_us / budget_us) ** w`` with ``w = under`` within the budget and ``w = over`` beyond it.

    ``quality`` is normalised; below the archive's floor it is negative, where the factor is left out: multiplying a
    negative quality by a penalty below one would reward it.
    """
    if quality <= 0:
        return quality
    exponent = under if latency_us <= budget_us else over
    return float(quality * (latency_us / budget_us) ** exponent)


def hypervolume_improvement(
    archive: Sequence[Evaluated], quality: float, latency_us: float, *, floor: float, ceiling: float, budget_us: float
) -> float:
    """Share of the box between (floor, budget) and (ceiling, 0 us) that a point adds to the archive's front.

    The reference point is (floor, budget): a point beyond the budget, or not above the floor, adds 0.
    """
    if ceiling <= floor:
        return 0.0
    front = Archive.of(archive).front
    before = hypervolume(front.quality, front.latency_us, quality_ref=floor, latency_ref_us=budget_us)
    both = np.append(front.quality, quality), np.append(front.latency_us, latency_us)
    after = hypervolume(*both, quality_ref=floor, latency_ref_us=budget_us)
    return (after - before) / ((ceiling - floor) * budget_us)


@dataclass(frozen=True, kw_only=True)
class Reward:
    """Score gained over the parent plus hypervolume added to the archive, within -1..1.

    Attributes:
        under: exponent of latency within the budget; 0 or slightly negative.
        over: exponent of latency beyond the budget; negative.
        score_weight: weight of the gain in score over the better parent.
        hypervolume_weight: weight of the hypervolume improvement. One evaluation adds a hundredth of the box at
            most once the front stands, a good gain in score is a tenth: hence the factor.
    """

    under: float = -0.02
    over: float = -1.0
    score_weight: float = 2.0
    hypervolume_weight: float = 10.0

    def __post_init__(self) -> None:
        if self.under > 0 or self.over >= 0:
            raise ValueError(f"exponents must be under <= 0 and over < 0, got {self.under} and {self.over}")
        if self.score_weight < 0 or self.hypervolume_weight < 0:
            raise ValueError(f"weights must not be negative, got {self.score_weight} and {self.hypervolume_weight}")

    def scores(self, evaluated: Sequence[Evaluated], *, budget_us: float) -> NDArray[np.float64]:
        """(evaluated,) MnasNet score of each, on the scale of the given ones."""
        known = Archive.of(evaluated)
        floor, ceiling = quality_range(known)
        latency = known.latency_us / budget_us
        quality = np.array([normalise(one, floor=floor, ceiling=ceiling) for one in known.quality])
        return np.asarray(quality * latency ** np.where(latency <= 1, self.under, self.over), np.float64)

    def of(
        self, child: Evaluated, parents: Sequence[Evaluated], archive: Sequence[Evaluated], *, budget_us: float
    ) -> float:
        """Reward of a child of ``parents``; ``archive`` is what was evaluated before it, the parents included."""
        floor, ceiling = quality_range(archive)
        before = [self._score(one, floor=floor, ceiling=ceiling, budget_us=budget_us) for one in parents]
        gain = self._score(child, floor=floor, ceiling=ceiling, budget_us=budget_us) - max(before, default=0.0)
        added = hypervolume_improvement(
            archive, child.quality, child.latency_us, floor=floor, ceiling=ceiling, budget_us=budget_us
        )
        return float(max(-1.0, min(1.0, self.score_weight * gain + self.hypervolume_weight * added)))

    def _score(self, one: Evaluated, *, floor: float, ceiling: float, budget_us: float) -> float:
        quality = normalise(one.quality, floor=floor, ceiling=ceiling)
        return mnas_score(quality, one.latency_us, budget_us=budget_us, under=self.under, over=self.over)


def rank_reward(improvement: NDArray[np.float64]) -> NDArray[np.float64]:
    """(children,) reward of judged children by their rank: that of the best quarter falls with its logarithm, the
    others earn 0.

    CMA-ES weighs a population like this, with half instead of a quarter (Hansen 2016, arXiv 1604.00772, equation 49);
    expected improvements differ by powers of ten, so that they themselves would let one child decide.
    """
    rank = np.empty(len(improvement))
    rank[np.argsort(-improvement, kind="stable")] = np.arange(1, len(improvement) + 1)
    return np.asarray(np.maximum(0.0, np.log(len(improvement) / 4 + 0.5) - np.log(rank)), np.float64)


def quality_range(evaluated: Sequence[Evaluated]) -> tuple[float, float]:
    """Lowest and highest quality; (0, 0) of nothing."""
    if not len(evaluated):
        return 0.0, 0.0
    quality = Archive.of(evaluated).quality
    return float(quality.min()), float(quality.max())
