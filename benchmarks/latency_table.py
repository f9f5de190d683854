"""How exact the latency table is, on 200 held-out models of the joint space per way of serving.

Every cell profiles a backbone, predicts the held-out models and compares with their measured times; half of them are
drawn uniformly, half near 1/3, 1/6 and 1/12 of the dense multiply-adds. All are then measured again by themselves: a
table cannot be more exact than the measurement repeats. Where the same models differ by over 2.5 % the machine was
loud: such a cell is measured up to three times, and the one that repeats best is kept, whatever its error. Others are
measured at lengths that no block was profiled at. Weights are random; they do not change the time.

A cell that is in the work folder is not measured again, so a run that was cut off goes on.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from common import Target, write_result

from sparsefront.latency.cost import GenomeColumns
from sparsefront.latency.design import Design
from sparsefront.latency.meter import Meter
from sparsefront.latency.profile import HELDOUT, LENGTH_SHARES, profile, random_genomes
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.table import Backbone, LatencyTable, TableError
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.spaces import Genome, InputError

Cell = tuple[str, int, str, str, int, int]
Result = TypeVar("Result")
SEED = 0
LOUD, TRIES = 0.025, 3
HELDOUT_SHARES = (1 / 3, 1 / 6, 1 / 12)
"""Of the dense multiply-adds."""
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
CELLS: list[Cell] = [
    *(("4x256", 38, *way, 1, 1) for way in WAYS),
    ("4x256", 38, "onnxruntime", "fp32", 1, 8),
    *(("6x384", 48, *way, 1, 1) for way in WAYS),
    ("4x256", 38, "onnxruntime", "fp32", 2, 1),
    *(("6x384", 128, *way, 1, 1) for way in WAYS),
]


def measured_quietly(cell: Cell, *, quick: bool) -> dict[str, Any]:
    """The cell, again while the machine is loud."""
    tried: list[dict[str, Any]] = []
    for attempt in range(TRIES):
        try:
            tried.append(measure_cell(cell, quick=quick))
        except InputError as error:  # too loud to say anything
            if not tried and attempt == TRIES - 1:
                raise
            print(error, flush=True)
            continue
        if tried[-1]["repeat_mean_error"] <= LOUD:
            break
        print(f"loud: the same models differ by {tried[-1]['repeat_mean_error']:.1%}", flush=True)
    return {**min(tried, key=lambda row: float(row["repeat_mean_error"])), "tries": len(tried)}


def measure_cell(cell: Cell, *, quick: bool) -> dict[str, Any]:
    """Profiles and checks; then measures the same models again."""
    backbone, tokens, name, precision, threads, batch = cell
    row, first = in_its_own_process(profiled, cell, quick)
    again, dense_us = in_its_own_process(measured_again, cell, [one["genome"] for one in row["models"]], quick)
    repeat = TableError.of(np.array(again), np.array(first))
    for one, us in zip(row["models"], again, strict=True):
        one["again_us"] = round(us, 1)
    return {
        "backbone": backbone, "length_tokens": tokens, "runtime": name, "precision": precision, "threads": threads,
        "batch": batch, "repeat_mean_error": repeat.mean, "repeat_within_5_percent": repeat.within_5_percent,
        "repeat_kendall_tau": repeat.kendall_tau,
        "repeat_common_drift": float(np.median(np.array(again) / np.array(first))) - 1, "dense_us": dense_us, **row,
    }  # fmt: skip


def profiled(cell: Cell, quick: bool) -> tuple[dict[str, Any], list[float]]:
    """What a table says of held-out models, and their measured microseconds."""
    backbone, tokens, name, precision, threads, batch = cell
    config, heldout = BACKBONES[backbone], 16 if quick else 200
    between = lengths_between(config, tokens)
    rng = np.random.default_rng(SEED + 1)
    # A model of its own for every length: OpenVINO takes longer where one is called with several.
    points = [
        (genome, length)
        for length, count in ((tokens, heldout), *((length, 4 if quick else 20) for length in between))
        for genome in random_genomes(config, count, rng, length_tokens=length, work_shares=HELDOUT_SHARES)
    ]
    table = profile(
        config, runtime=runtime(name, threads=threads, precision=precision), length_tokens=tokens, batch=batch,
        effort="quick" if quick else "normal", heldout=points, seed=SEED, say=print,
    )  # fmt: skip
    predicted = np.array([table.predict(genome, length_tokens=length) for genome, length in points])
    measured = np.array(table.notes["heldout_us"])
    error = TableError.of(predicted[:heldout], measured[:heldout])
    others = TableError.of(predicted[heldout:], measured[heldout:])
    # What a profile with its usual held-out models takes.
    whole = table.notes["calibration_models"]
    share = min(1.0, (whole + HELDOUT) / (whole + len(points)))
    blocks_seconds = float(table.notes["seconds_blocks"])
    row = {
        "heldout_models": error.models, "mean_error": error.mean,
        "p95_error": error.p95, "within_5_percent": error.within_5_percent,
        "within_10_percent": error.within_10_percent, "kendall_tau": error.kendall_tau,
        "drift_while_profiling": table.notes["reference_drift"],
        "other_lengths": between, "other_lengths_mean_error": others.mean,
        "other_lengths_within_10_percent": others.within_10_percent,
        "profile_seconds": blocks_seconds + share * (table.notes["seconds"] - blocks_seconds),
        "predictions_per_second": predictions_per_second(table, [genome for genome, _ in points[:heldout]]),
        "dense_predicted_us": table.predict(config.genome),
        "models": [
            {"genome": genome.key(), "length_tokens": length, "predicted_us": round(float(guess), 1),
             "measured_us": float(us)}
            for (genome, length), guess, us in zip(points[:heldout], predicted, measured, strict=False)
        ],
    }  # fmt: skip
    return row, measured[:heldout].tolist()


def measured_again(cell: Cell, genomes: list[str], quick: bool) -> tuple[list[float], float]:
    """Microseconds of the held-out models, and of the dense one beside them."""
    backbone, tokens, name, precision, threads, batch = cell
    config = BACKBONES[backbone]
    points = [(genome, tokens) for genome in (*map(Genome.parse, genomes), config.genome)]
    meter = Meter(config, runtime(name, threads=threads, precision=precision), batch=batch, say=print)
    again, _ = meter.measure(points, visits=6 if quick else 12, seconds=60.0, loads=1)
    return again[:-1].tolist(), float(again[-1])


def in_its_own_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """So that nothing finds the memory as something else left it."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        return pool.submit(work, *arguments).result()


def end_with_parent() -> None:
    """A benchmark that is killed leaves nothing that goes on measuring beside the next one."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(process: BaseProcess) -> None:
    process.join()
    os._exit(1)


def lengths_between(config: CrossEncoderConfig, tokens: int) -> list[int]:
    """Three lengths between those at which all widths are profiled."""
    profiled = Design(Backbone.of(config), (1,), (1,), LENGTH_SHARES, tokens).lengths
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
    parser.add_argument("--quick", action="store_true", help="two cells, fewer repeats and models")
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
            row = measured_quietly(cell, quick=arguments.quick)
            path.write_text(json.dumps(row) + "\n", encoding="utf-8")
            print({key: value for key, value in row.items() if key != "models"}, flush=True)
        rows.append(json.loads(path.read_text(encoding="utf-8")))
    print(write_result("latency_table", rows, targets_of(rows), [SEED], arguments.quick))


if __name__ == "__main__":
    main()
