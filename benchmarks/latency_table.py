"""How exact the latency table is, on 200 held-out models of the joint space per way of serving.

Every cell profiles a backbone, predicts the held-out models and compares with their measured times; half of them are
drawn uniformly, half near 1/3, 1/6 and 1/12 of the dense multiply-adds. All are then measured again by themselves: a
table cannot be more exact than the measurement repeats. Others are measured at lengths that no block was profiled at.
Weights are random; they do not change the time.

A cell that is in the work folder is not measured again, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from common import Target, write_result

from sparsefront.latency.cost import GenomeColumns
from sparsefront.latency.design import Design
from sparsefront.latency.meter import Meter
from sparsefront.latency.profile import HELDOUT, PLANS, profile, random_genomes
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.table import Backbone, LatencyTable, TableError
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.spaces import Genome

SEED = 0
BACKBONES = {
    "6x384": CrossEncoderConfig(
        hidden_size=384, head_size=32, layer_heads=[12] * 6, layer_ffn_units=[1536] * 6, max_position_embeddings=512
    ),
    "4x256": CrossEncoderConfig(
        hidden_size=256, head_size=64, layer_heads=[4] * 4, layer_ffn_units=[1024] * 4, max_position_embeddings=512
    ),
}
WAYS = [("onnxruntime", "fp32"), ("openvino", "bf16"), ("onnxruntime", "int8"), ("openvino", "fp32")]
# backbone, tokens, runtime, precision, threads, rows per call
CELLS = [
    *(("4x256", 38, *way, 1, 1) for way in WAYS),
    ("4x256", 38, "onnxruntime", "fp32", 1, 8),
    *(("6x384", 48, *way, 1, 1) for way in WAYS),
    ("6x384", 48, "onnxruntime", "fp32", 2, 1),
    *(("6x384", 128, *way, 1, 1) for way in WAYS),
]


def measure_cell(
    backbone: str, tokens: int, name: str, precision: str, threads: int, batch: int, *, quick: bool
) -> dict[str, Any]:
    """Profiles, checks, measures again."""
    config = BACKBONES[backbone]
    serving = runtime(name, threads=threads, precision=precision)
    heldout, visits, seconds = (16, 12, 5.0) if quick else (200, 24, 60.0)
    between = lengths_between(config, tokens)
    rng = np.random.default_rng(SEED + 1)
    held = random_genomes(config, heldout, rng, length_tokens=tokens)
    points = [(genome, tokens) for genome in held]
    points += [(genome, length) for length in between for genome in held[: 4 if quick else 30]]
    table = profile(
        config, runtime=serving, length_tokens=tokens, batch=batch, effort="quick" if quick else "normal",
        heldout=points, seed=SEED, say=print,
    )  # fmt: skip
    predicted = np.array([table.predict(genome, length_tokens=length) for genome, length in points])
    measured = np.array(table.notes["heldout_us"])
    first = measured[:heldout]
    error = TableError.of(predicted[:heldout], first)
    others = TableError.of(predicted[heldout:], measured[heldout:])
    meter = Meter(config, serving, batch=batch, say=print)
    again, _ = meter.measure(points[:heldout], visits=visits, seconds=seconds, loads=1)
    repeat = TableError.of(again, first)
    dense_us, _ = meter.measure([(config.genome, tokens)])
    # What a profile with its usual held-out models takes.
    whole = table.notes["calibration_models"]
    share = min(1.0, (whole + HELDOUT) / (whole + heldout))
    blocks_seconds = float(table.notes["seconds_blocks"])
    return {
        "backbone": backbone, "length_tokens": tokens, "runtime": name, "precision": precision, "threads": threads,
        "batch": batch, "heldout_models": error.models, "mean_error": error.mean,
        "p95_error": error.p95, "within_5_percent": error.within_5_percent,
        "within_10_percent": error.within_10_percent, "kendall_tau": error.kendall_tau,
        "repeat_mean_error": repeat.mean, "repeat_within_5_percent": repeat.within_5_percent,
        "repeat_kendall_tau": repeat.kendall_tau,
        "repeat_common_drift": float(np.median(again / first)) - 1,
        "drift_while_profiling": table.notes["reference_drift"],
        "other_lengths": between, "other_lengths_mean_error": others.mean,
        "other_lengths_within_10_percent": others.within_10_percent,
        "profile_seconds": blocks_seconds + share * (table.notes["seconds"] - blocks_seconds),
        "predictions_per_second": predictions_per_second(table, held),
        "dense_us": float(dense_us[0]), "dense_predicted_us": table.predict(config.genome),
        "models": [
            {"genome": genome.key(), "predicted_us": round(float(guess), 1), "measured_us": float(us),
             "again_us": round(float(twice), 1)}
            for genome, guess, us, twice in zip(held, table.predict_many(held), first, again, strict=True)
        ],
    }  # fmt: skip


def in_its_own_process(cell: tuple[Any, ...], *, quick: bool) -> dict[str, Any]:
    """So that no cell finds the memory as another left it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_cell, *cell, quick=quick).result()


