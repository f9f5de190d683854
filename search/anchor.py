"""Anchoring the latency table at a budget: a few genomes of that cost are measured before anything is searched.

The table's error is not centred everywhere: at a small budget it may predict a few percent too little for all genomes
alike. A search pushes right up to its budget, so every candidate would then be measured over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from sparsefront.latency.drift import Reading, Reference
from sparsefront.latency.meter import QUIET, with_few_words
from sparsefront.latency.refit import refitted
from sparsefront.models.backbone import Backbone
from sparsefront.search.curriculum import random_shape
from sparsefront.search.measured import Anchor, Measured
from sparsefront.search.progress import Reporter
from sparsefront.search.settings import PrepareSettings
from sparsefront.search.steps import run_step
from sparsefront.spaces import Genome, SearchSpace

ANCHORS = 16
DRAWS = 4000


def anchor_at(
    folder: Path,
    measured: Measured,
    backbone: Backbone,
    space: SearchSpace,
    settings: PrepareSettings,
    *,
    budget_us: float,
    reporter: Reporter,
) -> Anchor:
    """The table refitted to measured genomes near a budget.

    All are measured beside the first of them, which stays the reference of whatever is measured for this budget. The
    dense model is measured before and after them: where the machine is slower by now, both times, than when the budget
    was compared with the dense model, that much is taken off all of them. Nothing is added where it is faster.

    Args:
        folder: where the step is kept.
        measured: the table and the dense latency.
        backbone: whose models are measured.
        space: where the genomes come from.
        settings: runtime and threads.
        budget_us: where the table has to be right.
        reporter: told about progress.
    """
    genomes = near_budget(space, measured, budget_us, seed=settings.seed)

    def build(_: Path) -> dict[str, Any]:
        serving = settings.serving()
        config = with_few_words(backbone.config)
        reference = Reference(serving.load(config.with_genome(genomes[0])), statistic=measured.statistic)
        dense = serving.load(config)
        readings: list[Reading] = []
        with reporter.step("anchoring the table at the budget") as advance:
            dense_readings = [reference.read(dense)]
            for genome in genomes:
                readings.append(reference.read(serving.load(config.with_genome(genome))))
                advance(len(readings), len(genomes))
            dense_readings.append(reference.read(dense))
        usual_us = float(np.median([one.reference_us for one in readings]))
        slower = min(one.as_usual(usual_us) for one in dense_readings) / measured.dense_us
        if slower > QUIET:
            reporter.say(
                f"other work on the machine: it is {slower - 1:.0%} slower than when the dense model was measured"
            )
            usual_us /= slower
        return {"measured_us": [one.as_usual(usual_us) for one in readings], "reference_us": usual_us}

    inputs = {"budget_us": budget_us, "genomes": [genome.key() for genome in genomes]}
    result = run_step(folder, inputs, build)
    taken_us = np.array(result["measured_us"], np.float64)
    table = refitted(measured.table, genomes, taken_us, statistic=measured.statistic)
    return Anchor(budget_us, table, reference=genomes[0], reference_us=float(result["reference_us"]))


def near_budget(space: SearchSpace, measured: Measured, budget_us: float, *, seed: int) -> list[Genome]:
    """Genomes of many shapes whose predicted latency is closest to the budget; every other one keeps all tokens."""
    rng = np.random.default_rng(seed)
    drawn = [random_shape(space, rng) for _ in range(DRAWS)]
    whole = [genome for genome in drawn if genome.keeps_all_tokens]
    pruned = [genome for genome in drawn if not genome.keeps_all_tokens]
    found: dict[Genome, None] = {}
    for group in (whole, pruned):
        unique = list(dict.fromkeys(group))
        distance = np.abs(measured.predict_roughly(unique) - budget_us) if unique else np.zeros(0)
        for index in np.argsort(distance, kind="stable")[: ANCHORS // 2]:
            found.setdefault(unique[int(index)])
    return list(found)
