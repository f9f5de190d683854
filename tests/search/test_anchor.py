from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.search.conftest import Finished

from sparsefront.latency.cost import COMPONENTS, EXTRAS
from sparsefront.latency.table import LatencyTable
from sparsefront.search.anchor import ANCHORS, anchor_at, near_budget
from sparsefront.search.explore import space_of
from sparsefront.search.measured import Anchor, Measured
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
        anchor = anchor_at(
            tmp_path / "anchor",
            measured,
            run.backbone,
            space,
            run.preparation,
            budget_us=budget_us,
            reporter=Silent(),
        )
        return replace(measured, anchors=(anchor,))

    first = again()
    record = read_record(tmp_path / "anchor")
    genomes = [Genome.parse(key) for key in record["inputs"]["genomes"]]
    taken = np.array(record["result"]["measured_us"])
    (anchor,) = first.anchors
    assert anchor.reference == genomes[0] and anchor.reference_us == record["result"]["reference_us"] > 0
    errors = [np.abs(one.predict_many(genomes) / taken - 1).mean() for one in (measured, first)]
    assert errors[1] < max(errors[0], 0.3)
    record["result"]["measured_us"] = list(1.5 * measured.table.predict_many(genomes))
    write_json(tmp_path / "anchor" / "step.json", record)
    np.testing.assert_allclose(again().predict_many(genomes), 1.5 * measured.table.predict_many(genomes), rtol=1e-3)
    np.testing.assert_allclose(again().table.predict_many(genomes), measured.table.predict_many(genomes))


def test_a_machine_that_is_slower_by_now_does_not_make_all_models_dearer(run: Run, tmp_path: Path) -> None:
    measured = run.measure()
    space = space_of(run.backbone.widths, run.settings)
    budget_us = 0.6 * measured.dense_us

    def reference_us(dense_us: float) -> float:
        then = replace(measured, dense_us=dense_us)
        folder = tmp_path / f"{dense_us}"
        preparation, reporter = run.preparation, Silent()
        anchor_at(folder, then, run.backbone, space, preparation, budget_us=budget_us, reporter=reporter)
        return float(read_record(folder)["result"]["reference_us"])

    as_it_is = reference_us(measured.dense_us)
    assert reference_us(measured.dense_us / 100) < as_it_is / 10
    assert reference_us(measured.dense_us * 100) < as_it_is * 10


def test_between_two_budgets_the_words_of_their_tables_are_mixed(run: Run) -> None:
    measured = run.measure()
    table, dense = measured.table, run.backbone.config.genome
    space = space_of(run.backbone.widths, run.settings)
    near = near_budget(space, measured, 0.6 * measured.dense_us, seed=0)
    genomes = [space.smallest, *near, space.largest]  # those near a budget may all cost the same
    rough = measured.predict_roughly(genomes)
    low_us, high_us = float(rough.min() * 0.999), float(rough.max() * 1.001)

    def times(factor: float) -> LatencyTable:
        names = {*COMPONENTS, *EXTRAS}
        ones = dict.fromkeys(COMPONENTS, 1.0) | dict.fromkeys(EXTRAS, 0.0) | dict(table.calibration)
        return replace(table, calibration={name: factor * ones[name] for name in names})

    both = replace(
        measured,
        anchors=(Anchor(low_us, times(1.1), dense, 1.0), Anchor(high_us, times(1.3), dense, 1.0)),
    )
    ratio = both.predict_many(genomes) / rough
    order = np.argsort(rough)
    assert (np.diff(ratio[order]) >= -1e-9).all()
    assert 1.1 - 1e-6 <= ratio.min() < ratio.max() <= 1.3 + 1e-6
    only = both.at(high_us)
    assert only.anchors == both.anchors[1:]
    np.testing.assert_allclose(only.predict_many(genomes) / rough, 1.3)
