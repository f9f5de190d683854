"""The design recovers blocks from whole graphs: a machine of known costs is timed, the table must predict it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.latency.synthetic import BACKBONE, FINGERPRINT, LENGTH, synthetic_table

from sparsefront.latency.calibrate import calibration_of
from sparsefront.latency.cost import GenomeColumns, component_costs
from sparsefront.latency.design import Design
from sparsefront.latency.table import LatencyTable
from sparsefront.spaces import Genome, SearchSpace, Widths

SPACE = SearchSpace.preset(
    "joint", widths=Widths(BACKBONE.layers, BACKBONE.heads, BACKBONE.ffn_units), ffn_granule=4, keep_percents=(50, 100)
)


def seconds_of(truth: LatencyTable, genome: Genome, length: int) -> float:
    """What the machine takes for a graph of any number of layers."""
    return float(component_costs(truth.blocks, GenomeColumns.of([genome]), length).sum())


@pytest.fixture
def truth() -> LatencyTable:
    return synthetic_table()


@pytest.fixture
def table(truth: LatencyTable) -> LatencyTable:
    design = Design(BACKBONE, (0.01, 1), (0.34, 1), (0.1, 0.35, 1), LENGTH)
    us = {point: seconds_of(truth, *point) for point in design.points}
    return LatencyTable(fingerprint=FINGERPRINT, backbone=BACKBONE, measured=design.rows(us))


def test_blocks_predict_whole_models_that_were_not_timed(truth: LatencyTable, table: LatencyTable) -> None:
    rng = np.random.default_rng(0)
    genomes = [SPACE.sample(rng) for _ in range(60)]
    for length in (7, LENGTH):
        expected = np.array([seconds_of(truth, genome, length) for genome in genomes])
        error = np.abs(table.predict_many(genomes, length_tokens=length) / expected - 1)
        assert error.mean() < 0.02 and error.max() < 0.06


def test_calibration_finds_what_the_blocks_missed(truth: LatencyTable, table: LatencyTable) -> None:
    rng = np.random.default_rng(1)
    points = [(SPACE.sample(rng), LENGTH if number % 3 else 7) for number in range(60)]
    parts = np.array(
        [component_costs(truth.blocks, GenomeColumns.of([genome]), length)[0] for genome, length in points]
    )
    factors = np.ones(parts.shape[1])
    factors[2:4] = 1.4, 0.8  # attention, FFN
    found = calibration_of(table, points, parts @ factors)
    assert (found["attention"], found["ffn"]) == pytest.approx((1.4, 0.8), rel=0.05)
