"""The widths of a backbone: how large the largest genome is."""

from __future__ import annotations

from dataclasses import dataclass

from sparsefront.spaces.genome import Field


@dataclass(frozen=True)
class Widths:
    """Upper bounds of a search space, read off any BERT-family backbone.

    Attributes:
        layers: number of encoder layers.
        heads: attention heads per layer.
        ffn_units: hidden units of the feed-forward network per layer.
        feature_heads: heads per layer with which features read the text; 0 where there are no features.
        behaviours: of a history; 0 where there are no histories.
    """

    layers: int
    heads: int
    ffn_units: int
    feature_heads: int = 0
    behaviours: int = 0

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "ffn_units"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        for name in ("feature_heads", "behaviours"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")

    def upper(self, field: Field) -> int:
        """The largest value that a field of a genome may have."""
        return 100 if field == "keep_percent" else int(getattr(self, field))
