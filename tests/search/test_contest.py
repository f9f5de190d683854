"""Fine-tunings side by side in Ray Tune: who wins, who is stopped, and what goes on after something was killed."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray import tune
from tests.models.test_checkpoint import Harmful
from tests.search.conftest import Finished, Notes
from tests.search.toy import BEST, LAST, MIDDLE, OPTIONS, WORST, contest, held, toy

from sparsefront.models.checkpoint import done_share
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.search import contest as contests
from sparsefront.search import tuning
from sparsefront.search.finalists import finish
from sparsefront.search.fine_tuning import TRAINING, FineTuning, Rungs, Stopped
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Advance, Silent
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.steps import step_seconds
from sparsefront.spaces import Genome, InputError, RunFailed

LONG = replace(OPTIONS, epochs=25.0, tokens_per_batch=128)


class Interrupted(Silent):
    """Somebody presses Ctrl-C once, when so much is done; keeps how far fine-tuning was whenever it was told."""

    def __init__(self, share: float) -> None:
        self.share, self.shares = share, list[float]()

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        def advance(done: int, total: int, facts: Mapping[str, str] | None = None) -> None:
            if not title.startswith("fine-tuning"):
                return
            self.shares.append(done / total)
            if self.shares[-1] > self.share:
                self.share = float("inf")
                raise KeyboardInterrupt

        yield advance


@pytest.fixture(scope="module")
def own(prepared: Prepared) -> Prepared:
    """The toy task."""
    return toy(prepared)


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """Ray with two CPUs whatever the machine has."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks Ray Tune fails."""

    def asked(*_: object, **__: object) -> None:
        raise AssertionError("Ray Tune was asked")

    monkeypatch.setattr(tuning, "tune_all", asked)


def plainly(folder: Path, own: Prepared, genome: Genome) -> CrossEncoder:
    """Trained in this process, from beginning to end."""
    finish(
        folder / FINALISTS / genome.key(),
        genome,
        own,
        OPTIONS,
        tuning=FineTuning(folder, genome),
        budget_us=1e9,
        supernet_quality=0.5,
        reporter=Silent(),
        title="plain",
    )
    return CrossEncoder.from_pretrained(folder / FINALISTS / genome.key())


def exported(folder: Path, genome: Genome) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = CrossEncoder.from_pretrained(folder / FINALISTS / genome.key()).state_dict()
    return tensors


def told_of(outcome: contests.Outcome) -> list[str]:
    """Genomes whose end is told."""
    return [*(one.genome for one in outcome.finalists), *(one.genome for one in outcome.stopped)]


