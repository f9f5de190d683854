"""What is worth watching while a search runs."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from optuna.samplers import BaseSampler

from sparsefront.search.front import Evaluated, hypervolume
from sparsefront.search.loop import LoopReport
from sparsefront.search.sampler import ReinforcedEvolutionSampler

SECONDS = 0.5
"""Between two looks; what is shown must not slow down what is watched."""


class Watch:
    """Keeps the evaluations of a running search and puts them into a few words.

    Args:
        budgets_us: latency budgets.
        known: evaluations of earlier calls.
        sampler: whose policy is watched.
    """

    def __init__(self, budgets_us: Sequence[float], known: Iterable[Evaluated], sampler: BaseSampler) -> None:
        self._budgets_us = sorted(budgets_us)
        self._known = list(known)
        self._sampler = sampler
        self._looked = float("-inf")

    def add(self, one: Evaluated) -> None:
        """Another evaluation."""
        self._known.append(one)

    def facts(self, report: LoopReport) -> dict[str, str]:
        """Name -> value; nothing when the last look was a moment ago."""
        if time.monotonic() - self._looked < SECONDS or not self._known:
            return {}
        self._looked = time.monotonic()
        found = {"evaluations/s": f"{report.evaluations / max(report.seconds, 1e-9):.2f}"}
        for budget_us in self._budgets_us:
            within = [one.quality for one in self._known if one.latency_us <= budget_us]
            found[f"best in {budget_us:.0f} us"] = f"{max(within):.4f}" if within else "-"
        found["hypervolume"] = f"{self.hypervolume_share():.3f}"
        found["ended early"] = str(report.ended_early)
        found["duplicates avoided"] = str(report.duplicates_avoided)
        if report.failed:
            found["failed"] = str(report.failed)
        if isinstance(self._sampler, ReinforcedEvolutionSampler):
            found["policy entropy"] = f"{self._sampler.mutator.entropy_share:.2f}"
        return found

    def hypervolume_share(self) -> float:
        """Of the box between the worst quality at the largest budget and the best one at no time."""
        quality = [one.quality for one in self._known]
        floor, budget_us = min(quality), self._budgets_us[-1]
        box = (max(quality) - floor) * budget_us
        latency_us = [one.latency_us for one in self._known]
        area = hypervolume(quality, latency_us, quality_ref=floor, latency_ref_us=budget_us)
        return area / box if box > 0 else 0.0
