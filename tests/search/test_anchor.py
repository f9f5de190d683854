from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.search.conftest import Finished

from sparsefront.search.anchor import ANCHORS, anchored, near_budget
from sparsefront.search.explore import space_of
from sparsefront.search.prepare import Measured
from sparsefront.search.progress import Silent
from sparsefront.search.run import Run
from sparsefront.search.steps import read_record, write_json
from sparsefront.spaces import Genome


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


def test_the_table_is_refitted_to_the_anchors_and_they_are_measured_once(run: Run, tmp_path: Path) -> None:
    measured = run.measure()
    space = space_of(run.backbone.widths, run.settings)
    budget_us = 0.6 * measured.dense_us

    def again() -> Measured:
        return anchored(
            tmp_path / "anchor",
            measured,
            run.backbone,
            space,
            run.preparation,
            budget_us=budget_us,
            reporter=Silent(),
        )

    first = again()
    record = read_record(tmp_path / "anchor")
    genomes = [Genome.parse(key) for key in record["inputs"]["genomes"]]
    taken = np.array(record["result"]["measured_us"])
    assert first.reference == genomes[0] and first.reference_us == record["result"]["reference_us"] > 0
    errors = [np.abs(one.predict_many(genomes) / taken - 1).mean() for one in (measured, first)]
    assert errors[1] < max(errors[0], 0.3)
    record["result"]["measured_us"] = list(1.5 * measured.table.predict_many(genomes))
    write_json(tmp_path / "anchor" / "step.json", record)
    np.testing.assert_allclose(again().predict_many(genomes), 1.5 * measured.table.predict_many(genomes), rtol=1e-3)
    np.testing.assert_allclose(again().table.predict_many(genomes), measured.table.predict_many(genomes))
