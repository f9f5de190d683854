"""Learned token schedules in a run's folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sparsefront.latency.statistic import Statistic
from sparsefront.models.token_schedule import ScheduleOptions
from sparsefront.search.explore import explore
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.pool import SerialPool
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.schedules import SCHEDULES, LearnedSchedule, learn, mean_tokens, schedules_in, survivors
from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome, InputError

OPTIONS = ScheduleOptions(steps=20, tokens_per_batch=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def learned(prepared: Prepared, folder: Path) -> LearnedSchedule:
    return learn(folder, prepared, 0.8, OPTIONS, by="multiply-adds", reporter=Silent())


def test_a_schedule_is_learned_once_and_found_again(prepared: Prepared, folder: Path, learned: LearnedSchedule) -> None:
    assert learned.multiply_adds_share <= 0.8
    assert learned.genome.column("heads") == (2, 2) and learned.genome.column("ffn_units") == (64, 64)
    assert learned.genome.layers[0].keep_percent < 100 == learned.genome.layers[1].keep_percent
    assert learn(folder, prepared, 0.8, OPTIONS, by="multiply-adds", reporter=Silent()) == learned
    assert schedules_in(folder) == [learned]
    assert schedules_in(folder / "none") == []


def test_another_length_or_runtime_has_a_schedule_of_its_own_in_the_same_folder(
    prepared: Prepared, learned: LearnedSchedule, tmp_path: Path
) -> None:
    shorter = replace(prepared, measured=replace(prepared.measured, statistic=Statistic.of_length(4)))
    both = [learn(tmp_path, one, 0.8, OPTIONS, by="multiply-adds", reporter=Silent()) for one in (prepared, shorter)]
    assert both[0] == learned and both[1].predicted_us < learned.predicted_us
    assert sorted(one.predicted_us for one in schedules_in(tmp_path)) == sorted(one.predicted_us for one in both)


def test_mean_tokens_are_those_that_each_layer_sees(prepared: Prepared, learned: LearnedSchedule) -> None:
    lengths = prepared.rows["valid"].lengths
    kept = [1 + -(-(int(n) - 1) * learned.genome.layers[0].keep_percent // 100) for n in lengths]
    assert learned.tokens == pytest.approx((lengths.mean(), sum(kept) / len(kept)))
    assert mean_tokens(Genome.uniform(2, heads=1, ffn_units=1), prepared.rows["valid"]) == pytest.approx(
        (lengths.mean(), lengths.mean())
    )


def test_survivors_are_counted_and_ordered(prepared: Prepared, learned: LearnedSchedule) -> None:
    rows = prepared.rows["valid"]
    for row in (0, 5):
        every, left = survivors(prepared.supernet, rows, row, learned.genome)
        assert every == list(range(int(rows.lengths[row])))
        assert len(left) == learned.genome.lengths(len(every))[0]
        assert left[0] == 0 and left == sorted(left) and set(left) <= set(every)


def test_a_search_begins_with_what_was_learned(prepared: Prepared, tmp_path: Path, learned: LearnedSchedule) -> None:
    pool = SerialPool(Fitness(FitnessData.of(prepared.supernet, prepared.rows["valid"].stratified(60, 0), "auc")))
    budget_us = 10 * prepared.measured.dense_us
    settings = SearchSettings.check(budget_us=budget_us, space="joint", evaluations=2)
    designs = [learned.genome]
    _, found = explore(tmp_path, prepared, settings, (budget_us,), pool=pool, reporter=Silent(), designs=designs)
    keep = learned.genome.layers[0].keep_percent
    first = min(found, key=lambda one: one.number).genome
    assert first == learned.genome.replace(0, "keep_percent", keep // 10 * 10)


def test_a_damaged_schedule_is_told(folder: Path, learned: LearnedSchedule, tmp_path: Path) -> None:
    record = tmp_path / SCHEDULES / "0.5" / "step.json"
    record.parent.mkdir(parents=True)
    for result in ({}, {**vars(learned), "key": "h1"}):
        record.write_text(json.dumps({"inputs": {}, "result": result}))
        with pytest.raises(InputError, match="not a learned token schedule"):
            schedules_in(tmp_path)
