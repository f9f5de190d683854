"""A latency table made of arbitrary numbers: no timing, so that its guarantees can be tested on anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from sparsefront.latency.machine import MachineFingerprint
from sparsefront.latency.table import Backbone, LatencyTable

LAYERS, HEADS, UNITS, LENGTH = 4, 3, 12, 20
FINGERPRINT = MachineFingerprint(
    cpu="Test CPU", isa=("avx2", "fma"), cores=2, system="Linux x86_64", runtime="onnxruntime", runtime_version="1.0",
    threads=1, precision="fp32", batch=1, length_tokens=LENGTH,
)  # fmt: skip
BACKBONE = Backbone(layers=LAYERS, heads=HEADS, ffn_units=UNITS, hidden_size=16, head_size=4, hidden_act="gelu")


def synthetic_table(
    seed: int = 0,
    *,
    noise: float = 0.0,
    calibration: dict[str, float] | None = None,
    per_token: bool = False,
    feature_heads: int = 0,
) -> LatencyTable:
    """Plausible costs times ``exp(noise * normal)``; with much noise no part is monotone as measured."""
    rng = np.random.default_rng(seed)
    lengths, heads, units = (2, 7, LENGTH), (0, 1, HEADS), (0, 4, UNITS)
    rows: list[tuple[str, int, int, float]] = [("cls_only", 0, 0, 6.0), ("cls_norms", 0, 0, 1.0)]
    rows += [("cls_ffn", width, 0, 1.0 * width) for width in units]
    for length in lengths:
        rows += [("call", 0, length, 7 + 0.3 * length), ("norms", 0, length, 0.3 * length)]
        rows += [("selection", 0, length, 3 + 0.05 * length)]
        rows += [("ffn", width, length, 0.5 * width * length) for width in units]
        reading = [0.0, *(4 + width * (1 + 0.2 * length) for width in range(1, feature_heads + 1))]
        rows += [("reading", width, length, us) for width, us in enumerate(reading)]
        for width in heads:
            rows.append(("attention", width, length, width * (5 + 2.0 * length)))
            rows.append(("scoring", width, length, width * (1 + 0.2 * length)))
            if width:
                rows.append(("cls_attention", width, length, 6 + 3.0 * width + 0.1 * length))
    noisy = [
        (part, width, length, us * float(np.exp(noise * rng.standard_normal()))) for part, width, length, us in rows
    ]
    measured = pd.DataFrame(noisy, columns=["part", "width", "length_tokens", "microseconds"])
    backbone = replace(BACKBONE, per_token=per_token)
    if feature_heads:
        backbone = replace(backbone, feature_heads=feature_heads, features=5, feature_width=8, feature_head_size=2)
    return LatencyTable(fingerprint=FINGERPRINT, backbone=backbone, measured=measured, calibration=calibration or {})
