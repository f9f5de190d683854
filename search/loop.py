"""The search loop: asynchronous ask and tell between a study and a pool."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.feasible import FeasibleSpace, PredictMany, SpaceExhausted
from sparsefront.search.front import ERROR_ATTR, GENOME_ATTR, LINEAGE_ATTR, Evaluated, require_directions
from sparsefront.search.history import genome_in
from sparsefront.search.interrupts import held_interrupts
from sparsefront.search.pool import EvaluationPool, Finished
from sparsefront.search.trials import (
    Proposal,
    Running,
    end_trial,
    is_running,
    is_waiting,
    refuse_another_space,
    set_attrs,
    start_trial,
)
from sparsefront.spaces import Genome, InputError, RunFailed, SearchSpace

MOST_ATTEMPTS = 3
MOST_REJECTIONS = 30
MOST_ASKED = 8
"""Genomes asked together: while a sampler thinks, no worker that ends is given another."""
FEW_FAILURES = 3
"""So many genomes must have failed before their share counts."""


OVER_BUDGET = "over_budget"
"""Optuna's name for the constraint: by which share of the budget a proposal exceeds it."""


@runtime_checkable
class ProposesGenomes(Protocol):
    """A sampler that says what it wants evaluated, several at a time; any other is asked through Optuna."""

    def proposals(self, study: optuna.Study, count: int) -> Sequence[Proposal]:
        """So many genomes or fewer; none when nothing is left."""


class EvaluationFailed(RunFailed):
    """More evaluations failed than are put up with."""


class StudyFailed(RunFailed):
    """The study could not be written: no room, no permission, locked for too long."""


@dataclass(frozen=True, kw_only=True)
class LoopReport:
    """What one call of :func:`search_loop` did.

    Attributes:
        evaluations: evaluations finished by this call.
        complete: evaluations complete in the study, earlier calls included.
        seconds: wall clock of the call.
        computing_seconds: time the pool spent in the fitness, all its workers together.
        sampler_ms: time the sampler took to propose, per evaluation; workers go on meanwhile with what was asked ahead.
        overhead_ms: time the driver neither waited for the pool nor for the sampler, per evaluation.
        rejected_infeasible: proposals beyond the budget, not evaluated.
        ended_early: evaluations that the fitness ended on a part of the rows, the genome being below its bar.
        duplicates_avoided: proposals already evaluated or in flight, not evaluated again.
        failed_attempts: evaluations that ended in an error.
        failed: genomes in the study that were given up, with those of earlier calls.
        recovered: trials that an earlier driver had left running, and that were queued again.
        exhausted: whether the loop ended because nothing within the budget was left.
    """

    evaluations: int
    complete: int
    seconds: float
    computing_seconds: float
    sampler_ms: float
    overhead_ms: float
    rejected_infeasible: int
    ended_early: int
    duplicates_avoided: int
    failed_attempts: int
    failed: int
    recovered: int
    exhausted: bool

    @property
    def seconds_per_evaluation(self) -> float:
        """Wall clock per evaluation; 0 when there was none."""
        return self.seconds / self.evaluations if self.evaluations else 0.0


