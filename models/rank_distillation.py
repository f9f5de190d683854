"""Ranking distillation: early layers learn which tokens the teacher's last layer attends to.

ToP (arXiv 2306.14393): a token that is pruned early is ranked by a layer that does not yet know what matters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from sparsefront.models.batching import Precision, TensorBatch
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import encoded_batches
from sparsefront.models.selection import ranks

TOP = 20


@dataclass(frozen=True)
class RankTeacher:
    """The teacher's word on every token of the training rows, and how much it weighs.

    Attributes:
        scores: (all tokens of the rows,) attention received in its last layer.
        offsets: (rows + 1,) where each row's tokens begin.
        layers: of the student, that learn from it.
        weight: of the loss.
        top: tokens of a row, the teacher's best, whose order counts.
    """

    scores: NDArray[np.float32]
    offsets: NDArray[np.int64]
    layers: tuple[int, ...]
    weight: float = 1.0
    top: int = TOP

    def __post_init__(self) -> None:
        if self.scores.shape != (int(self.offsets[-1]),):
            raise ValueError(f"scores must be those of {self.offsets[-1]} tokens, got shape {self.scores.shape}")
        if not self.layers or min(self.layers) < 0:
            raise ValueError(f"layers must be one at least, counted from 0, got {self.layers}")
        if not self.weight > 0 or self.top < 2:
            raise ValueError(f"weight must be positive and top at least 2, got {self.weight} and {self.top}")

    @property
    def identity(self) -> dict[str, Any]:
        """Ready for JSON; differs from that of any other teaching."""
        digest = hashlib.sha256(self.scores.tobytes()).hexdigest()
        return {"scores": digest, "layers": list(self.layers), "weight": self.weight, "top": self.top}

    def loss(self, batch: TensorBatch, encoded: Encoded) -> Tensor:
        """Weighted mean over the layers; those that did not score, for want of heads, are left out."""
        losses = []
        for layer in self.layers:
            scores = encoded.scores[layer]
            if scores is not None:
                wanted, there = self._at(batch, encoded.positions[layer])
                losses.append(rank_loss(scores, wanted, there, top=self.top))
        return self.weight * torch.stack(losses).mean() if losses else encoded.hidden.new_zeros(())

    def _at(self, batch: TensorBatch, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's scores ``(batch, tokens_there)`` of the tokens at ``positions``, and which of these are any."""
        there = positions < batch.input_ids.shape[1]
        starts = torch.from_numpy(self.offsets)[batch.index.cpu()]
        places = starts[:, None] + (positions * there).cpu()
        return torch.from_numpy(self.scores)[places].to(positions.device), there


def layers_to_teach(layers: int) -> tuple[int, ...]:
    """ToP's choice of early layers, of 12 the second to the fourth; of a shallow model at least the first two."""
    return tuple(range(1, layers // 3)) if layers > 6 else tuple(range(min(2, layers - 1)))


def rank_loss(scores: Tensor, wanted: Tensor, there: Tensor, *, top: int = TOP) -> Tensor:
    """LambdaLoss with the ARP weights (Wang et al. 2018) of the order of tokens; 1 when all scores are alike.

    Every pair among the teacher's best tokens adds the difference of its relevances times the logistic loss of the
    difference of its scores, and the sum is divided by that of the differences. Scores are multiplied by the number of
    tokens first: as shares of attention they differ by less than the loss can tell apart, the less the longer the row.

    Args:
        scores: ``(batch, tokens)`` of the student, [CLS] first.
        wanted: ``(batch, tokens)`` of the teacher.
        there: ``(batch, tokens)`` bool, tokens that count beside [CLS]; position 0 never does.
        top: tokens of a row whose order counts.
    """
    tokens = there.clone()
    tokens[:, 0] = False
    counts = tokens.sum(1, keepdim=True)
    rank = ranks(wanted, tokens)
    relevance = torch.where(tokens, (counts.clamp_max(top) - rank).clamp_min(0), 0).float()
    chosen = tokens & (rank < top)
    scaled = scores.float() * (counts + 1)
    margin = scaled[:, :, None] - scaled[:, None, :]
    gain = (relevance[:, :, None] - relevance[:, None, :]).clamp_min(0)
    gain = gain * (chosen[:, :, None] & chosen[:, None, :])
    pairs: Tensor = gain * functional.softplus(-margin) / np.log(2)
    total = gain.sum((1, 2))
    each: Tensor = pairs.sum((1, 2))[total > 0] / total[total > 0]
    return each.sum() / max(1, len(scores))


@torch.inference_mode()
def teacher_token_scores(
    teacher: CrossEncoder,
    rows: TokenRows,
    *,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Attention that every token of the rows receives in the teacher's last layer: ``(all tokens,)``.

    Raises:
        ValueError: if that layer has no heads.
    """
    last = len(teacher.genome) - 1
    found = np.zeros(int(rows.offsets[-1]), dtype=np.float32)

    def encode(batch: TensorBatch) -> Encoded:
        encoded: Encoded = teacher.encoder(
            batch.input_ids, batch.attention_mask, batch.token_type_ids, cls_only=False, score_layers=(last,)
        )
        return encoded

    for batch, encoded in encoded_batches(teacher, rows, encode, precision=precision, progress=progress):
        scores = encoded.scores[last]
        if scores is None:
            raise ValueError("the teacher's last layer has no heads, so no token is ranked there")
        real = batch.attention_mask.bool().cpu().numpy()
        starts = rows.offsets[batch.index.cpu().numpy()][:, None]
        found[(starts + np.arange(real.shape[1]))[real]] = scores.float().cpu().numpy()[real]
    return found
