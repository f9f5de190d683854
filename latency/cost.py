"""What a genome costs, block by block: the one place that knows which parts a model runs at which length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsefront.latency.blocks import Blocks, Floats
from sparsefront.spaces import Genome
from sparsefront.spaces.genomes import Genomes

Ints = npt.NDArray[np.int64]

# What calibration on whole models may scale: component -> the parts that belong to it.
COMPONENTS: dict[str, tuple[str, ...]] = {
    "call": ("cls_only", "call"),
    "norms": ("norms", "cls_norms"),
    "attention": ("attention",),
    "ffn": ("ffn",),
    "selection": ("scoring", "selection"),
    "last": ("cls_attention", "cls_ffn"),
    "reading": ("reading",),
}
# Blocks are measured in graphs that fit the caches. What weights cost that do not is no block's own: it depends on how
# much all of them are together. So calibration adds microseconds per megabyte between one of these sizes and the next.
WEIGHT_SIZES_MB = (2, 4, 8, 12, 16, 20, 24, 28, 36, 48, 64, 96)
MEMORY = tuple(f"weights_above_{size}_mb" for size in WEIGHT_SIZES_MB)
# What a graph pays once for having layers that see all tokens, and per pruning step, whatever their widths and lengths.
OVERHEADS = ("beyond_one_layer", "pruning_step")
EXTRAS = (*MEMORY, *OVERHEADS)
"""What calibration adds to the blocks, in microseconds: per megabyte and per overhead."""
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class GenomeColumns:
    """Genomes as one array (genomes, layers) per field."""

    heads: Ints
    ffn_units: Ints
    keep_percent: Ints
    feature_heads: Ints
    behaviours: Ints

    @classmethod
    def of(cls, genomes: Sequence[Genome]) -> GenomeColumns:
        """All genomes must have the same number of layers."""
        return cls(*Genomes.of(genomes).columns.transpose(2, 0, 1))


def component_costs(
    blocks: Blocks, columns: GenomeColumns, length_tokens: int | Ints, *, per_token: bool = False
) -> Floats:
    """Microseconds (genomes, components), in the order of :data:`COMPONENTS`.

    ``length_tokens`` of the rows: one for all genomes, or (genomes,). ``per_token``: a head reads every token, so every
    layer is computed for all of them.
    """
    heads, units, keeps = columns.heads, columns.ffn_units, columns.keep_percent
    genomes, layers = heads.shape
    order = {name: index for index, name in enumerate(COMPONENTS)}
    costs = np.zeros((genomes, len(order)))
    mixing = _first_behind(columns, per_token)
    newest = columns.behaviours[:, 0]
    length = np.broadcast_to(np.asarray(length_tokens, np.int64), genomes)
    length = np.where(newest > 0, np.minimum(length, 1 + newest), length)
    costs[:, order["call"]] = np.where(mixing < 0, blocks.cls_only, blocks.call[length])
    scored_cost = np.zeros(genomes)  # of the latest attention, until a pruning step has paid for it
    scored = np.zeros(genomes, bool)
    for layer in range(layers):
        full, last = layer < mixing, layer == mixing
        here = heads[:, layer]
        costs[:, order["reading"]] += blocks.reading[columns.feature_heads[:, layer], length]
        costs[:, order["attention"]] += np.where(full, blocks.attention[here, length], 0)
        costs[:, order["last"]] += np.where(last, blocks.cls_attention[here, length], 0)
        fresh = full & (here > 0)
        scored |= fresh
        scored_cost = np.where(fresh, blocks.scoring[here, length], scored_cost)
        prunes = full & (keeps[:, layer] < 100)
        pays = prunes & scored
        costs[:, order["selection"]] += np.where(pays, blocks.selection[length] + scored_cost, 0)
        scored_cost = np.where(pays, 0.0, scored_cost)
        norms = blocks.norms[length] / 2
        length = np.where(prunes, 1 + ((length - 1) * keeps[:, layer] + 99) // 100, length)
        costs[:, order["norms"]] += np.where(full, norms + blocks.norms[length] / 2, blocks.cls_norms)
        fed = units[:, layer]
        costs[:, order["ffn"]] += np.where(full, blocks.ffn[fed, length], 0)
        costs[:, order["last"]] += np.where(full, 0, blocks.cls_ffn[fed])
    return costs


def extra_features(columns: GenomeColumns, weights_mb: Floats, *, per_token: bool = False) -> Floats:
    """How much of each of :data:`EXTRAS` (genomes, extras) genomes have whose weights are (genomes,) megabytes."""
    mixing = _first_behind(columns, per_token)
    full = np.arange(columns.heads.shape[1]) < mixing[:, None]
    steps = (full & (columns.keep_percent < 100)).sum(1)
    return np.hstack([memory_features(weights_mb), np.stack([mixing > 0, steps], axis=1).astype(np.float64)])


def _first_behind(columns: GenomeColumns, per_token: bool) -> Ints:
    """(genomes,) index of the first layer that is not computed for all tokens.

    It is the last that mixes tokens or whose tokens features read, see models/text_graph.py (-1: there is none); where
    a head reads every token, none.
    """
    genomes, layers = columns.heads.shape
    if per_token:
        return np.full(genomes, layers)
    needed = (columns.heads > 0) | (columns.feature_heads > 0)
    last: Ints = layers - 1 - np.argmax(needed[:, ::-1], axis=1)
    return np.where(needed.any(1), last, -1)


def memory_features(weights_mb: Floats) -> Floats:
    """Megabytes of weights (genomes,) -> how many of them lie between the sizes (genomes, sizes); the last is open."""
    above = np.maximum(weights_mb[:, None] - np.array(WEIGHT_SIZES_MB, np.float64), 0)
    features: Floats = np.minimum(above, np.append(np.diff(WEIGHT_SIZES_MB), np.inf))
    return features