def search_loop(
    study: optuna.Study,
    space: SearchSpace,
    pool: EvaluationPool,
    *,
    predict_many: PredictMany,
    budget_us: float,
    evaluations: int,
    ahead: int = 0,
    early_exit: bool = False,
    most_failed_share: float = 0.2,
    on_result: Callable[[Evaluated], None] | None = None,
    on_progress: Callable[[LoopReport], None] | None = None,
) -> LoopReport:
    """Evaluate until the study holds ``evaluations`` complete trials or nothing within the budget is left.

    ``pool.capacity`` genomes are kept in flight; each result is told, and thereby stored, before another genome is
    asked. The study may have any sampler; one that :class:`ProposesGenomes` is asked for several at a time.

    A proposal beyond the budget is told PRUNED with the attribute ``reason`` and the constraint ``over_budget``, which
    Optuna's TPE learns from; a duplicate PRUNED with ``duplicate_of`` (its number). Neither is evaluated or counted.
    After 30 such proposals in a row a fresh random genome is enqueued instead.

    Trials left running by a killed driver are told FAIL and their genomes enqueued again; so are those in flight when
    this call ends early. The same call therefore continues an interrupted search. One driver per study at a time.

    An evaluation that raises is tried three times; what still fails, or returns no finite quality, is told FAIL with
    the attribute ``error``, and the search goes on without that genome.

    Args:
        study: maximises quality and minimises latency.
        space: what is searched.
        pool: evaluates genomes; the caller shuts it down.
        predict_many: genomes -> (genomes,) latency in microseconds.
        budget_us: genomes predicted slower are not evaluated.
        evaluations: complete trials in the study at the end, those of earlier calls included.
        ahead: genomes asked before there is room for them, so that no worker waits for the sampler; they know as many
            results less.
        early_exit: give the fitness a bar with each genome: the best quality known at its latency or below. A fitness
            that is sure, after some of its rows, that the genome stays below may say so and save the others.
        most_failed_share: of all evaluations may fail; counts from the third on.
        on_result: called with each result after it has been stored.
        on_progress: called after that with what this call has done so far.

    Raises:
        InputError: the study holds trials of another space, or the sampler proposes a genome that is not in this one.
        EvaluationFailed: more failed; the line holds the first genome that did, and why.
        StudyFailed: the storage refuses; every result told before is in it.
    """
    require_directions(study)
    refuse_another_space(study, space)
    feasible = FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us)
    loop = _Loop(study, feasible, pool, evaluations, ahead, early_exit, on_result, on_progress, most_failed_share)
    return loop.run()


