"""Loss: how far logits are from what should be learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from sparsefront.models.spans import MOST_TOKENS


def label_loss(
    logits: Tensor, target: Tensor, *, reduction: Literal["mean", "sum"] = "mean", weight: Tensor | None = None
) -> Tensor:
    """Cross-entropy of logits to a target: binary for one output, over the classes for several.

    Args:
        logits: ``(batch,)``, or ``(batch, classes)``, or ``(batch, tokens, 2)`` of spans.
        target: ``(batch,)`` in [0, 1]; for classes the index of each row's, ``(batch,)``, or the probability of each,
            ``(batch, classes)``; for spans likewise, their index or the probability of each token as the first and as
            the last one, ``(batch, at least tokens, 2)``. The loss of a span is the mean of both ends'.
        reduction: over the batch.
        weight: ``(batch,)``, what each row's loss is multiplied by; all alike by default.
    """
    if weight is not None:
        weighted = _losses(logits, target, "none") * weight.to(logits.dtype)
        return weighted.sum() if reduction == "sum" else weighted.mean()
    return _losses(logits, target, reduction)


def _losses(logits: Tensor, target: Tensor, reduction: Literal["mean", "sum", "none"]) -> Tensor:
    if logits.ndim == 1:
        return functional.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction=reduction)
    if logits.ndim == 3:
        ends = _ends_of(target, logits.shape[1]).to(logits.dtype)
        both = functional.cross_entropy(logits, ends, reduction=reduction)
        return both.mean(1) if reduction == "none" else both / (2 if reduction == "sum" else 1)
    wanted = target.long() if target.ndim == 1 else target.to(logits.dtype)
    return functional.cross_entropy(logits, wanted, reduction=reduction)


def _ends_of(target: Tensor, tokens: int) -> Tensor:
    """Probabilities ``(batch, tokens, 2)`` of a target of spans; beyond a batch's longest row there are none."""
    if target.ndim == 3:
        return target[:, :tokens]
    span = target.long()
    ends = torch.stack([span // MOST_TOKENS, span % MOST_TOKENS], dim=-1)
    return functional.one_hot(ends, tokens).transpose(1, 2)
