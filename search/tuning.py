"""Tuning: several fine-tunings as one Ray Tune experiment, of which the poorer ones are stopped early.

Tune's own state is pickles. It is written to a folder that is thrown away and never read: what an interrupted
experiment goes on from are the fine-tunings' own files, and the next one is a new experiment to Tune.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.experiment import Trial

from sparsefront.models.training import TrainOptions
from sparsefront.search.fine_tuning import (
    BAD_INPUT,
    FAILED,
    GENOME,
    QUALITY,
    RUNG,
    SHARE,
    FineTuning,
    TrialData,
    open_tunings,
    run_trial,
    write_driver,
)
from sparsefront.search.fitness import FitnessData
from sparsefront.search.halving import Halving
from sparsefront.search.pool import cpus_in, missing_module, start_ray
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Advance
from sparsefront.spaces import InputError, RunFailed

MOST_DEATHS = 3
"""A worker that dies is replaced so often; then what kills it is taken to be the trial."""
_RELEASE_SECONDS = 5.0
_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one prints to standard output however silent it is told to be
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would take Ctrl-C for a wish to end the experiment in good order
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class Share(NamedTuple):
    """How the processors are shared out: trials at a time, threads of each."""

    trials: int
    threads: int

    @classmethod
    def of(cls, cpus: int, *, trials: int, most: int = 0, per_machine: int | None = None) -> Share:
        """As many trials at a time as there are CPUs for, or ``most``; what is left over goes into threads.

        Args:
            cpus: that are free.
            trials: in all.
            most: trials at a time; 0: no limit.
            per_machine: CPUs of the smallest machine; a trial runs on one.
        """
        at_a_time = max(1, min(trials, cpus, most or trials))
        return cls(at_a_time, max(1, min(cpus // at_a_time, per_machine or cpus)))


def tune_all(
    contests: Mapping[str, Sequence[FineTuning]],
    *,
    made: Collection[str] = (),
    run: Path,
    scratch: Path,
    prepared: Prepared,
    options: TrainOptions,
    workers: int = 0,
    address: str | None = None,
    advance: Advance,
) -> dict[str, str]:
    """Train what is neither done nor stopped, side by side; what came of it the fine-tunings know.

    Args:
        contests: name -> what is compared; those that are done take part with what is known of them.
        made: genomes that are finalists already.
        run: folder of the run; on a cluster all machines must see it.
        scratch: for Tune's own files; removed at the end.
        prepared: supernet, rows and the teacher's logits.
        options: how to train.
        workers: trials at a time (0: as many as there are CPUs for).
        address: of a running cluster; None starts Ray on this machine, or uses the one this process has started.
        advance: told how far all are, in percent of a training.

    Returns:
        Genome -> why its training failed, for those that did.

    Raises:
        InputError: no CPU is free, no cluster answers, a machine of the cluster cannot import what it should run or
            does not see the run folder, or a checkpoint is damaged or of another training.
    """
    run = run.resolve()
    every, open_ones = open_tunings(contests, made)
    if not open_ones:
        return {}
    driver = uuid.uuid4().hex
    write_driver(run, driver)
    with _ray(address):
        share = _share(len(open_ones), workers)
        data = TrialData(
            supernet=FitnessData.of(prepared.supernet, prepared.rows["valid"], prepared.task.spec.metric),
            rows=prepared.rows["train"].to_arrays(),
            teacher_logits=prepared.teacher_logits,
            options=options,
            run=str(run),
            driver=driver,
            threads=share.threads,
        )
        with _quiet():
            # not Tuner: it pickles itself, and unpickles its trials' errors
            found = tune.run(
                tune.with_parameters(run_trial, data=data),
                name="experiment",
                config={GENOME: tune.grid_search(open_ones)},
                scheduler=Halving(contests, open_ones),
                resources_per_trial={"cpu": share.threads},
                max_concurrent_trials=share.trials,
                max_failures=MOST_DEATHS - 1,
                reuse_actors=True,
                storage_path=str(scratch.resolve()),  # a relative path would be read as a URI
                raise_on_failed_trial=False,
                callbacks=[_Told(advance, already=len(every) - len(open_ones), trials=len(every))],
                verbose=0,
            )
    return _failures(found.trials)


@contextmanager
def _ray(address: str | None) -> Iterator[None]:
    """Ray, started unless this process has it already."""
    ours = not ray.is_initialized()
    if ours:
        start_ray(1, address)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()


def _share(trials: int, workers: int) -> Share:
    """How the free processors are shared out. Tune would wait for ever, and silently, for one that is taken."""
    deadline = time.monotonic() + _RELEASE_SECONDS  # a pool that was just shut down frees its CPUs a moment later
    there = int(cpus_in(ray.cluster_resources))
    while (free := int(cpus_in(ray.available_resources))) < there and time.monotonic() < deadline:
        time.sleep(0.1)
    if free < 1:
        raise InputError(f"fine-tuning needs a CPU, but all {there} that Ray has are taken by other actors or tasks")
    machines = [int(one["Resources"].get("CPU", 0)) for one in ray.nodes() if one["Alive"]]
    return Share.of(free, trials=trials, most=workers, per_machine=min((one for one in machines if one), default=None))


@contextmanager
def _quiet() -> Iterator[None]:
    """Tune without its log files, log lines and its handler of Ctrl-C."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    levels = [logger.level for logger in loggers]
    os.environ.update(_ENVIRONMENT)
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class _Told(tune.Callback):
    """Tells the reporter what Tune tells."""

    def __init__(self, advance: Advance, *, already: int, trials: int) -> None:
        self._advance: Advance | None = advance
        self._already, self._trials = already, trials
        self._shares: dict[str, float] = {}
        self._best = float("-inf")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles what it is given for another machine; there nobody is to be told."""
        return {**vars(self), "_advance": None}

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        """Called by Tune."""
        self._shares[trial.trial_id] = result.get(SHARE, 0.0)
        if RUNG in result:
            self._best = max(self._best, result[QUALITY])
        self._tell(trials)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        """Called by Tune."""
        self._shares[trial.trial_id] = 1.0
        self._tell(trials)

    def _tell(self, trials: list[Any]) -> None:
        if self._advance is None:
            return
        facts = {"training": str(sum(one.status == Trial.RUNNING for one in trials))}
        if self._best > float("-inf"):
            facts["best so far"] = f"{self._best:.4f}"
        self._advance(round(100 * (self._already + sum(self._shares.values()))), 100 * self._trials, facts)


def _failures(trials: Sequence[Any]) -> dict[str, str]:
    """Genome -> line, of the trials that failed; bad input is no matter of one trial and raises."""
    found = {}
    for trial in trials:
        told, key = trial.last_result or {}, trial.config[GENOME]
        if FAILED in told:
            if told[BAD_INPUT]:
                raise InputError(told[FAILED])
            found[key] = told[FAILED]
        elif trial.status == Trial.ERROR:
            found[key] = _why(str(trial.get_error() or ""))
        elif trial.status != Trial.TERMINATED:
            raise RunFailed(f"the fine-tuning of {key} ended as {trial.status}; the same command goes on with it")
    return found


def _why(error: str) -> str:
    """One line for what Tune says of a trial that it gave up."""
    if missing := missing_module(RuntimeError(error)):
        raise InputError(f"a machine of the cluster cannot import {missing!r}: install the same sparsefront there")
    if "died" in error:
        return f"its worker died {MOST_DEATHS} times; is there memory enough?"
    return next((line.strip() for line in reversed(error.splitlines()) if line.strip()), "no reason was told")
