"""The widths of a backbone: how large the largest genome is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Widths:
    """Upper bounds of a search space, read off any BERT-family backbone.

    Attributes:
        layers: number of encoder layers.
        heads: attention heads per layer.
        ffn_units: hidden units of the feed-forward network per layer.
    """

    layers: int
    heads: int
    ffn_units: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "ffn_units"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
