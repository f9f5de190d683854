from __future__ import annotations

from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState
from tests.search.conftest import Finished

from sparsefront.search.costs import busy_seconds, peak_memory_mib
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.steps import step_seconds

START = datetime(2026, 1, 1)


def trial(begin: float, end: float) -> FrozenTrial:
    made = optuna.trial.create_trial(values=[1.0, 1.0], state=TrialState.COMPLETE)
    made.datetime_start, made.datetime_complete = START + timedelta(seconds=begin), START + timedelta(seconds=end)
    return made


def test_busy_seconds_count_overlaps_once_and_pauses_not_at_all() -> None:
    assert busy_seconds([]) == 0.0
    assert busy_seconds([trial(0, 4), trial(1, 3), trial(3, 6), trial(1000, 1002)]) == pytest.approx(8.0)
    assert busy_seconds([trial(5, 6), trial(0, 1)]) == pytest.approx(2.0)


def test_memory_is_in_mebibytes() -> None:
    assert 50 < peak_memory_mib() < 100_000


def test_the_result_tells_what_the_steps_recorded(finished: Finished) -> None:
    walls = finished.report["wall_seconds"]
    table = "latency/onnxruntime-fp32-threads1-batch1"
    for name, folder in (("latency", table), ("teacher", "teacher"), ("supernet", "supernet")):
        assert walls[name] == step_seconds(finished.folder / folder) > 0
    rows = [*finished.at["finalists"], finished.at["uniform"]]
    folders = {row["genome"]: finished.folder / FINALISTS / row["genome"] for row in rows}
    assert walls["finalists"] >= sum(step_seconds(folder) for folder in folders.values()) > 0
    assert finished.report["seconds_per_evaluation"] == pytest.approx(walls["search"] / 12)
    assert 0 < finished.report["forward_share_of_actor_time"] <= 1
    assert finished.report["driver_peak_memory_mib"] > 100
