"""How exact the latency table is: MiniLM widths (6 layers x 384), 48 tokens, one thread, ONNX Runtime, fp32, batch 1.

Profiles the backbone and compares predictions with 50 held-out models of the joint space, half of them drawn uniformly,
half near 1/3, 1/6 and 1/12 of the dense multiply-adds. The same models are then measured again: a table cannot be more
exact than the measurement repeats. Weights are random; they do not change the time.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from common import Target, write_result

from sparsefront.latency.meter import Meter
from sparsefront.latency.profile import profile
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.table import TableError
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.spaces import Genome

LENGTH_TOKENS = 48
SEED = 0
DENSE = CrossEncoderConfig(
    hidden_size=384, head_size=32, layer_heads=[12] * 6, layer_ffn_units=[1536] * 6, max_position_embeddings=512
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer blocks, repeats and held-out models")
    quick = parser.parse_args().quick
    served = runtime("onnxruntime", threads=1)
    started = time.perf_counter()
    table = profile(
        DENSE, runtime=served, length_tokens=LENGTH_TOKENS, effort="quick" if quick else "normal",
        heldout=16 if quick else 50, seed=SEED,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    held = [Genome.parse(key) for key in table.notes["heldout"]]
    first = np.array(table.notes["heldout_us"])
    points = [(genome, LENGTH_TOKENS) for genome in held]
    again, _ = Meter(DENSE, served).measure(points, point_us=20_000 if quick else 40_000, passes=2 if quick else 3)
    repeat = TableError.of(again, first)
    dense = [(DENSE.genome, LENGTH_TOKENS)]
    dense_us = {
        name: float(Meter(DENSE, runtime(name, threads=1)).measure(dense, point_us=200_000, passes=3)[0][0])
        for name in ("onnxruntime", "torch")
    }
    clock = time.perf_counter()
    count = len(table.predict_many(held * (10_000 // len(held))))
    per_second = count / (time.perf_counter() - clock)
    predicted = table.predict_many(held)
    rows: list[dict[str, object]] = [
        {
            "runtime": "onnxruntime", "layers_x_width": "6x384", "length_tokens": LENGTH_TOKENS, "threads": 1,
            "precision": "fp32",
            "heldout_models": table.error.models, "mean_error": table.error.mean, "p95_error": table.error.p95,
            "within_5_percent": table.error.within_5_percent, "within_10_percent": table.error.within_10_percent,
            "kendall_tau": table.error.kendall_tau, "repeat_mean_error": repeat.mean, "repeat_p95_error": repeat.p95,
            "reference_drift": table.notes["reference_drift"], "profile_seconds": seconds,
            "predictions_per_second": per_second, "dense_onnxruntime_us": dense_us["onnxruntime"],
            "dense_torch_us": dense_us["torch"], "dense_predicted_us": table.predict(DENSE.genome),
        }
    ]  # fmt: skip
    rows += [
        {
            "genome": genome.key(),
            "predicted_us": round(float(guess), 1),
            "measured_us": float(us),
            "again_us": round(float(twice), 1),
        }
        for genome, guess, us, twice in zip(held, predicted, first, again, strict=True)
    ]
    targets = [
        Target("mean error, onnxruntime fp32, 48 tokens", "<=", 0.08, table.error.mean),
        Target("profile seconds", "<=", 25.0 if quick else 90.0, seconds),
        Target("predictions per second", ">=", 10_000.0, per_second),
    ]
    print(write_result("latency_table", rows, targets, [SEED], quick))


if __name__ == "__main__":
    main()
