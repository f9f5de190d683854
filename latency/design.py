"""Design: which graphs are timed, and how the costs of blocks follow from them.

A block is never timed alone. It is repeated inside one graph, and what it costs is the difference to the same graph
without it, divided by the repeats; so the call, the embedding and the head cancel. The last layer with heads computes
only [CLS], so every graph whose layers shall see all tokens ends in such a layer. That layer carries an FFN as ballast:
its weights push the block's own out of the innermost caches, where they would not be in a whole model either. All
weights of a graph together stay within the last cache; what larger models cost beside their blocks, the calibration
finds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from sparsefront.latency.meter import Point
from sparsefront.latency.table import Backbone
from sparsefront.spaces import Genome, LayerGene

_EMPTY = LayerGene(0, 0)
EVERY_LENGTH = 48
"""Up to this length every number of tokens is measured: matrix products take rows in tiles, and their cost jumps."""
WEIGHTS_OF_A_GRAPH = 1_500_000
"""Of the repeated layers, where one layer has not more."""

LANES = 16
"""Widths that are no multiple of a vector of numbers cost more than their neighbours; nobody offers them."""


class Design:
    """Which graphs are timed and how blocks follow from them."""

    def __init__(
        self,
        backbone: Backbone,
        head_shares: Sequence[float],
        unit_shares: Sequence[float],
        length_shares: Sequence[float],
        length_tokens: int,
    ) -> None:
        self.backbone = backbone
        self.repeats = max(2, backbone.layers - 1)
        self.ballast = max(1, backbone.ffn_units // 4)
        self.heads = _grid(head_shares, backbone.heads)
        self.units = sorted({*_grid(unit_shares, backbone.ffn_units, LANES), self.ballast})
        self.lengths = _grid(length_shares, length_tokens)
        self.reading = list(range(1, backbone.feature_heads + 1))
        self.middle = LayerGene(0, self.units[len(self.units) // 2])
        self.every_length = sorted({*range(self.lengths[0], min(EVERY_LENGTH, length_tokens) + 1), *self.lengths})
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
            for feature_heads in self.reading:
                yield self.stack(LayerGene(0, 0, feature_heads=feature_heads)), length
        longest = self.lengths[-1]
        yield Genome((_EMPTY,)), longest
        for units in (0, *self.units):
            yield self.behind(LayerGene(0, units)), longest
        for length in self.every_length:
            yield self.stack(self.middle), length

    def repeats_of(self, gene: LayerGene) -> int:
        """How often a layer is repeated: wide ones less often, so that the weights of a graph fit the caches."""
        own = self.backbone
        weights = gene.heads * own.weights_per_head + gene.ffn_units * own.weights_per_unit
        weights += gene.feature_heads * own.weights_per_feature_head
        return int(np.clip(WEIGHTS_OF_A_GRAPH // max(weights, 1), 1, self.repeats))

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
            if self.reading:
                rows.append(("reading", 0, length, 0.0))
            for feature_heads in self.reading:
                gene = LayerGene(0, 0, feature_heads=feature_heads)
                each = (us[self.stack(gene), length] - us[alone, length]) / self.repeats_of(gene)
                rows.append(("reading", feature_heads, length, each - norms))
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
        base = np.interp(self.every_length, self.lengths, [us[alone, length] for length in self.lengths])
        for length, below in zip(self.every_length, base, strict=True):
            rows.append(("rows", self.middle.ffn_units, length, us[self.stack(self.middle), length] - float(below)))
        return pd.DataFrame(rows, columns=["part", "width", "length_tokens", "microseconds"])


def _grid(shares: Sequence[float], full: int, step: int = 1) -> list[int]:
    """Shares of the full width, in multiples of ``step`` where the width has many."""
    step = step if full >= 16 * step else 1
    return sorted({min(full, max(1, step * max(1, round(share * full / step)))) for share in shares})
