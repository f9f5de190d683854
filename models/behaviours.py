"""From rows of histories to the sequences that a model runs over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsefront.models.bahe_graph import HISTORY_INPUTS
from sparsefront.models.batching import TensorBatch


@dataclass(frozen=True)
class Sequences:
    """Histories of rows, each a sequence of its own, and the items.

    Attributes:
        vectors: ``(batch, histories, tokens, width)``, the newest behaviour at place 1; zero at place 0, which is
            [CLS]'s, and at padding.
        mask: ``(batch, histories, tokens)`` bool, true at [CLS] and at behaviours.
        item: ``(batch, width)``.
    """

    vectors: Tensor
    mask: Tensor
    item: Tensor

    @classmethod
    def of(cls, batch: TensorBatch, histories: int | None = None) -> Sequences:
        """Of a batch whose rows hold the behaviours of one history after the other, and then the item.

        Raises:
            ValueError: if the rows are of texts, or of another number of histories than was expected.
        """
        if batch.vectors is None:
            raise ValueError("a model of histories needs rows with vectors")
        types = batch.token_type_ids.masked_fill(~batch.attention_mask.bool(), -1)
        found = int(types.amax())
        if found != (histories or found):
            raise ValueError(f"rows must have {histories} histories and an item, got {found} and an item")
        histories = found
        counts = torch.stack([(types == number).sum(1) for number in range(histories)], dim=1)
        places = torch.arange(int(counts.max()), device=types.device)
        there = places < counts[..., None]
        row = torch.arange(len(types), device=types.device)
        source = ((counts.cumsum(1) - counts)[..., None] + places).masked_fill(~there, 0)
        vectors = batch.vectors[row[:, None, None], source] * there[..., None]
        return cls(
            functional.pad(vectors, (0, 0, 1, 0)),
            functional.pad(there, (1, 0), value=True),
            batch.vectors[row, counts.sum(1)],
        )

    def newest(self, behaviours: int) -> Sequences:
        """Without the older behaviours; 0 keeps all."""
        if not 0 < behaviours < self.mask.shape[-1] - 1:
            return self
        return Sequences(self.vectors[:, :, : 1 + behaviours], self.mask[:, :, : 1 + behaviours], self.item)

    def feeds(self) -> dict[str, NDArray[Any]]:
        """What a graph of histories is called with."""
        values = (self.vectors, self.mask.long(), self.item)
        return {name: value.cpu().numpy() for name, value in zip(HISTORY_INPUTS, values, strict=True)}
