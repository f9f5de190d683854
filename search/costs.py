"""What a run has cost, read from what is on disk, so that a continued run tells the same as an uninterrupted one."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.prepare import SUPERNET, TEACHER
from sparsefront.search.steps import step_seconds


def costs(
    prepared: Path, table: Path, finalists: Iterable[Path], search: optuna.Study, uniform: optuna.Study | None
) -> dict[str, Any]:
    """Seconds of every step, of an evaluation and in the forward pass, and this process's memory; ready for JSON.

    Args:
        prepared: folder with the steps ``teacher`` and ``supernet``.
        table: folder of the step that made the latency table.
        finalists: folders of the fine-tuned genomes.
        search: the study of the search.
        uniform: that of the uniform sweep.
    """
    trials = search.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    busy = busy_seconds(trials)
    computing = sum(trial.user_attrs.get("seconds", 0.0) for trial in trials)
    forward = sum(trial.user_attrs.get("forward_seconds", 0.0) for trial in trials)
    swept = [] if uniform is None else uniform.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return {
        "wall_seconds": {
            "latency": step_seconds(table),
            "teacher": step_seconds(prepared / TEACHER),
            "supernet": step_seconds(prepared / SUPERNET),
            "search": busy,
            "uniform": busy_seconds(swept),
            "finalists": sum(step_seconds(folder) for folder in finalists),
        },
        "seconds_per_evaluation": busy / len(trials) if trials else 0.0,
        "forward_share_of_actor_time": forward / computing if computing else 0.0,
        "driver_peak_memory_mib": peak_memory_mib(),
    }


def busy_seconds(trials: Sequence[FrozenTrial]) -> float:
    """Seconds in which at least one of the finished trials was under way; pauses between two calls do not count."""
    spans = sorted(
        (trial.datetime_start.timestamp(), trial.datetime_complete.timestamp())
        for trial in trials
        if trial.datetime_start is not None and trial.datetime_complete is not None
    )
    total, reached = 0.0, float("-inf")
    for start, end in spans:
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def peak_memory_mib() -> float:
    """Largest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
