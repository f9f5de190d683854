"""Calibration: what the blocks of a table are multiplied by, so that it predicts whole models."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import lsq_linear  # type: ignore[import-untyped]

from sparsefront.latency.blocks import Floats
from sparsefront.latency.cost import COMPONENTS, MEMORY, GenomeColumns, component_costs, memory_features
from sparsefront.latency.meter import Point
from sparsefront.latency.table import LatencyTable

MODEL_NOISE = 0.01
COMPONENT_DOUBT = 0.2
MEMORY_DOUBT = 0.5


def calibration_of(raw: LatencyTable, points: Sequence[Point], measured_us: Floats) -> dict[str, float]:
    """Factors per component and microseconds of memory traffic: relative least squares on whole models with a pull.

    Factors stay within 0.3..3 and are pulled toward 1: blocks are believed to about 20 % where a whole model is
    measured to about 1 %, so a component that is a small share of every model stays as measured. Memory is
    pulled toward none.
    """
    columns = GenomeColumns.of([genome for genome, _ in points])
    costs = component_costs(raw.blocks, columns, np.array([length for _, length in points], np.int64))
    weights_mb = raw.backbone.weights_mb(columns, raw.fingerprint.precision)
    # Microseconds per megabyte are small or large with the whole models; scaled, one pull suits all tables.
    unit_us = float(np.median(measured_us) / np.median(weights_mb))
    scaled = np.hstack([costs, memory_features(weights_mb) * unit_us]) / measured_us[:, None]
    pull = np.diag([MODEL_NOISE / COMPONENT_DOUBT] * len(COMPONENTS) + [MODEL_NOISE / MEMORY_DOUBT] * len(MEMORY))
    centre = np.array([1.0] * len(COMPONENTS) + [0.0] * len(MEMORY))
    bounds = ([0.3] * len(COMPONENTS) + [0.0] * len(MEMORY), [3.0] * len(COMPONENTS) + [3.0] * len(MEMORY))
    fitted = lsq_linear(
        np.vstack([scaled, pull]), np.concatenate([np.ones(len(points)), pull @ centre]), bounds=bounds
    ).x
    fitted[len(COMPONENTS) :] *= unit_us
    return {name: float(factor) for name, factor in zip((*COMPONENTS, *MEMORY), fitted, strict=True)}
