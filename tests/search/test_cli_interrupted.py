"""Commands that are stopped by a signal, in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tests.search.conftest import TRIES, completed, search_command, was_loud

from sparsefront.search.studies import open_study

EVALUATIONS = 60


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_search_continues(sent: signal.Signals, task_file: Path, backbone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = search_command(task_file, backbone, run, evaluations=EVALUATIONS)
    process = searching(command, run)
    if sent == signal.SIGINT:
        os.killpg(process.pid, sent)  # as a terminal does
    else:
        process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert out == "" and "Traceback" not in err
    if sent == signal.SIGINT:
        assert process.returncode == 130
        assert err.strip().splitlines()[-1].startswith("interrupted; what is finished is kept, the same command cont")
        assert str(run) in err

    before = finished_trials(run)
    assert 8 <= len(before) < EVALUATIONS and not (run / "result.json").exists()
    if sent == signal.SIGINT:
        return  # what continues is the same
    done, tries = completed(command, run)
    after = finished_trials(run)
    assert len(after) == len({genome for genome, _ in after.values()}) == EVALUATIONS
    assert {number: after.get(number) for number in before} == before
    report: dict[str, Any] = json.loads(done.stdout)
    left = EVALUATIONS - len(before)
    # a second try, because of the finalists, has none left
    assert report["search"]["evaluations"] == left or (tries > 1 and report["search"]["evaluations"] == 0)
    assert report["wall_seconds"]["teacher"] > 0.05  # told from the call that trained it


def searching(command: list[str], run: Path) -> subprocess.Popen[str]:
    """A search that has begun to evaluate; begun again where the machine was too busy to profile."""
    for _ in range(TRIES):
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
        )
        while complete_trials(run) < 8 and process.poll() is None:
            time.sleep(0.02)
        if process.poll() is None:
            return process
        _, error = process.communicate()
        assert was_loud(error, run), error
    raise AssertionError(f"the machine was too busy {TRIES} times")


def complete_trials(run: Path) -> int:
    path = run / "study.db"
    return len(finished_trials(run)) if path.exists() and b'"search"' in path.read_bytes() else 0


def finished_trials(run: Path) -> dict[int, tuple[str, float]]:
    """Number -> genome and quality."""
    trials = open_study(run / "study.db", name="search").get_trials(states=(TrialState.COMPLETE,))
    return {trial.number: (trial.user_attrs["genome"], trial.values[0]) for trial in trials}
