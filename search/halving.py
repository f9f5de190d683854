"""Halving: asynchronous successive halving (ASHA, arXiv 1810.05934) that remembers what was decided before."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler

from sparsefront.models.checkpoint import done_share
from sparsefront.search.fine_tuning import GENOME, QUALITY, RUNG, RUNG_SHARES, FineTuning

PERCENT, REDUCTION = "percent", 2


@dataclass(frozen=True)
class _Known:
    """What ASHA knows a trial by. A genome's key serves, because it is the same in the next experiment."""

    trial_id: str


class Halving(FIFOScheduler):
    """Stops a trial at a rung where it is in the worse half of its contest so far, with every contest's own ASHA.

    ASHA's state is what the fine-tunings have noted, so an experiment that begins anew after an interruption decides
    as if it were the same one. The first at a rung always goes on; whoever is best at a rung does too.

    Args:
        contests: name -> the fine-tunings that are compared. One may be in several; it is stopped when all stop it.
        under_way: genomes that are trained on; of these, rungs that are still before them are open.
    """

    def __init__(self, contests: Mapping[str, Sequence[FineTuning]], under_way: Collection[str] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._under_way = frozenset(under_way)
        self._tunings = {one.genome.key(): one for tunings in contests.values() for one in tunings}
        self._contests = {name: tuple(one.genome.key() for one in tunings) for name, tunings in contests.items()}
        self._asha = {name: self._begun(keys) for name, keys in self._contests.items()}

    def _begun(self, keys: Sequence[str]) -> Any:
        """ASHA with the rungs filled as far as they are known."""
        asha: Any = ASHAScheduler(
            time_attr=PERCENT,
            metric=QUALITY,
            mode="max",
            max_t=100,
            grace_period=_percent(RUNG_SHARES[0]),
            reduction_factor=REDUCTION,
        )
        for key in keys:
            asha.on_trial_add(None, _Known(key))
            tuning = self._tunings[key]
            passed = done_share(tuning.checkpoint) if key in self._under_way else 1.0
            for share, quality in sorted(tuning.rungs.quality.items()):
                if share <= passed:
                    asha.on_trial_result(None, _Known(key), {PERCENT: _percent(share), QUALITY: quality})
        return asha

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Mapping[str, Any]) -> str:
        """Called by Tune. A result that is not of a rung only tells how far the trial is."""
        stopped = RUNG in result and self.stops(trial.config[GENOME], result[RUNG], result[QUALITY])
        return str(TrialScheduler.STOP if stopped else TrialScheduler.CONTINUE)

    def stops(self, key: str, share: float, quality: float) -> bool:
        """Note what a genome has at a rung; whether its training ends there."""
        told = {PERCENT: _percent(share), QUALITY: quality}
        decisions = {
            name: self._asha[name].on_trial_result(None, _Known(key), told)
            for name, keys in self._contests.items()
            if key in keys
        }
        lost = tuple(name for name, decision in decisions.items() if decision == TrialScheduler.STOP)
        tuning = self._tunings[key]
        noted = tuning.rungs
        known = {share: quality, **noted.quality}
        # noted before anybody hears of it: a driver that is killed now decides the same when it is started again
        tuning.note(replace(noted, quality=known, lost=tuple(sorted({*noted.lost, *lost}))))
        return tuning.stopped_in(set(decisions)) is not None


def _percent(share: float) -> int:
    """ASHA counts in whole numbers."""
    return round(100 * share)
