"""Calibration: what the blocks of a table are multiplied by, so that it predicts whole models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import lsq_linear

from sparsefront.latency.blocks import Floats
from sparsefront.latency.cost import (
    COMPONENTS,
    EXTRAS,
    MEMORY,
    OVERHEADS,
    GenomeColumns,
    component_costs,
    extra_features,
)
from sparsefront.latency.meter import Point
from sparsefront.latency.table import LatencyTable

MODEL_NOISE = 0.01
COMPONENT_DOUBT = 0.2
MEMORY_DOUBT = 0.5
OVERHEAD_DOUBT = 0.5


def calibration_of(raw: LatencyTable, points: Sequence[Point], measured_us: Floats) -> dict[str, float]:
    """Factors per component and microseconds of extras: relative least squares on whole models with a pull.

    Factors stay within 0.3..3 and are pulled toward 1: blocks are believed to about 20 % where a whole model is
    measured to about 1 %, so a component that is a small share of every model stays as measured. Extras are
    pulled toward none: memory to about half of what a model takes per megabyte, an overhead to about half a call.
    """
    columns = GenomeColumns.of([genome for genome, _ in points])
    lengths, per_token = np.array([length for _, length in points], np.int64), raw.backbone.per_token
    costs = component_costs(raw.blocks, columns, lengths, per_token=per_token)
    weights_mb = raw.backbone.weights_mb(columns, raw.fingerprint.precision)
    # Extras are small or large with the whole models; scaled, one pull suits all tables.
    memory_us = float(np.median(measured_us) / np.median(weights_mb))
    units_us = np.array([memory_us] * len(MEMORY) + [float(raw.blocks.call[-1])] * len(OVERHEADS))
    extras = extra_features(columns, weights_mb, per_token=per_token)
    scaled = np.hstack([costs, extras * units_us]) / measured_us[:, None]
    doubts = [COMPONENT_DOUBT] * len(COMPONENTS) + [MEMORY_DOUBT] * len(MEMORY) + [OVERHEAD_DOUBT] * len(OVERHEADS)
    pull = np.diag(MODEL_NOISE / np.array(doubts))
    centre = np.array([1.0] * len(COMPONENTS) + [0.0] * len(EXTRAS))
    bounds = ([0.3] * len(COMPONENTS) + [0.0] * len(EXTRAS), [3.0] * (len(COMPONENTS) + len(EXTRAS)))
    fitted = lsq_linear(
        np.vstack([scaled, pull]), np.concatenate([np.ones(len(points)), pull @ centre]), bounds=bounds
    ).x
    fitted[len(COMPONENTS) :] *= units_us
    return {name: float(factor) for name, factor in zip((*COMPONENTS, *EXTRAS), fitted, strict=True)}
