"""Blocks: measured costs of parts of a model, made monotone and looked up by integers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """Microseconds of every part at every width and length; all arrays are indexed by plain integers.

    ``heads`` run over 0..H, feature heads over 0..U, ``units`` over 0..F and ``length`` over 0..N (0 is never read).

    Attributes:
        cls_only: (), a model in which no layer mixes tokens: call, embedding of [CLS], head.
        call: (length,), call, embedding and head of a model whose tokens mix.
        norms: (length,), an empty layer: two LayerNorms, one half before pruning and one behind.
        attention: (heads, length), what heads add to an empty layer.
        ffn: (units, length), what FFN units add to an empty layer.
        reading: (feature heads, length), what features that read a layer's text add; only 0 heads without features.
        scoring: (heads, length), what an attention pays to hand out its scores.
        selection: (length,), ranking and gathering the tokens of that length.
        cls_norms: (), an empty layer of the [CLS] row.
        cls_attention: (heads, length), attention of [CLS]'s query over the tokens, in the last layer with heads.
        cls_ffn: (units,), the FFN of the [CLS] row.
    """

    cls_only: Floats
    call: Floats
    norms: Floats
    attention: Floats
    ffn: Floats
    reading: Floats
    scoring: Floats
    selection: Floats
    cls_norms: Floats
    cls_attention: Floats
    cls_ffn: Floats

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """All parts, in the order in which they are stored."""
        return tuple(field.name for field in fields(cls))

    def scaled(self, factors: dict[str, float]) -> Blocks:
        """Every named part times its factor."""
        changes: dict[str, Any] = {name: getattr(self, name) * factor for name, factor in factors.items()}
        return replace(self, **changes)

    def monotone(self) -> Blocks:
        """The nearest blocks (or close to it) for which no wider or longer model is cheaper.

        Besides each part rising with widths and length, a layer must not become cheaper when it is computed for all
        tokens instead of [CLS] only, and heads given to a layer must cost at least what the scoring that moves to it
        can save elsewhere; hence the caps between parts.
        """
        attention = rising(np.maximum(self.attention, 0))
        attention[0] = 0
        ffn = rising(np.maximum(self.ffn, 0))
        ffn[0] = 0
        reading = rising(np.maximum(self.reading, 0))
        reading[0] = 0
        norms = rising(np.maximum(self.norms, 0))
        cls_only = np.maximum(self.cls_only, 0)
        inside = rising(np.maximum(self.cls_attention[1:], 0))
        inside = np.minimum(inside, inside[0, 1] + attention[1:])
        return Blocks(
            cls_only=cls_only,
            call=np.maximum(rising(self.call), cls_only),
            norms=norms,
            attention=attention,
            ffn=ffn,
            reading=reading,
            scoring=np.minimum(rising(np.maximum(self.scoring, 0)), attention[1, 1]),
            selection=rising(np.maximum(self.selection, 0)),
            cls_norms=np.clip(self.cls_norms, 0, norms[1]),
            cls_attention=np.concatenate([np.zeros((1, inside.shape[1])), inside]),
            cls_ffn=np.minimum(rising(np.maximum(self.cls_ffn, 0)), ffn[:, 1]),
        )


def rising(values: Floats) -> Floats:
    """Least-squares non-decreasing fit along every axis in turn, repeated until no axis falls."""
    fitted = np.array(values, np.float64)
    if not fitted.ndim:
        return fitted
    for _ in range(20):
        if all((np.diff(fitted, axis=axis) >= 0).all() for axis in range(fitted.ndim)):
            return fitted
        for axis in range(fitted.ndim):
            fitted = np.apply_along_axis(_pool_adjacent_violators, axis, fitted)
    for axis in range(fitted.ndim):  # running maxima preserve the order of the other axes
        fitted = np.maximum.accumulate(fitted, axis=axis)
    return fitted


def _pool_adjacent_violators(values: Floats) -> Floats:
    levels: list[tuple[float, int]] = []
    for value in values:
        level, count = float(value), 1
        while levels and levels[-1][0] > level:
            last, width = levels.pop()
            level, count = (level * count + last * width) / (count + width), count + width
        levels.append((level, count))
    return np.repeat([level for level, _ in levels], [count for _, count in levels])


def fill(values: Floats, points: Sequence[Sequence[int]], sizes: Sequence[int]) -> Floats:
    """Values measured on a grid -> every integer from 0 to ``sizes`` (inclusive), linear between and beyond points.

    ``values`` has one axis per entry of ``points``. The fit is made non-decreasing on the grid first.
    """
    full = rising(np.asarray(values, np.float64))
    for axis, (grid, size) in enumerate(zip(points, sizes, strict=True)):
        full = np.apply_along_axis(_interpolate, axis, full, np.asarray(grid, np.float64), size)
    return full


def _interpolate(values: Floats, grid: Floats, size: int) -> Floats:
    wanted = np.arange(size + 1, dtype=np.float64)
    filled = np.interp(wanted, grid, values)
    if len(grid) > 1:
        slope = (values[1] - values[0]) / (grid[1] - grid[0])
        below = wanted < grid[0]
        filled[below] = np.maximum(values[0] + slope * (wanted[below] - grid[0]), min(0.0, values[0]))
        slope = (values[-1] - values[-2]) / (grid[-1] - grid[-2])
        above = wanted > grid[-1]
        filled[above] = values[-1] + slope * (wanted[above] - grid[-1])
    return filled
