from __future__ import annotations

import pickle
from typing import cast

import numpy as np
import pytest
import torch
from tests.search.conftest import Finished

from sparsefront.models.metrics import quality
from sparsefront.models.scoring import score_rows
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.prepare import Prepared
from sparsefront.spaces import Genome

SMALL = Genome.from_columns(heads=[1, 2], ffn_units=[16, 0], keep_percent=[60, 100])


@pytest.fixture(scope="module")
def fitness(prepared: Prepared) -> Fitness:
    data = FitnessData.of(prepared.supernet, prepared.rows["valid"], "auc", precision="fp32")
    return Fitness(cast(FitnessData, pickle.loads(pickle.dumps(data))))  # noqa: S301 - as it travels to a worker


def test_quality_is_that_of_the_slim_model(prepared: Prepared, fitness: Fitness) -> None:
    rows = prepared.rows["valid"]
    logits = score_rows(prepared.supernet.slim(SMALL), rows, precision="fp32")
    found = fitness(SMALL)
    assert found["quality"] == pytest.approx(quality("auc", rows.positive, rows.target, logits), abs=1e-3)
    assert found["forward_seconds"] > 0 and 0 < found["standard_error"] < 0.2


def test_an_evaluation_leaves_no_trace(fitness: Fitness) -> None:
    first = fitness(SMALL)["quality"]
    other = fitness(fitness.model.genome)["quality"]
    assert fitness(SMALL)["quality"] == first != other


def test_weights_are_copied_when_it_is_built(prepared: Prepared) -> None:
    model = prepared.supernet.slim(prepared.supernet.genome)
    fitness = Fitness(FitnessData.of(model, prepared.rows["valid"], "auc", precision="fp32"))
    before = fitness(SMALL)["quality"]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.neg_()
    assert fitness(SMALL)["quality"] == before
    assert Fitness(FitnessData.of(model, prepared.rows["valid"], "auc", precision="fp32"))(SMALL)["quality"] != before


def test_the_search_stored_what_fitness_says(prepared: Prepared, finished: Finished) -> None:
    """The actors of the finished run gave the same qualities as this process."""
    fitness = Fitness(FitnessData.of(prepared.supernet, prepared.rows["valid"], "auc"))
    rows = finished.report["front"]
    assert np.allclose(
        [fitness(Genome.parse(row["genome"]))["quality"] for row in rows], [row["quality"] for row in rows], atol=1e-6
    )
