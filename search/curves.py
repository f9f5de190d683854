"""ImportanceCurves: how much of a model's Fisher importance a width keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportanceCurves:
    """Importance per unit, sorted descending, one array per layer.

    Attributes:
        heads: per layer (heads,).
        ffn_units: per layer (FFN units,).
    """

    heads: Sequence[Curve]
    ffn_units: Sequence[Curve]

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.ffn_units):
            raise ValueError(f"importance: {len(self.heads)} layers of heads, {len(self.ffn_units)} of FFN units")
        for name, curves in (("heads", self.heads), ("ffn_units", self.ffn_units)):
            for layer, curve in enumerate(curves):
                values = np.asarray(curve, dtype=np.float64)
                if values.ndim != 1 or not np.isfinite(values).all() or (values < 0).any():
                    raise ValueError(f"importance of {name} in layer {layer} must be a list of finite values >= 0")
                if (np.diff(values) > 0).any():
                    raise ValueError(f"importance of {name} in layer {layer} must be sorted descending")

    @classmethod
    def flat(cls, *, layers: int, heads: int, ffn_units: int) -> ImportanceCurves:
        """Every unit counts the same: what stands in when nothing has been measured."""
        return cls(heads=[np.ones(heads)] * layers, ffn_units=[np.ones(ffn_units)] * layers)

    def kept(self, field: str, layer: int, count: int) -> float:
        """Share of the field's importance in the whole model that the first ``count`` units of a layer carry."""
        return float(self.kept_by_count[field][layer][count])

    @cached_property
    def kept_by_count(self) -> dict[str, list[Curve]]:
        """Field -> per layer (units + 1,): the share of the field's importance that so many units carry."""
        found = {}
        for field, curves in (("heads", self.heads), ("ffn_units", self.ffn_units)):
            sums = [np.concatenate([[0.0], np.cumsum(curve)]) for curve in curves]
            total = float(sum(one[-1] for one in sums))
            found[field] = [one / total if total > 0 else 0 * one for one in sums]
        return found
