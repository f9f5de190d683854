"""Contest: candidates for one budget that are fine-tuned alike, the poorer ones in part, to keep the best."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray

from sparsefront.models.training import TrainOptions
from sparsefront.search.finalists import Finalist, finish
from sparsefront.search.fine_tuning import TRAINING, FineTuning, Stopped, all_stopped
from sparsefront.search.front import Evaluated
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.steps import run_step
from sparsefront.spaces import RunFailed


@dataclass(frozen=True)
class Contest:
    """Candidates for one budget that are fine-tuned alike, to keep the best.

    Attributes:
        title: what they are called.
        prepared: with the latency side of that budget.
        budget_us: the budget.
        candidates: best on the supernet first.
    """

    title: str
    prepared: Prepared
    budget_us: float
    candidates: tuple[Evaluated, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of the candidates of a contest.

    Attributes:
        finalists: best on validation rows first, those measured over the budget last.
        stopped: those whose fine-tuning was stopped early, because others were better by then.
        failed: genome -> why its fine-tuning failed.
        steps: folders of the steps that this took.
    """

    finalists: list[Finalist]
    stopped: list[Stopped] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    steps: list[Path] = field(default_factory=list)


def hold(
    run: Path,
    contests: Sequence[Contest],
    options: TrainOptions,
    *,
    workers: int = 0,
    address: str | None = None,
    reporter: Reporter,
) -> list[Outcome]:
    """Fine-tune the candidates of all contests, then export, measure and score those that were not stopped.

    Where there is something to compare, fine-tunings run side by side, each contest's poorer ones only in part
    (:mod:`sparsefront.search.tuning`). What is measured is measured afterwards, with nothing beside it.
    """
    tuned = tune(run, contests, options, workers=workers, address=address, reporter=reporter)
    outcomes = []
    for contest in contests:
        keys = [one.genome.key() for one in contest.candidates]
        stopped = [one for one in tuned.stopped if one.genome in keys]
        failed = {key: line for key, line in tuned.failed.items() if key in keys}
        for one in stopped:
            reporter.say(
                f"{contest.title} {one.genome}: stopped after {one.share:.0%} of its fine-tuning, "
                f"{contest.prepared.task.spec.metric} {one.quality:.4f} by then"
            )
        for key, line in failed.items():
            reporter.say(f"{contest.title} {key}: fine-tuning failed: {line}")
        out = {*failed, *(one.genome for one in stopped)}
        left = [one for one in contest.candidates if one.genome.key() not in out]
        finalists = [
            _finished(run, contest, one, options, reporter, f"{contest.title} {number} of {len(left)}")
            for number, one in enumerate(left, 1)
        ]
        # A machine may be slower now than when it measured the candidates; who was stopped then stands in.
        waiting = sorted(stopped, key=lambda one: (one.share, one.quality))
        while waiting and not any(one.measured_us <= contest.budget_us for one in finalists):
            again = waiting.pop().genome
            reporter.say(
                f"{contest.title} {again}: trained to its end, since none so far was measured within the budget"
            )
            (candidate,) = (one for one in contest.candidates if one.genome.key() == again)
            finalists.append(_finished(run, contest, candidate, options, reporter, f"{contest.title} instead"))
        made = {one.genome for one in finalists}
        finalists.sort(key=lambda one: one.standing(contest.budget_us), reverse=True)
        steps = [*tuned.steps, *(run / FINALISTS / one.genome for one in finalists)]
        outcomes.append(Outcome(finalists, [one for one in stopped if one.genome not in made], failed, steps))
    return outcomes


def _finished(
    run: Path, contest: Contest, one: Evaluated, options: TrainOptions, reporter: Reporter, title: str
) -> Finalist:
    """One of the candidates trained to its end, exported, measured and scored."""
    return finish(
        run / FINALISTS / one.genome.key(),
        one.genome,
        contest.prepared,
        options,
        tuning=FineTuning(run, one.genome),
        budget_us=contest.budget_us,
        supernet_quality=one.quality,
        reporter=reporter,
        title=title,
    )


def tune(
    run: Path,
    contests: Sequence[Contest],
    options: TrainOptions,
    *,
    workers: int,
    address: str | None,
    reporter: Reporter,
) -> Outcome:
    """Train the candidates side by side; no finalists yet. Where none has a rival left, it is for :func:`finish`.

    One at a time on this machine needs no Ray, and none is started for it; where this process has it, it is used, as a
    worker that is killed can be replaced.

    Raises:
        RunFailed: nothing is left of a contest.
    """
    inputs: dict[str, Any] = {
        "contests": [sorted(one.genome.key() for one in contest.candidates) for contest in contests],
        "options": vars(options),
    }
    folder = run / TRAINING / f"tuned-{_digest(inputs)}"
    every = {one.genome.key(): one.genome for contest in contests for one in contest.candidates}
    made = {key for key in every if (run / FINALISTS / key).exists()}
    rivals = [sum(one.genome.key() not in made for one in contest.candidates) for contest in contests]
    if max(rivals) < 2 and not folder.exists():
        return Outcome([])
    tunings = {  # named alike for the same candidates trained alike
        _digest([keys, vars(options)]): [FineTuning(run, one.genome) for one in contest.candidates]
        for keys, contest in zip(inputs["contests"], contests, strict=True)
    }

    def build(target: Path) -> dict[str, Any]:
        from sparsefront.search.in_turn import train_in_turn  # both know Ray Tune, which takes seconds to import
        from sparsefront.search.tuning import tune_all

        scratch, prepared = target / "tune", contests[0].prepared
        with reporter.step(f"fine-tuning {len(every)} candidates") as advance:
            if workers == 1 and address is None and not ray.is_initialized():
                failed = train_in_turn(tunings, made=made, prepared=prepared, options=options, advance=advance)
            else:
                try:
                    failed = tune_all(
                        tunings,
                        made=made,
                        run=run,
                        scratch=scratch,
                        prepared=prepared,
                        options=options,
                        workers=workers,
                        address=address,
                        advance=advance,
                    )
                finally:
                    shutil.rmtree(scratch, ignore_errors=True)
        stopped = {one.genome: one for one in all_stopped(tunings)}
        for contest in contests:
            lines = [failed.get(one.genome.key()) for one in contest.candidates if one.genome.key() not in stopped]
            if all(lines):
                why = next(iter(lines), "all were stopped")
                raise RunFailed(
                    f"no fine-tuning of {contest.title} came to its end: {why}; the same command tries again"
                )
        return {"stopped": [asdict(one) for one in stopped.values()], "failed": failed}

    found = run_step(folder, inputs, build)
    return Outcome([], [Stopped(**one) for one in found["stopped"]], found["failed"], [folder])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
