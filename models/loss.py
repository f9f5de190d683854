"""Loss: how far logits are from what should be learnt."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional


def label_loss(logits: Tensor, target: Tensor, *, reduction: Literal["mean", "sum"] = "mean") -> Tensor:
    """Cross-entropy of logits to a target: binary for one output, over the classes for several.

    Args:
        logits: ``(batch,)``, or ``(batch, classes)``.
        target: ``(batch,)`` in [0, 1]; for classes the index of each row's, ``(batch,)``, or the probability of each,
            ``(batch, classes)``.
        reduction: over the batch.
    """
    if logits.ndim == 1:
        return functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction=reduction)
    wanted = target.long() if target.ndim == 1 else target.to(logits.dtype)
    return functional.cross_entropy(logits, wanted, reduction=reduction)
