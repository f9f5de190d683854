"""Which layers of a backbone make the vectors of behaviours."""

from __future__ import annotations

from dataclasses import dataclass

from sparsefront.models.behaviour_encoder import Pooling


@dataclass(frozen=True)
class FrozenLayers:
    """Layers that are never trained, and what is taken of a text that went through them.

    Attributes:
        layers: the lowest ones; half of a backbone's, rounded down, by default.
        pooling: of a text's tokens: their ``mean``, or the state of [CLS] (``cls``).
        max_tokens: to which texts are cut, if the backbone has places for so many.
    """

    layers: int | None = None
    pooling: Pooling = "mean"
    max_tokens: int = 64

    def count(self, layers: int) -> int:
        """How many of a backbone's layers."""
        return max(1, layers // 2) if self.layers is None else self.layers