def workers(within: int) -> list[psutil.Process]:
    """Processes that train, below a process."""
    found = []
    for process in psutil.Process(within).children(recursive=True):
        try:
            if "".join(process.cmdline()).startswith("ray::ImplicitFunc"):  # as Tune calls a function
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(condition: Callable[[], bool], *, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


# -- who wins --------------------------------------------------------------------------------------------------------


def test_the_winner_is_that_of_training_all_to_the_end_and_who_was_stopped_is_told(
    own: Prepared, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    genomes, notes, was_there = [WORST, MIDDLE, BEST, LAST], Notes(), ray.is_initialized()
    (outcome,) = held(tmp_path / "tuned", [contest(own, genomes)], reporter=notes)
    assert ray.is_initialized() == was_there
    captured = capfd.readouterr()
    assert captured.out == "" and "experiment" not in captured.err, "Tune is silent"

    plain = {genome: plainly(tmp_path / "plain", own, genome) for genome in genomes}
    assert outcome.finalists[0].genome == BEST.key()
    assert LAST.key() in [one.genome for one in outcome.stopped], "when it is told, two better ones have been"
    assert sorted(told_of(outcome)) == sorted(genome.key() for genome in genomes)
    for finalist in outcome.finalists:
        model = plain[Genome.parse(finalist.genome)].state_dict()
        for name, value in exported(tmp_path / "tuned", Genome.parse(finalist.genome)).items():
            torch.testing.assert_close(value, model[name], atol=2e-2, rtol=2e-2)
    for one in outcome.stopped:
        assert one.share in (0.25, 0.5) and 0.4 < one.quality < outcome.finalists[0].valid_quality
        assert not (tmp_path / "tuned" / FINALISTS / one.genome).exists()
        told = f"finalist {one.genome}: stopped after {one.share:.0%} of its fine-tuning, auc {one.quality:.4f} by then"
        assert told in notes.lines
    tuned = outcome.steps[0]
    assert tuned.parent.name == TRAINING and step_seconds(tuned) > 0
    assert [path.name for path in tuned.iterdir()] == ["step.json"], "Tune's own state is thrown away"


def test_one_at_a_time_needs_no_ray_and_an_interrupted_one_goes_on(
    own: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not ray.is_initialized()
    monkeypatch.setattr(ray, "init", None)
    genomes, notes = [WORST, MIDDLE, BEST, LAST], Interrupted(0.4)
    with pytest.raises(KeyboardInterrupt):
        held(tmp_path, [contest(own, genomes)], workers=1, reporter=notes)
    first, second = (FineTuning(tmp_path, genome) for genome in (WORST, MIDDLE))
    assert first.done and 0 < done_share(second.checkpoint) < 1 and not list(tmp_path.glob("finalists/*"))
    before, told = first.checkpoint.stat().st_mtime_ns, len(notes.shares)
    (outcome,) = held(tmp_path, [contest(own, genomes)], workers=1, reporter=notes)
    assert first.checkpoint.stat().st_mtime_ns == before
    assert notes.shares[told] >= (1 + 0.5) / 4, "one is done, and half of the next"
    assert outcome.finalists[0].genome == BEST.key() and [one.genome for one in outcome.stopped] == [LAST.key()]
    plain = plainly(tmp_path / "plain", own, MIDDLE).state_dict()
    for name, value in exported(tmp_path, MIDDLE).items():
        torch.testing.assert_close(value, plain[name], atol=1e-5, rtol=1e-5)


def test_what_fails_in_turn_is_told_and_bad_input_ends_all(own: Prepared, tmp_path: Path) -> None:
    assert not ray.is_initialized()
    wild = replace(OPTIONS, learning_rate=1e30)
    with pytest.raises(RunFailed, match=r"no fine-tuning of finalist came to its end: FloatingPointError: the"):
        held(tmp_path, [contest(own, [BEST, LAST])], wild, workers=1)
    FineTuning(tmp_path, LAST).folder.mkdir(parents=True, exist_ok=True)
    FineTuning(tmp_path, LAST).checkpoint.write_bytes(b"nothing")
    with pytest.raises(InputError, match=rf"{LAST.key()}/\S+: a damaged checkpoint"):
        held(tmp_path, [contest(own, [BEST, LAST])], workers=1)


@pytest.mark.slow
def test_contests_run_together_and_each_has_a_finalist(own: Prepared, tmp_path: Path, local_ray: None) -> None:
    searched, uniform = contest(own, [BEST, MIDDLE]), contest(own, [WORST, LAST], "best uniform")
    first, second = held(tmp_path, [searched, uniform])
    assert ray.is_initialized(), "whoever has started Ray keeps it"
    assert first.finalists[0].genome == BEST.key()
    assert sorted(told_of(second)) == sorted([WORST.key(), LAST.key()])
    assert second.finalists, "it is not compared with the searched ones, which are far better"
    assert first.steps[0] == second.steps[0]


def test_candidates_without_a_rival_need_no_tune(own: Prepared, tmp_path: Path, no_ray: None) -> None:
    first, second = held(tmp_path, [contest(own, [LAST]), contest(own, [WORST], "best uniform")])
    assert [one.genome for one in first.finalists] == [LAST.key()]
    assert [one.genome for one in second.finalists] == [WORST.key()]
    assert first.steps == [tmp_path / FINALISTS / LAST.key()]


def test_who_was_stopped_stands_in_when_nobody_else_is_measured_within_the_budget(
    own: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = [Stopped(WORST.key(), 0.25, 0.9), Stopped(LAST.key(), 0.5, 0.5), Stopped(MIDDLE.key(), 0.5, 0.6)]
    slow = {BEST.key(), MIDDLE.key()}

    def measured(*arguments: Any, **options: Any) -> Any:
        found = finish(*arguments, **options)
        return replace(found, measured_us=2e9 if found.genome in slow else 1.0)

    monkeypatch.setattr(contests, "tune", lambda *_, **__: contests.Outcome([], stopped))
    monkeypatch.setattr(contests, "finish", measured)
    notes = Notes()
    (outcome,) = held(tmp_path, [contest(own, [BEST, MIDDLE, LAST, WORST])], reporter=notes)
    assert [one.genome for one in outcome.finalists] == [LAST.key(), BEST.key(), MIDDLE.key()]
    assert [one.genome for one in outcome.stopped] == [WORST.key()], "it is not needed"
    stood_in = [line for line in notes.lines if "trained to its end" in line]
    assert [MIDDLE.key() in stood_in[0], LAST.key() in stood_in[1], len(stood_in)] == [True, True, 2]


# -- what was done is not done again ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_only_what_is_neither_done_nor_stopped_is_trained(
    own: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that was killed leaves one that is done, one that was stopped, one under way, and Tune's pickles."""
    done, stopped, under_way = (FineTuning(tmp_path, genome) for genome in (BEST, LAST, MIDDLE))

    def train(one: FineTuning, until: float) -> None:
        def reached(model: CrossEncoder, share: float) -> None:
            if share == until:
                raise KeyboardInterrupt

        with suppress(KeyboardInterrupt):
            logits = own.teacher_logits
            rows = own.rows["train"]
            one.train(own.supernet, rows, OPTIONS, teacher_logits=logits, progress=lambda *_: None, reached=reached)

    train(done, 2.0)
    train(stopped, 0.25)
    train(under_way, 0.75)
    both = contest(own, [BEST, LAST, MIDDLE])
    name = contests._digest([sorted(one.genome.key() for one in both.candidates), vars(OPTIONS)])
    done.note(Rungs({0.25: 0.9, 0.5: 0.95}))
    stopped.note(Rungs({0.25: 0.6}, (name,)))
    under_way.note(Rungs({0.25: 0.91, 0.5: 0.94}))
    before = {one.genome: one.checkpoint.stat().st_mtime_ns for one in (done, stopped, under_way)}
    inputs = {"contests": [sorted(one.genome.key() for one in both.candidates)], "options": vars(OPTIONS)}
    left = tmp_path / TRAINING / f".tuned-{contests._digest(inputs)}.partial" / "tune" / "experiment"
    left.mkdir(parents=True)
    for file in ("tuner.pkl", "experiment_state-2026-01-01_00-00-00.json", "trial.pkl", "error.pkl"):
        (left / file).write_bytes(pickle.dumps(Harmful(tmp_path / "mark")))

    asked = list[list[str]]()
    run = tune.run

    def watched(trainable: Any, *, config: dict[str, Any], **given: Any) -> Any:
        asked.append(config["genome"]["grid_search"])
        return run(trainable, config=config, **given)

    monkeypatch.setattr(tune, "run", watched)
    (outcome,) = held(tmp_path, [both])
    assert asked == [[MIDDLE.key()]]
    assert outcome.stopped == [Stopped(LAST.key(), 0.25, 0.6)]
    assert {one.genome for one in outcome.finalists} == {BEST.key(), MIDDLE.key()}
    after = {one.genome: one.checkpoint.stat().st_mtime_ns for one in (done, stopped, under_way)}
    assert [genome for genome in before if after[genome] != before[genome]] == [MIDDLE]
    assert not (tmp_path / "mark").exists() and not left.exists()
    assert held(tmp_path, [both])[0] == outcome and len(asked) == 1


@pytest.mark.slow
def test_more_finalists_later_are_compared_with_those_that_are_made(own: Prepared, tmp_path: Path) -> None:
    (before,) = held(tmp_path, [contest(own, [BEST])])
    FineTuning(tmp_path, BEST).note(Rungs({0.25: 1.1, 0.5: 1.1}))  # better than anything can be
    (after,) = held(tmp_path, [contest(own, [BEST, WORST, LAST])])
    assert after.finalists == before.finalists, "read back, not made again"
    assert {one.genome for one in after.stopped} == {WORST.key(), LAST.key()}


# -- killed ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_is_replaced_and_its_training_goes_on(
    own: Prepared, tmp_path: Path, local_ray: None
) -> None:
    under_way, killed, seen = FineTuning(tmp_path, BEST), list[int](), list[float]()
    over = threading.Event()

    def kill_once() -> None:
        while not over.wait(0.05):
            seen.append(done_share(under_way.checkpoint))
            if not killed and seen[-1] > 0:
                for process in workers(os.getpid()):
                    process.kill()
                    killed.append(process.pid)

    killer = threading.Thread(target=kill_once)
    killer.start()
    try:
        found = held(tmp_path, [contest(own, [BEST, LAST])], LONG, workers=1)
    finally:
        over.set()
        killer.join()
    assert killed and seen == sorted(seen), "it never falls back behind its checkpoint"
    assert found[0].finalists[0].genome == BEST.key() and found[0].failed == {}
    (whole,) = held(tmp_path / "whole", [contest(own, [BEST])], LONG)
    for name, value in exported(tmp_path, BEST).items():
        torch.testing.assert_close(value, exported(tmp_path / "whole", BEST)[name], atol=2e-2, rtol=2e-2)
    assert whole.finalists[0].valid_quality == pytest.approx(found[0].finalists[0].valid_quality, abs=0.01)


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_what_the_next_one_goes_on_from(
    own: Prepared, finished: Finished, tmp_path: Path
) -> None:
    under_way = [FineTuning(tmp_path, genome) for genome in (BEST, MIDDLE)]
    command = [sys.executable, "-m", "tests.search.toy", str(finished.folder), str(tmp_path), str(LONG.epochs)]
    driver = subprocess.Popen(command, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        wait_for(lambda: all(done_share(one.checkpoint) > 0 for one in under_way) or driver.poll() is not None)
        training = workers(driver.pid)
    finally:
        driver.kill()
    driver.wait()
    psutil.wait_procs(training, timeout=60)  # they see that the driver is gone
    shares = [done_share(one.checkpoint) for one in under_way]
    assert min(shares) > 0 and not list(tmp_path.glob("finalists/*"))
    seen = list[list[float]]()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            seen.append([done_share(one.checkpoint) for one in under_way])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        (outcome,) = held(tmp_path, [contest(own, [BEST, MIDDLE])], replace(OPTIONS, epochs=LONG.epochs))
    finally:
        over.set()
        watcher.join()
    for number, share in enumerate(shares):
        column = [one[number] for one in seen]
        assert column[0] == share and column == sorted(column)
    assert outcome.finalists[0].genome == BEST.key()


# -- what cannot be --------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_before_anything_is_started(
    own: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tune, "run", None)
    damaged = FineTuning(tmp_path, LAST)
    damaged.folder.mkdir(parents=True)
    damaged.checkpoint.write_bytes(pickle.dumps(Harmful(tmp_path / "mark")))
    with pytest.raises(InputError, match=rf"{LAST.key()}/\S+: a damaged checkpoint: .*; remove it to train anew"):
        held(tmp_path, [contest(own, [BEST, LAST])])
    assert not (tmp_path / "mark").exists()


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_told_by_the_worker(own: Prepared, tmp_path: Path, local_ray: None) -> None:
    other = FineTuning(tmp_path, LAST)

    def interrupted(model: CrossEncoder, share: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        other.train(
            own.supernet,
            own.rows["train"],
            replace(OPTIONS, seed=5),
            teacher_logits=own.teacher_logits,
            progress=lambda *_: None,
            reached=interrupted,
        )
    with pytest.raises(InputError, match=r"a checkpoint of another training: options\.seed was 5, asked 0"):
        held(tmp_path, [contest(own, [BEST, LAST])])


def test_no_free_cpu_is_told_where_tune_would_wait_for_ever(
    own: Prepared, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "_RELEASE_SECONDS", 0.5)

    class Idle:
        def ready(self) -> bool:
            return True

    remote: Any = ray.remote(Idle)
    idle = remote.options(num_cpus=2).remote()
    assert ray.get(idle.ready.remote())
    try:
        with pytest.raises(InputError, match="needs a CPU, but all 2 that Ray has are taken by other actors or tasks"):
            held(tmp_path, [contest(own, [BEST, LAST])])
    finally:
        ray.kill(idle)


def test_a_machine_without_the_run_folder_is_told(
    own: Prepared, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "write_driver", lambda run, driver: None)
    with pytest.raises(InputError, match=r"machine \S+ of the cluster does not see this run folder; choose an --out"):
        held(tmp_path, [contest(own, [BEST, LAST])], workers=1)


def test_when_all_fail_the_first_reason_is_told_also_in_a_run_folder_with_a_relative_path(
    own: Prepared, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wild = replace(OPTIONS, learning_rate=1e30)
    with pytest.raises(RunFailed, match=r"no fine-tuning of finalist came to its end: FloatingPointError: the"):
        held(Path("."), [contest(own, [BEST, LAST])], wild, workers=1)
    assert not list(tmp_path.glob("finalists/*")) and not list((tmp_path / TRAINING).glob("tuned-*"))


@pytest.mark.slow
def test_one_that_dies_too_often_is_left_out_and_told(
    own: Prepared, tmp_path: Path, local_ray: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "MOST_DEATHS", 1)
    under_way, over, notes = FineTuning(tmp_path, BEST), threading.Event(), Notes()

    def kill() -> None:
        while not over.wait(0.05) and done_share(under_way.checkpoint) == 0:
            pass
        for process in workers(os.getpid()):
            process.send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        (outcome,) = held(tmp_path, [contest(own, [BEST, LAST])], LONG, workers=1, reporter=notes)
    finally:
        over.set()
        killer.join()
    assert list(outcome.failed) == [BEST.key()] and [one.genome for one in outcome.finalists] == [LAST.key()]
    assert any("fine-tuning failed: its worker died 1 times" in line for line in notes.lines)


# -- processors ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "trials", "threads"),
    [
        ({"cpus": 2, "trials": 4}, 2, 1),
        ({"cpus": 2, "trials": 1}, 1, 2),
        ({"cpus": 1, "trials": 4}, 1, 1),
        ({"cpus": 16, "trials": 4}, 4, 4),
        ({"cpus": 16, "trials": 5}, 5, 3),
        ({"cpus": 16, "trials": 4, "most": 2}, 2, 8),
        ({"cpus": 16, "trials": 2, "per_machine": 4}, 2, 4),
    ],
)
def test_processors_are_shared_out(given: dict[str, int], trials: int, threads: int) -> None:
    assert tuning.Share.of(**given) == tuning.Share(trials, threads)
