from __future__ import annotations

import numpy as np
import pytest
from tests.latency.synthetic import BACKBONE, LAYERS, LENGTH, synthetic_table

from sparsefront.latency.refit import refitted
from sparsefront.latency.statistic import Statistic
from sparsefront.spaces import Genome

FULL = Statistic.of_length(LENGTH)


def genomes_of(count: int, seed: int) -> list[Genome]:
    rng = np.random.default_rng(seed)
    return [
        Genome.from_columns(
            heads=rng.integers(BACKBONE.heads + 1, size=LAYERS).tolist(),
            ffn_units=rng.integers(BACKBONE.ffn_units + 1, size=LAYERS).tolist(),
            keep_percent=[*rng.choice([50, 80, 100], LAYERS - 1).tolist(), 100],
        )
        for _ in range(count)
    ]


def test_what_all_models_share_moves_every_prediction_alike() -> None:
    table = synthetic_table()
    genomes, others = genomes_of(8, 0), genomes_of(20, 1)
    found = refitted(table, genomes, 1.3 * table.predict_many(genomes), statistic=FULL)
    np.testing.assert_allclose(found.predict_many(others), 1.3 * table.predict_many(others), rtol=1e-6)


def test_components_that_are_wrong_are_set_right_for_models_that_were_not_measured() -> None:
    table = synthetic_table()
    truth = synthetic_table(calibration={"attention": 0.75, "ffn": 1.1, "last": 0.9})
    genomes, others = genomes_of(16, 0), genomes_of(40, 1)
    noise = np.exp(0.02 * np.random.default_rng(2).standard_normal(len(genomes)))
    found = refitted(table, genomes, truth.predict_many(genomes) * noise, statistic=FULL)

    def error(predicted: np.ndarray) -> float:
        return float(np.abs(predicted / truth.predict_many(others) - 1).mean())

    common = float(np.median(truth.predict_many(genomes) / table.predict_many(genomes)))
    assert error(found.predict_many(others)) < 0.03
    assert error(found.predict_many(others)) < 0.5 * error(common * table.predict_many(others))
    assert table.calibration == {}


def test_one_model_says_nothing_about_components() -> None:
    table = synthetic_table()
    genome, others = genomes_of(1, 3), genomes_of(20, 1)
    found = refitted(table, genome, 0.8 * table.predict_many(genome), statistic=FULL)
    np.testing.assert_allclose(found.predict_many(others), 0.8 * table.predict_many(others), rtol=1e-6)


@pytest.mark.parametrize("times", [[], [1.0], [1.0, 0.0], [1.0, float("nan")]])
def test_every_genome_needs_a_time(times: list[float]) -> None:
    with pytest.raises(ValueError, match="positive time"):
        refitted(synthetic_table(), genomes_of(2, 0), np.array(times), statistic=FULL)
