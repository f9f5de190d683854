"""ImportanceCurves: how much of a model's Fisher importance a width keeps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparsefront.spaces.genome import Field

if TYPE_CHECKING:
    from sparsefront.models.importance import UnitOrder

Curve = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportanceCurves:
    """Importance per unit, sorted descending, one array per layer.

    Attributes:
        heads: per layer (heads,).
        ffn_units: per layer (FFN units,).
        feature_heads: per layer (feature heads,); none of a model without features.
    """

    heads: Sequence[Curve]
    ffn_units: Sequence[Curve]
    feature_heads: Sequence[Curve] = ()

    def __post_init__(self) -> None:
        if len(self.heads) != len(self.ffn_units):
            raise ValueError(f"importance: {len(self.heads)} layers of heads, {len(self.ffn_units)} of FFN units")
        if len(self.feature_heads) not in (0, len(self.heads)):
            raise ValueError(
                f"importance: {len(self.heads)} layers of heads, {len(self.feature_heads)} of feature heads"
            )
        for name, curves in self.by_field.items():
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

    @property
    def by_field(self) -> dict[Field, Sequence[Curve]]:
        """Field -> per layer its curve, of the fields that have units."""
        found: dict[Field, Sequence[Curve]] = {"heads": self.heads, "ffn_units": self.ffn_units}
        return found | ({"feature_heads": self.feature_heads} if self.feature_heads else {})

    @classmethod
    def of(cls, order: UnitOrder) -> ImportanceCurves:
        """What a model's units were ordered by."""
        reading = order.feature_importance if any(map(len, order.feature_importance)) else ()
        return cls(heads=order.head_importance, ffn_units=order.ffn_importance, feature_heads=reading)

    def kept(self, field: str, layer: int, count: int) -> float:
        """Share of the field's importance in the whole model that the first ``count`` units of a layer carry."""
        return float(self.kept_by_count[field][layer][count])

    @cached_property
    def kept_by_count(self) -> dict[str, list[Curve]]:
        """Field -> per layer (units + 1,): the share of the field's importance that so many units carry."""
        found: dict[str, list[Curve]] = {}
        for field, curves in self.by_field.items():
            sums = [np.concatenate([[0.0], np.cumsum(curve)]) for curve in curves]
            total = float(sum(one[-1] for one in sums))
            found[field] = [one / total if total > 0 else 0 * one for one in sums]
        return found
