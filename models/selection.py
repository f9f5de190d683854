"""Which tokens survive a pruning step. Training, torch inference and the exported graph follow these rules.

The score is ToP's (arXiv 2306.14393), attention received, but averaged over real, surviving query rows only, so that
padding never changes a logit; and tokens are gathered, not masked.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Protect = Literal["none", "separators", "first"]
"""Which tokens beside [CLS] outlive all others: none, the separators, or the first text, its separator included."""
PROTECTIONS: tuple[Protect, ...] = get_args(Protect)
ABOVE_ATTENTION = 2.0
"""What lifts a token above all others by attention received, which is 1 at most."""


def attention_received(probabilities: Tensor, mask: Tensor) -> Tensor:
    """Mean attention each token receives over heads and real query rows.

    Args:
        probabilities: ``(batch, heads, tokens, tokens)``, rows are queries.
        mask: ``(batch, tokens)`` bool, true at real tokens.

    Returns:
        ``(batch, tokens)``; zero at padding.
    """
    per_query = probabilities.sum(1)
    received = (per_query * mask[:, :, None]).sum(1)
    return received / (mask.sum(1, keepdim=True) * probabilities.shape[1])


def leading_first(mask: Tensor) -> Tensor:
    """Scores ``(batch, tokens)`` for layers before any attention: the earlier a token stands, the higher."""
    tokens = mask.shape[1]
    return -torch.arange(tokens, device=mask.device, dtype=torch.float32).expand(mask.shape[0], tokens)


def positions_of(mask: Tensor) -> Tensor:
    """Places ``(batch, tokens)`` of a sequence's tokens before any is pruned; at padding past the last place."""
    tokens = mask.shape[1]
    return torch.arange(tokens, device=mask.device).masked_fill(~mask, tokens)


def placed(hidden: Tensor, positions: Tensor, every: Tensor | None) -> Tensor:
    """The last state of every token ``(batch, tokens, width)``: that of the ones that are left, and what others had.

    Args:
        hidden: ``(batch, left, width)``.
        positions: ``(batch, left)``, where in the sequence the tokens stand; past its end where there is none.
        every: of all tokens before; ``None`` before any was dropped.
    """
    if every is None:
        return hidden
    past_the_end = torch.zeros_like(every[:, :1])
    index = positions[..., None].expand_as(hidden)
    return torch.cat([every, past_the_end], 1).scatter(1, index, hidden.to(every.dtype))[:, :-1]


def may_answer(mask: Tensor, token_type_ids: Tensor) -> Tensor:
    """``(batch, tokens)`` bool, where an answer may begin or end: in the second text, or at [CLS], which is none."""
    answers = mask & (token_type_ids == 1)
    answers[:, 0] = True
    return answers


def protected_tokens(
    protect: Protect, input_ids: Tensor, token_type_ids: Tensor, *, separator_id: int
) -> Tensor | None:
    """``(batch, tokens)`` bool, true where a token outlives all others; ``None`` where none does."""
    if protect == "none":
        return None
    return input_ids == separator_id if protect == "separators" else token_type_ids == 0


def protecting(scores: Tensor, protected: Tensor | None, *, above: float) -> Tensor:
    """Scores ``(batch, tokens)`` with those of protected tokens lifted by ``above``, which is more than they differ by.

    A schedule's counts stay: where more tokens are protected than it keeps, the best of them stay.
    """
    return scores if protected is None else scores + above * protected


def ranks(scores: Tensor, present: Tensor) -> Tensor:
    """Rank ``(batch, tokens)`` of each present token among the others of its sequence, 0 the best; ties go to the
    earlier token, as in :func:`select_tokens`.

    [CLS] (position 0) and tokens that are not present come last: what stands there means nothing.
    """
    ranked = scores.masked_fill(~present, float("-inf"))
    ranked[:, 0] = float("-inf")
    order = ranked.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    )


def select_tokens(scores: Tensor, mask: Tensor, keep_percent: int) -> tuple[Tensor, Tensor]:
    """Rows to gather so that each sequence keeps ``1 + ceil((n - 1) * share)`` of its own n real tokens.

    [CLS] (position 0) always stays, ties go to the earlier token, and survivors keep their order.

    Args:
        scores: ``(batch, tokens)``, higher stays longer.
        mask: ``(batch, tokens)`` bool, true at real tokens.
        keep_percent: share kept of the tokens other than [CLS], in percent.

    Returns:
        positions ``(batch, left)`` to gather and the survivors' mask ``(batch, left)``, where ``left`` follows from the
        tensor's own length, so that no count has to leave the device.
    """
    tokens = scores.shape[1]
    left = 1 + ((tokens - 1) * keep_percent + 99) // 100
    kept_per_row = 1 + ((mask.sum(1, keepdim=True) - 1) * keep_percent + 99) // 100
    ranked = scores.masked_fill(~mask, float("-inf"))
    ranked[:, 0] = float("inf")
    order = ranked.argsort(dim=1, descending=True, stable=True)[:, :left]
    beyond = torch.arange(left, device=scores.device) >= kept_per_row
    positions = order.masked_fill(beyond, tokens).sort(dim=1).values
    survives = positions < tokens
    return positions.clamp_max(tokens - 1), survives
