"""Refitting a table's calibration where it has to be right: to whole models of about one cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import lsq_linear

from sparsefront.latency.blocks import Floats
from sparsefront.latency.cost import COMPONENTS, EXTRAS, GenomeColumns, component_costs
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.table import LatencyTable
from sparsefront.spaces import Genome

MODEL_NOISE = 0.03
COMPONENT_DOUBT = 0.2


def refitted(
    table: LatencyTable, genomes: Sequence[Genome], measured_us: Floats, *, statistic: Statistic
) -> LatencyTable:
    """The table with its components scaled so that it predicts these whole models, in the statistic asked.

    Relative least squares with a pull: all components move together by the median ratio of measured to predicted, and
    apart only as far as the models say so (a component is believed to about 20 %, a model is measured to about 3 %).

    Args:
        table: what is refitted; it stays as it is.
        genomes: about a dozen of one cost and of many shapes.
        measured_us: (genomes,) their microseconds in that statistic.
        statistic: which calls they are from, and what of their time.

    Raises:
        ValueError: no genomes, or times that are not positive.
    """
    if not len(genomes) or len(genomes) != len(measured_us) or not (np.asarray(measured_us) > 0).all():
        raise ValueError(f"every one of at least one genome needs a positive time, got {list(measured_us)}")
    predicted_us = statistic.predict_many(table, genomes)
    columns = GenomeColumns.of(genomes)
    shares = zip(statistic.weights, statistic.lengths, strict=True)
    per_token = table.backbone.per_token
    costs = np.sum(
        [share * component_costs(table.blocks, columns, length, per_token=per_token) for share, length in shares],
        axis=0,
    )
    extras = predicted_us - costs.sum(1)
    parts = np.hstack([costs, extras[:, None]]) / measured_us[:, None]
    common = float(np.median(measured_us / predicted_us))
    pull = np.eye(parts.shape[1]) * MODEL_NOISE / COMPONENT_DOUBT
    factors = lsq_linear(
        np.vstack([parts, pull]),
        np.concatenate([np.ones(len(genomes)), pull.sum(1) * common]),
        bounds=(common / 2.5, common * 2.5),
    ).x
    own = {name: table.calibration.get(name, 1.0) for name in COMPONENTS}
    own.update({name: table.calibration.get(name, 0.0) for name in EXTRAS})
    by_name = dict(zip(COMPONENTS, factors, strict=False)) | dict.fromkeys(EXTRAS, factors[-1])
    return replace(table, calibration={name: float(value * by_name[name]) for name, value in own.items()})