@dataclass
class _Loop:
    study: optuna.Study
    feasible: FeasibleSpace
    pool: EvaluationPool
    wanted: int
    ahead: int
    early_exit: bool
    on_result: Callable[[Evaluated], None] | None
    on_progress: Callable[[LoopReport], None] | None
    most_failed_share: float
    numbers: dict[str, int] = field(default_factory=dict)  # genome -> its complete or running trial
    flying: dict[str, Running] = field(default_factory=dict)  # by genome
    ready: deque[Genome] = field(default_factory=deque)  # those in flight that no worker has yet
    under_way: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    start: float = 0.0
    recovered: int = 0
    before: int = 0
    complete: int = 0
    computing: float = 0.0
    waiting: float = 0.0
    sampling: float = 0.0
    rejected: int = 0
    ended_early: int = 0
    known: list[tuple[float, float]] = field(default_factory=list)  # latency_us and quality of what is complete
    duplicates: int = 0
    failed_attempts: int = 0
    errors: list[str] = field(default_factory=list)  # one line per genome that was given up
    exhausted: bool = False

    def run(self) -> LoopReport:
        self.start = time.perf_counter()
        with held_interrupts() as interrupts:  # a write is never cut in two
            self.recovered = self._recover()
            self.before = self.complete
            try:
                while True:
                    self._fill()
                    if not self.flying:
                        break
                    since = time.perf_counter()
                    with interrupts.allowed():
                        finished = self.pool.next_done()
                    self.waiting += time.perf_counter() - since
                    self.under_way -= 1
                    self._start()
                    self._finish(finished)
            except StorageInternalError as error:  # nothing more can be written; the next driver recovers
                reason = str(error.__cause__ or error).splitlines()[0]
                raise StudyFailed(
                    f"the study cannot be written: {reason}; what is evaluated is kept, the same command goes on"
                ) from error
            except BaseException:
                with suppress(StorageInternalError):
                    self._abandon()
                raise
        return self.report()

    def report(self) -> LoopReport:
        """What has been done up to now."""
        seconds, count = time.perf_counter() - self.start, self.complete - self.before
        return LoopReport(
            evaluations=count,
            complete=self.complete,
            seconds=seconds,
            computing_seconds=self.computing,
            sampler_ms=1000 * self.sampling / max(count, 1),
            overhead_ms=1000 * (seconds - self.waiting - self.sampling) / max(count, 1),
            rejected_infeasible=self.rejected,
            ended_early=self.ended_early,
            duplicates_avoided=self.duplicates,
            failed_attempts=self.failed_attempts,
            failed=len(self.errors),
            recovered=self.recovered,
            exhausted=self.exhausted,
        )

    # -- beginning and end -------------------------------------------------------------------------------------------

    def _recover(self) -> int:
        """Read what is complete; queue again what a killed driver has left running. Returns how many."""
        left = []
        for trial in self.study.get_trials(deepcopy=False):
            genome = genome_in(trial, self.feasible.space)
            if trial.state == TrialState.COMPLETE:
                self.complete += 1
                self.known.append((trial.values[1], trial.values[0]))
                if genome is not None:
                    self.numbers[genome.key()] = trial.number
            elif trial.state == TrialState.RUNNING:
                left.append((trial, genome))
            elif trial.state == TrialState.FAIL and genome is not None and ERROR_ATTR in trial.user_attrs:
                self.numbers[genome.key()] = trial.number
                self.errors.append(f"genome {genome.key()}: {trial.user_attrs[ERROR_ATTR]}")
        for trial, genome in left:
            self.study.tell(trial.number, state=TrialState.FAIL)
            if genome is not None and genome.key() not in self.numbers:
                self._enqueue(genome, trial)
        return len(left)

    def _abandon(self) -> None:
        """Leave nothing running in the study; what was in flight is the first thing asked next time."""
        for running in list(self.flying.values()):
            if is_running(self.study, running):
                self._enqueue(running.genome, end_trial(self.study, running, TrialState.FAIL))
        self.flying.clear()

    def _enqueue(self, genome: Genome, was: FrozenTrial | None = None) -> None:
        """Queue a genome; its lineage goes along, so that the policy still learns from it."""
        params = self.feasible.space.to_params(genome)
        attrs = (
            {} if was is None else {name: was.user_attrs[name] for name in (LINEAGE_ATTR,) if name in was.user_attrs}
        )
        self.study.enqueue_trial({name: params[name] for name in self.feasible.space.distributions()}, user_attrs=attrs)

    # -- one evaluation ----------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Keep the pool busy; what is asked ahead is asked several at a time."""
        while not self.exhausted and len(self.ready) <= self.ahead // 2:
            in_flight = len(self.flying)
            room = min(self.pool.capacity + self.ahead, self.wanted - self.complete) - in_flight
            if room <= 0:
                return
            asked = self._ask(min(room, MOST_ASKED))
            self.exhausted = not asked
            for running in asked:
                self.flying[running.genome.key()] = running
                self.ready.append(running.genome)
            self._start()

    def _start(self) -> None:
        """Give the workers that have room what is ready."""
        while self.ready and self.under_way < self.pool.capacity:
            genome = self.ready.popleft()
            bar = self._bar(genome) if self.early_exit else None
            if bar is None:
                self.pool.submit(genome)
            else:
                self.pool.submit(genome, bar)
            self.under_way += 1

    def _bar(self, genome: Genome) -> float | None:
        """The front's quality at the genome's latency; None where nothing is that fast."""
        limit_us = self.flying[genome.key()].latency_us
        return max((quality for latency_us, quality in self.known if latency_us <= limit_us), default=None)

    def _ask(self, room: int) -> list[Running]:
        """Up to so many trials whose genomes are new and within the budget; none when there is nothing left."""
        sampler = self.study.sampler
        for asked in range(2 * MOST_REJECTIONS):
            if asked >= MOST_REJECTIONS:  # the sampler is stuck; what has been queued before comes first
                rng = np.random.default_rng(len(self.study.get_trials(deepcopy=False)))
                try:
                    self._enqueue(self.feasible.random(rng, self.numbers))
                except SpaceExhausted:
                    return []
            if isinstance(sampler, ProposesGenomes) and not is_waiting(self.study):
                since = time.perf_counter()
                proposals = sampler.proposals(self.study, room)
                self.sampling += time.perf_counter() - since
                if not proposals:
                    return []
                self._check_inside(proposals)
                latency_us = self.feasible.predict_many([one.genome for one in proposals]).tolist()
                trials = [
                    start_trial(self.study, self.feasible.space, *one)
                    for one in zip(proposals, latency_us, strict=True)
                ]
            else:
                try:
                    trials = [self._asked()]
                except SpaceExhausted:
                    return []
            if found := [running for running in trials if self._accepted(running)]:
                return found
        return []

    def _check_inside(self, proposals: Sequence[Proposal]) -> None:
        space = self.feasible.space
        for genome, _ in proposals:
            if not space.contains(genome):
                sampler = type(self.study.sampler).__name__
                raise InputError(f"the sampler {sampler} proposed {genome}, which is not in space {space.name!r}")

    def _asked(self) -> Running:
        """What any sampler of Optuna's kind proposes, or somebody has queued."""
        space = self.feasible.space
        since = time.perf_counter()
        trial = self.study.ask(dict(space.distributions()))
        self.sampling += time.perf_counter() - since
        genome = space.from_params(trial.params)
        latency_us = float(self.feasible.predict_many([genome])[0])
        running = Running(trial.number, trial._trial_id, genome, latency_us)
        if latency_us > self.feasible.budget_us:
            trial.set_constraint(OVER_BUDGET, latency_us / self.feasible.budget_us - 1)  # for samplers that heed it
        set_attrs(self.study, running, {GENOME_ATTR: genome.key()})
        return running

    def _accepted(self, running: Running) -> bool:
        """Whether a proposal is new and within the budget; one that is not is told so and ends."""
        key, budget_us = running.genome.key(), self.feasible.budget_us
        known = self.numbers.get(key)
        if known is not None:
            self.duplicates += 1
            set_attrs(self.study, running, {"duplicate_of": known})
        elif not running.latency_us <= budget_us:
            self.rejected += 1
            reason = f"{running.latency_us:.1f} us is over the budget of {budget_us:g} us"
            set_attrs(self.study, running, {"reason": reason})
        else:
            self.numbers[key] = running.number
            return True
        end_trial(self.study, running, TrialState.PRUNED)
        return False

    def _finish(self, finished: Finished) -> None:
        """Tell a result, or try the genome again."""
        key = finished.genome.key()
        self.computing += finished.seconds
        outcome = finished.outcome
        error = _error_in(outcome)
        if isinstance(outcome, Exception) or error is not None:
            self._failed(finished.genome, str(error), passing=isinstance(outcome, Exception))
            return
        running = self.flying[key]
        metrics = {name: float(value) for name, value in outcome.items()}
        quality = metrics.pop("quality")
        set_attrs(self.study, running, {"seconds": finished.seconds, **metrics})
        end_trial(self.study, running, TrialState.COMPLETE, [quality, running.latency_us])
        del self.flying[key]
        self.complete += 1
        self.known.append((running.latency_us, quality))
        self.ended_early += metrics.get("estimate_error", 0.0) > 0
        if self.on_result is not None:
            self.on_result(Evaluated(finished.genome, quality, running.latency_us, running.number))
        if self.on_progress is not None:
            self.on_progress(self.report())

    def _failed(self, genome: Genome, error: str, *, passing: bool) -> None:
        """Try the genome again where the error may pass; else give it up, or the search if too many were."""
        key = genome.key()
        self.failed_attempts += 1
        self.attempts[key] = self.attempts.get(key, 0) + 1
        if passing and self.attempts[key] < MOST_ATTEMPTS:
            self.ready.appendleft(genome)
            self._start()
            return
        running = self.flying.pop(key)
        set_attrs(self.study, running, {ERROR_ATTR: error})
        end_trial(self.study, running, TrialState.FAIL)
        self.errors.append(f"genome {key}: {error}")
        failed = len(self.errors)
        if failed >= FEW_FAILURES and failed > self.most_failed_share * (failed + self.complete):
            raise EvaluationFailed(
                f"{failed} of {failed + self.complete} evaluations failed; the first, {self.errors[0]}"
            )


def _error_in(outcome: dict[str, float] | Exception) -> str | None:
    """Why an outcome is no result; None when it is one."""
    if isinstance(outcome, Exception):
        return f"{type(outcome).__name__}: {outcome}"
    if "quality" not in outcome:
        return f"the fitness returned no 'quality', only {sorted(outcome)}"
    if not math.isfinite(outcome["quality"]):
        return f"the fitness returned quality {outcome['quality']}, expected a finite number"
    return None
