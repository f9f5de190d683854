from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.search.conftest import Finished

from sparsefront.search.anchor import ANCHORS, anchored, near_budget
from sparsefront.search.explore import space_of
from sparsefront.search.progress import Silent
from sparsefront.search.run import Run
from sparsefront.search.steps import read_record, write_json


@pytest.fixture
def run(finished: Finished) -> Run:
    return Run.reopen(finished.folder)


def test_anchors_lie_near_the_budget_with_and_without_pruning(run: Run) -> None:
    measured = run.measure()
    space = space_of(run.backbone.widths, run.settings)
    budget_us = 0.6 * measured.dense_us
    genomes = near_budget(space, measured, budget_us, seed=0)
    assert len(set(genomes)) == len(genomes) == ANCHORS
    assert all(space.contains(genome) for genome in genomes)
    pruned = [min(genome.column("keep_percent")) < 100 for genome in genomes]
    assert sum(pruned) == ANCHORS // 2
    predicted = measured.table.predict_many(genomes)
    everywhere = np.abs(measured.table.predict_many([space.smallest, space.largest]) - budget_us)
    assert np.abs(predicted - budget_us).max() < everywhere.max()


def test_predictions_are_scaled_by_the_median_ratio_and_measured_once(run: Run, tmp_path: Path) -> None:
    measured = run.measure()
    space = space_of(run.backbone.widths, run.settings)

    def again() -> float:
        return anchored(
            tmp_path / "anchor",
            measured,
            run.backbone,
            space,
            run.preparation,
            budget_us=0.6 * measured.dense_us,
            reporter=Silent(),
        ).scale

    scale = again()
    record = read_record(tmp_path / "anchor")
    assert scale == pytest.approx(float(np.median(record["result"]["ratios"]))) and scale > 0
    record["result"]["scale"] = 1.5
    write_json(tmp_path / "anchor" / "step.json", record)
    assert again() == 1.5
    genomes = [space.smallest, space.largest]
    scaled = replace(measured, scale=1.5).predict_many(genomes)
    np.testing.assert_allclose(scaled, 1.5 * measured.table.predict_many(genomes))
