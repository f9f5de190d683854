"""Profiling: from a backbone and a runtime to a LatencyTable.

A block is never timed alone. It is repeated inside one graph, and what it costs is the difference to the same graph
without it, divided by the repeats; so the call, the embedding and the head cancel. The last layer with heads computes
only [CLS], so every graph whose layers shall see all tokens ends in such a layer. That layer carries a full FFN, as
ballast: its weights push the block's own out of the innermost caches, where they would not be in a whole model either.
What a model pays because all its weights together no longer fit the outer caches is fitted on whole models.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.optimize import lsq_linear  # type: ignore[import-untyped]

from sparsefront.latency.blocks import Floats
from sparsefront.latency.cost import COMPONENTS, MEMORY, GenomeColumns, component_costs, memory_features
from sparsefront.latency.runtime import Runtime, feeds_of_length
from sparsefront.latency.table import Backbone, LatencyTable, TableError
from sparsefront.latency.timing import Clock, time_interleaved
from sparsefront.spaces import Genome, InputError, LayerGene, SearchSpace

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Effort = Literal["quick", "normal"]
_EMPTY = LayerGene(0, 0)
_VOCABULARY = 512  # embedding rows of profiled models: their number does not change the time
# Every model is summarised by the lower quartile of its calls: close to the median on a quiet machine, and less moved
# than the median when other processes disturb a part of the calls.
QUIET_QUANTILE = 0.25


@dataclass(frozen=True)
class _Plan:
    """How much is measured: shares of the full widths and of the length, models, and microseconds per point."""

    head_shares: tuple[float, ...]
    unit_shares: tuple[float, ...]
    length_shares: tuple[float, ...]
    calibration: int
    passes: int
    point_us: float
    model_us: float


_PLANS: dict[Effort, _Plan] = {
    "quick": _Plan((0.01, 0.33, 1), (0.042, 0.33, 1), (0.09, 0.4, 1), 10, 2, 12_000, 20_000),
    "normal": _Plan(
        (0.01, 0.16, 0.33, 0.67, 1),
        (0.042, 0.125, 0.33, 0.67, 1),
        (0.04, 0.13, 0.27, 0.5, 0.75, 1),
        24,
        3,
        20_000,
        40_000,
    ),
}


def profile(
    config: CrossEncoderConfig,
    *,
    runtime: Runtime,
    length_tokens: int,
    batch: int = 1,
    effort: Effort = "normal",
    heldout: int | Sequence[Genome] = 20,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> LatencyTable:
    """Measures the blocks of a dense backbone, calibrates them on whole random models and measures the error.

    Args:
        config: the dense model: its widths are the largest that the table covers.
        runtime: where models are served; its threads are the table's.
        length_tokens: tokens of the served rows; the table covers every length up to it. Unpadded.
        batch: rows per call.
        effort: ``quick`` measures fewer widths, lengths and repeats.
        heldout: genomes on which the error is measured, or how many to draw from the joint space.
        progress: called with (done, total) after each visit of a model.
        seed: draws weights and genomes.
    """
    if effort not in _PLANS:
        raise InputError(f"effort must be one of {', '.join(_PLANS)}, got {effort!r}")
    if not 1 <= length_tokens <= config.max_position_embeddings:
        raise InputError(f"length_tokens must be between 1 and {config.max_position_embeddings}, got {length_tokens}")
    started, plan, backbone = time.perf_counter(), _PLANS[effort], Backbone.of(config)
    rng = np.random.default_rng(seed)
    whole = random_genomes(config, plan.calibration, rng, length_tokens=length_tokens)
    held = (
        random_genomes(config, heldout, rng, length_tokens=length_tokens) if isinstance(heldout, int) else list(heldout)
    )
    design = _Design(backbone, plan, length_tokens)
    meter = Meter(config, runtime, batch=batch, progress=progress, total=len(design.points) + len(whole) + len(held))
    measured, drift = meter.measure(design.points, point_us=plan.point_us, passes=plan.passes)
    rows = design.rows(dict(zip(design.points, measured, strict=True)))
    clock: Clock = meter.clock
    fingerprint = runtime.fingerprint(length_tokens=length_tokens, batch=batch)
    raw = LatencyTable(fingerprint=fingerprint, backbone=backbone, measured=rows)
    models_us, model_drift = meter.measure(
        [(genome, length_tokens) for genome in (*whole, *held)], point_us=plan.model_us, passes=plan.passes
    )
    factors = _calibrate(raw, whole, models_us[: len(whole)])
    table = LatencyTable(fingerprint=fingerprint, backbone=backbone, measured=rows, calibration=factors)
    error = TableError.of(table.predict_many(held), models_us[len(whole) :])
    notes: dict[str, Any] = {
        "effort": effort,
        "clock": clock,
        "statistic": f"quantile {QUIET_QUANTILE} of calls, median of {plan.passes} passes",
        "seconds": round(time.perf_counter() - started, 1),
        "reference_drift": round(max(drift, model_drift), 4),
        "heldout": [genome.key() for genome in held],
        "heldout_us": [round(float(value), 2) for value in models_us[len(whole) :]],
        "seed": seed,
    }
    return LatencyTable(
        fingerprint=fingerprint, backbone=backbone, measured=rows, calibration=factors, error=error, notes=notes
    )


def random_genomes(
    config: CrossEncoderConfig, count: int, rng: np.random.Generator, *, length_tokens: int, budgets: bool = True
) -> list[Genome]:
    """Different genomes of the joint space: half of them uniform, half near 1/3, 1/6 and 1/12 of the dense work.

    A uniform draw is rarely as small as what people search for, so those are drawn with their widths scaled down.
    """
    space = SearchSpace.preset("joint", widths=config.widths)
    found: dict[Genome, None] = {}
    for attempt in range(100 * count):
        if len(found) == count:
            break
        genome = space.sample(rng)
        if budgets and attempt % 2:
            genome = _shrunk(space, genome, (1 / 3, 1 / 6, 1 / 12)[(attempt // 2) % 3], config, length_tokens)
        found.setdefault(genome)
    return list(found)


def _shrunk(space: SearchSpace, genome: Genome, share: float, config: CrossEncoderConfig, length_tokens: int) -> Genome:
    """The genome with all widths scaled down alike, until its multiply-adds are at most ``share`` of the dense ones."""
    target = share * _multiply_adds(space.largest, config, length_tokens)
    shrunk = genome
    for scale in np.linspace(1, 0, 41):
        params = space.to_params(genome)
        scaled = {
            name: index if name.endswith("keep_percent") else round(index * float(scale))
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


def with_few_words(config: CrossEncoderConfig) -> CrossEncoderConfig:
    """The same model with a small vocabulary: it loads faster and takes as long to run."""
    few: CrossEncoderConfig = type(config).from_dict(
        {**config.to_dict(), "vocab_size": min(config.vocab_size, _VOCABULARY)}
    )
    return few


Point = tuple[Genome, int]


class Meter:
    """Times genomes at lengths, unpadded, interleaved, with random weights; a reference model watches the machine."""

    def __init__(
        self,
        config: CrossEncoderConfig,
        runtime: Runtime,
        *,
        batch: int = 1,
        progress: Callable[[int, int], None] | None = None,
        total: int = 0,
    ) -> None:
        self._config = with_few_words(config)
        self._runtime = runtime
        self._batch = batch
        self._progress = progress
        self._total = total
        self._done = 0.0
        # One thread is the caller's own, and its time does not count what other processes take away.
        self.clock: Clock = "cpu" if runtime.threads == 1 else "wall"

    def measure(self, points: Sequence[Point], *, point_us: float, passes: int) -> tuple[Floats, float]:
        """Microseconds per point, and how far apart the reference model's passes were (relative).

        Passes in which the reference ran more than 5 % slower than in its best pass are done again, twice at most; of
        all passes, the quietest ``passes`` ones count.
        """
        config: Any = self._config
        sessions = {
            genome: self._runtime.load(config.with_genome(genome)) for genome in dict.fromkeys(g for g, _ in points)
        }
        timed = [sessions[genome] for genome, _ in points]
        feeds = [feeds_of_length(length, batch=self._batch) for _, length in points]
        reference = len(points) // 2
        timed.append(timed[reference])
        feeds.append(feeds[reference])
        first = time_interleaved(timed, feeds, rounds=2, clock=self.clock)
        guess = [max(float(times.min()), 1.0) for times in first]
        repeats = [int(np.clip(point_us / passes / 2 / each, 2, 60)) for each in guess]
        results: list[Floats] = []
        watched: list[float] = []
        for attempt in range(passes + 2):
            times = time_interleaved(timed, feeds, rounds=2, repeats=repeats, clock=self.clock)
            values = np.array([np.quantile(each, QUIET_QUANTILE) for each in times])
            results.append(values[:-1])
            watched.append(float((values[-1] + values[reference]) / 2))
            self._advance(len(points) / (passes + 2))
            quiet = sum(value <= 1.05 * min(watched) for value in watched)
            if attempt + 1 >= passes and quiet >= passes:
                break
        self._advance(len(points) * (passes + 2 - len(watched)) / (passes + 2))
        best = np.argsort(watched)[:passes]
        kept = [watched[index] for index in best]
        return np.median([results[index] for index in best], axis=0), max(kept) / min(kept) - 1

    def _advance(self, points: float) -> None:
        self._done += points
        if self._progress is not None:
            self._progress(min(round(self._done), self._total), self._total)


class _Design:
    """Which graphs are timed and how blocks follow from them."""

    def __init__(self, backbone: Backbone, plan: _Plan, length_tokens: int) -> None:
        self.backbone = backbone
        self.repeats = max(2, backbone.layers - 1)
        self.ballast = backbone.ffn_units
        self.heads = _grid(plan.head_shares, backbone.heads)
        self.units = _grid(plan.unit_shares, backbone.ffn_units)
        self.lengths = _grid(plan.length_shares, length_tokens)
        self.points: list[Point] = list(dict.fromkeys(self._points()))

    def _points(self) -> Iterator[Point]:
        for length in self.lengths:
            yield self.stack(_EMPTY), length
            yield self.carried(99), length
            yield self.carried(100), length
            for heads in self.heads:
                yield self.stack(LayerGene(heads, 0)), length
                yield self.stack(LayerGene(heads, 0, 99)), length
                yield Genome((self.closing(heads),)), length
            for units in self.units:
                yield self.stack(LayerGene(0, units)), length
        longest = self.lengths[-1]
        yield Genome((_EMPTY,)), longest
        for units in (0, *self.units):
            yield self.behind(LayerGene(0, units)), longest

    def repeats_of(self, gene: LayerGene) -> int:
        """How often a layer is repeated: wide ones less often, to keep the weights of a graph like a real model's."""
        own = self.backbone
        weights = gene.heads * own.weights_per_head + gene.ffn_units * own.weights_per_unit
        return int(np.clip(2 * own.ffn_units * own.weights_per_unit // max(weights, 1), 2, self.repeats))

    def closing(self, heads: int = 1) -> LayerGene:
        """The layer that reads the tokens into [CLS]."""
        return LayerGene(heads, self.ballast)

    def stack(self, gene: LayerGene) -> Genome:
        """The layer repeated over all tokens."""
        return Genome((*(gene,) * self.repeats_of(gene), self.closing()))

    def behind(self, gene: LayerGene) -> Genome:
        """The layer repeated for the [CLS] row only."""
        return Genome((self.closing(), *(gene,) * self.repeats_of(gene)))

    def carried(self, keep_percent: int) -> Genome:
        """One attention whose scores every following layer prunes by."""
        return Genome(
            (LayerGene(1, 0, keep_percent), *(LayerGene(0, 0, keep_percent),) * (self.repeats - 1), self.closing())
        )

    def rows(self, us: dict[Point, float]) -> pd.DataFrame:
        """Blocks from the points' microseconds: columns part, width, length_tokens, microseconds."""
        rows: list[tuple[str, int, int, float]] = []
        repeats, longest, shortest = self.repeats, self.lengths[-1], self.lengths[0]
        alone = Genome((self.closing(),))
        cls_norms = (us[self.behind(_EMPTY), longest] - us[alone, longest]) / repeats
        cls_only = us[Genome((_EMPTY,)), longest] - cls_norms
        rows += [("cls_norms", 0, 0, cls_norms), ("cls_only", 0, 0, cls_only), ("cls_ffn", 0, 0, 0.0)]
        fed = {}
        for units in self.units:
            gene = LayerGene(0, units)
            fed[units] = (us[self.behind(gene), longest] - us[alone, longest]) / self.repeats_of(gene) - cls_norms
            rows.append(("cls_ffn", units, 0, fed[units]))
        ballast = fed[self.ballast]
        # One head's [CLS] attention and the call cannot be told apart; what grows with the length is booked on the
        # call, the rest on the attention.
        inside = max(us[alone, shortest] - cls_norms - cls_only - ballast, 0.0)
        for length in self.lengths:
            norms = (us[self.stack(_EMPTY), length] - us[alone, length]) / repeats
            rows.append(("call", 0, length, us[alone, length] - cls_norms - inside - ballast))
            rows.append(("norms", 0, length, norms))
            rows += [("attention", 0, length, 0.0), ("ffn", 0, length, 0.0), ("scoring", 0, length, 0.0)]
            for units in self.units:
                gene = LayerGene(0, units)
                each = (us[self.stack(gene), length] - us[alone, length]) / self.repeats_of(gene)
                rows.append(("ffn", units, length, each - norms))
            # One scoring and `repeats` selections against `repeats` of both, at one head, tell them apart.
            both = us[self.stack(LayerGene(1, 0, 99)), length] - us[self.stack(LayerGene(1, 0)), length]
            both /= self.repeats_of(LayerGene(1, 0))
            shared = us[self.carried(99), length] - us[self.carried(100), length]
            selection = float(np.clip((shared - both) / (repeats - 1), 0, max(both, 0)))
            rows.append(("selection", 0, length, selection))
            for heads in self.heads:
                dense, pruned = LayerGene(heads, 0), LayerGene(heads, 0, 99)
                times = self.repeats_of(dense)
                each = (us[self.stack(dense), length] - us[alone, length]) / times
                rows.append(("attention", heads, length, each - norms))
                steps = (us[self.stack(pruned), length] - us[self.stack(dense), length]) / times
                rows.append(("scoring", heads, length, max(steps - selection, 0.0)))
                single = us[Genome((self.closing(heads),)), length] - us[alone, length] + inside
                rows.append(("cls_attention", heads, length, single))
        return pd.DataFrame(rows, columns=["part", "width", "length_tokens", "microseconds"])


def _calibrate(raw: LatencyTable, genomes: Sequence[Genome], measured_us: Floats) -> dict[str, float]:
    """Factors per component and microseconds of memory traffic: relative least squares on whole models with a pull.

    Factors stay within 0.5..2 and are pulled toward 1: blocks are believed to about 20 % where a whole model is
    measured to about 3 %, so a component that is a small share of every model stays as measured. Memory is
    pulled toward none.
    """
    columns = GenomeColumns.of(genomes)
    costs = component_costs(raw.blocks, columns, raw.fingerprint.length_tokens)
    memory = memory_features(
        raw.backbone.dense_weights, columns, raw.backbone.weights_per_head, raw.backbone.weights_per_unit
    )
    typical_us = float(np.median(measured_us))
    scaled = np.hstack([costs, memory * typical_us]) / measured_us[:, None]
    pull = np.diag([0.03 / 0.2] * len(COMPONENTS) + [0.03 / 0.5] * len(MEMORY))
    centre = np.array([1.0] * len(COMPONENTS) + [0.0] * len(MEMORY))
    bounds = ([0.5] * len(COMPONENTS) + [0.0] * len(MEMORY), [2.0] * len(COMPONENTS) + [3.0] * len(MEMORY))
    fitted = lsq_linear(
        np.vstack([scaled, pull]), np.concatenate([np.ones(len(genomes)), pull @ centre]), bounds=bounds
    ).x
    fitted[len(COMPONENTS) :] *= typical_us
    return {name: float(factor) for name, factor in zip((*COMPONENTS, *MEMORY), fitted, strict=True)}


def _grid(shares: Sequence[float], full: int) -> list[int]:
    return sorted({max(1, round(share * full)) for share in shares})
