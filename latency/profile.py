"""Profiling: from a backbone and a runtime to a LatencyTable.

Blocks are measured in context (:mod:`sparsefront.latency.design`), then scaled until they predict whole random models
(:mod:`sparsefront.latency.calibrate`); the error is that of other models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from sparsefront.latency.calibrate import calibration_of
from sparsefront.latency.design import Design
from sparsefront.latency.meter import Meter, PassLog, Point
from sparsefront.latency.runtime import Runtime
from sparsefront.latency.table import Backbone, LatencyTable, TableError
from sparsefront.spaces import Genome, InputError, SearchSpace

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Effort = Literal["quick", "normal"]
LARGE_ERROR = 0.05
HELDOUT = 20
WORK_SHARES = (1 / 3, 1 / 6, 1 / 12, 1 / 24, 1 / 48)
"""Of the dense multiply-adds: a call reads every weight, so that little work may take far more of the time."""
HEAD_SHARES = (0.01, *(sixth / 6 for sixth in range(1, 7)))
UNIT_SHARES = tuple(part / 24 for part in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24))
LENGTH_SHARES = (0.02, 0.04, 0.06, 0.085, 0.125, 0.17, 0.21, 0.27, 0.33, 0.42, 0.5, 0.58, 0.67, 0.75, 0.87, 1)


@dataclass(frozen=True)
class _Plan:
    """How much is measured: models that calibrate, visits to each model, their seconds."""

    calibration: int
    visits: int
    seconds: float


PLANS: dict[Effort, _Plan] = {"quick": _Plan(30, 8, 15), "normal": _Plan(100, 24, 75)}


def profile(
    config: CrossEncoderConfig,
    *,
    runtime: Runtime,
    length_tokens: int,
    batch: int = 1,
    effort: Effort = "normal",
    heldout: int | Sequence[Point] = HELDOUT,
    progress: Callable[[int, int], None] | None = None,
    say: Callable[[str], None] | None = None,
    log: Path | None = None,
    seed: int = 0,
) -> LatencyTable:
    """Measures the blocks of a dense backbone, calibrates them on whole random models and measures the error.

    Args:
        config: the dense model: its widths are the largest that the table covers.
        runtime: where models are served; its threads are the table's.
        length_tokens: tokens of the served rows; the table covers every length up to it. Unpadded.
        batch: rows per call.
        effort: ``quick`` measures fewer models, less often.
        heldout: genomes and their lengths on which the error is measured, or how many to draw from the joint space.
        progress: called with (done, total) points measured.
        say: told what the user should know, e.g. that the machine is under load.
        log: file that keeps finished passes, so that an interrupted profile goes on; removed at the end.
        seed: draws weights and genomes.

    Raises:
        InputError: a request that cannot be met; a machine under load that does not get quiet.
    """
    if effort not in PLANS:
        raise InputError(f"effort must be one of {', '.join(PLANS)}, got {effort!r}")
    if not 1 <= length_tokens <= config.max_position_embeddings:
        raise InputError(f"length_tokens must be between 1 and {config.max_position_embeddings}, got {length_tokens}")
    started, plan, backbone = time.perf_counter(), PLANS[effort], Backbone.of(config)
    rng = np.random.default_rng(seed)
    whole = _calibration_points(config, plan.calibration, rng, length_tokens)
    if isinstance(heldout, int):
        drawn = random_genomes(config, heldout, rng, length_tokens=length_tokens)
        held: list[Point] = [(genome, length_tokens) for genome in drawn]
    else:
        held = list(heldout)
    design = Design(backbone, HEAD_SHARES, UNIT_SHARES, LENGTH_SHARES, length_tokens)
    passes = PassLog(log)
    total = len(design.points) + len(whole) + len(held)
    # The last layer of the design's graphs is computed for [CLS] alone, which is how it tells blocks apart. What a head
    # of every token costs besides, the calibration on whole models finds.
    last = config.with_classes(()) if config.per_token else config
    meter = Meter(last, runtime, batch=batch, progress=progress, total=total, say=say, log=passes)
    # The design's graphs fit the caches, so it hardly matters where their weights lie.
    blocks_us, drift = meter.measure(design.points, visits=plan.visits // 4, seconds=plan.seconds / 2, loads=1)
    rows = design.rows(dict(zip(design.points, blocks_us.tolist(), strict=True)))
    blocks_done = time.perf_counter()
    # Many held-out models get their own time.
    seconds = plan.seconds * (len(whole) + max(len(held), HELDOUT)) / (len(whole) + HELDOUT)
    done = len(design.points)
    meter = Meter(config, runtime, batch=batch, progress=progress, total=total, done=done, say=say, log=passes)
    models_us, model_drift = meter.measure([*whole, *held], visits=plan.visits, seconds=seconds)
    whole_us, held_us = np.split(models_us, [len(whole)])
    fingerprint = runtime.fingerprint(length_tokens=length_tokens, batch=batch)
    raw = LatencyTable(fingerprint=fingerprint, backbone=backbone, measured=rows)
    table = replace(raw, calibration=calibration_of(raw, whole, whole_us))
    predicted = np.array([table.predict(genome, length_tokens=length) for genome, length in held])
    error = TableError.of(predicted, held_us)
    notes: dict[str, Any] = {
        "effort": effort,
        "statistic": "lower quartile of warm calls",
        "seconds": round(time.perf_counter() - started, 1),
        "seconds_blocks": round(blocks_done - started, 1),
        "calibration_models": len(whole),
        "reference_drift": round(max(drift, model_drift), 4),
        "heldout": [[genome.key(), length] for genome, length in held],
        "heldout_us": [round(float(value), 2) for value in held_us],
        "seed": seed,
    }
    passes.remove()
    if say is not None and error.mean > LARGE_ERROR:
        say(f"this table is NOT exact: its error on held-out models is {error.mean:.1%} on average")
    return replace(table, error=error, notes=notes)


def random_genomes(
    config: CrossEncoderConfig,
    count: int,
    rng: np.random.Generator,
    *,
    length_tokens: int,
    work_shares: Sequence[float] = WORK_SHARES,
) -> list[Genome]:
    """Different genomes of the joint space: half of them uniform, half near such shares of the dense work.

    A uniform draw is rarely as small as what people search for, so those are drawn with their widths scaled down.
    """
    space = SearchSpace.preset("joint", widths=config.widths)
    found: dict[Genome, None] = {}
    for attempt in range(100 * count):
        if len(found) == count:
            break
        genome = space.sample(rng)
        if attempt % 2:
            share = work_shares[(attempt // 2) % len(work_shares)]
            genome = _shrunk(space, genome, share, config, length_tokens)
        found.setdefault(genome)
    return list(found)


def _calibration_points(
    config: CrossEncoderConfig, count: int, rng: np.random.Generator, length_tokens: int
) -> list[Point]:
    """Whole models of every kind: the dense one, some that keep all tokens, and rows of every length.

    Random genomes of the joint space nearly all prune; what is searched often keeps all tokens. A table serves shorter
    rows too.
    """
    points = [(config.genome, length_tokens)]
    for number, genome in enumerate(random_genomes(config, count - 1, rng, length_tokens=length_tokens)):
        shorter = int(rng.integers(max(1, length_tokens // 8), length_tokens + 1))
        one = genome.keeping() if number % 3 == 0 else genome
        points.append((one, shorter if number % 3 == 1 else length_tokens))
    return points


def _shrunk(space: SearchSpace, genome: Genome, share: float, config: CrossEncoderConfig, length_tokens: int) -> Genome:
    """The genome with all widths scaled down alike, until its multiply-adds are at most ``share`` of the dense ones."""
    target = share * _multiply_adds(space.largest, config, length_tokens)
    shrunk = genome
    for scale in np.linspace(1, 0, 41):
        params = space.to_params(genome)
        scaled = {
            name: index if name.endswith(("keep_percent", "behaviours")) else round(index * float(scale))
            for name, index in params.items()
        }
        shrunk = space.from_params(scaled)
        if _multiply_adds(shrunk, config, length_tokens) <= target:
            break
    return shrunk


def _multiply_adds(genome: Genome, config: CrossEncoderConfig, length_tokens: int) -> float:
    """Rough multiply-adds of the matrix products, the last layer counted for all tokens."""
    total, before = 0.0, length_tokens
    for gene, after in zip(genome, genome.lengths(length_tokens), strict=True):
        inner = gene.heads * config.head_size
        total += 4 * before * inner * config.hidden_size + 2 * before**2 * inner
        total += 2 * after * gene.ffn_units * config.hidden_size
        before = after
    return total