def lengths_between(config: CrossEncoderConfig, tokens: int) -> list[int]:
    """Three lengths between those at which all widths are profiled."""
    profiled = Design(Backbone.of(config), (1,), (1,), PLANS["normal"].length_shares, tokens).lengths
    return [(low + high) // 2 for low, high in itertools.pairwise(profiled)][-3:]


def predictions_per_second(table: LatencyTable, genomes: list[Genome]) -> float:
    """Of one call with many genomes, given as columns."""
    columns = GenomeColumns.of(genomes * (40_000 // len(genomes)))
    started = time.perf_counter()
    return len(table.predict_columns(columns)) / (time.perf_counter() - started)


def targets_of(rows: list[dict[str, Any]]) -> list[Target]:
    """Per cell, against what is asked."""
    targets = []
    for row in rows:
        cell = (
            f"{row['backbone']}, {row['length_tokens']} tokens, {row['runtime']} {row['precision']}, "
            f"{row['threads']} thread{'s' if row['threads'] > 1 else ''}, batch {row['batch']}"
        )
        fp32 = row["precision"] == "fp32"
        targets += [
            Target(f"{cell}: mean error", "<=", 0.010 if fp32 else 0.015, row["mean_error"]),
            Target(f"{cell}: within 5 %", ">=", 0.99, row["within_5_percent"]),
            Target(f"{cell}: within 10 %", ">=", 1.0, row["within_10_percent"]),
            Target(f"{cell}: mean error at other lengths", "<=", 0.025, row["other_lengths_mean_error"]),
            Target(f"{cell}: profile seconds", "<=", 180.0, row["profile_seconds"]),
            Target(f"{cell}: predictions per second", ">=", 200_000.0, row["predictions_per_second"]),
        ]
        if fp32:
            targets.append(Target(f"{cell}: Kendall tau", ">=", 0.98, row["kendall_tau"]))
    return targets


def main() -> None:
    """Measure the cells that are missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two cells, fewer blocks, repeats and held-out models")
    parser.add_argument("--report", action="store_true", help="measure nothing new, report the cells that are there")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-latency-table"), help="finished cells")
    arguments = parser.parse_args()
    folder = arguments.work / ("quick" if arguments.quick else "full")
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for cell in CELLS[:2] if arguments.quick else CELLS:
        path = folder / f"{'-'.join(map(str, cell))}.json"
        if arguments.report and not path.exists():
            continue
        if not path.exists():
            row = in_its_own_process(cell, quick=arguments.quick)
            path.write_text(json.dumps(row) + "\n", encoding="utf-8")
            print({key: value for key, value in row.items() if key != "models"}, flush=True)
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    print(write_result("latency_table", rows, targets_of(rows), [SEED], arguments.quick))


if __name__ == "__main__":
    main()
