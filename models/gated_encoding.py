"""Encoding with token gates: what would be gathered out is masked out, so that gradients reach the gates.

Forward it equals the encoder that gathers (:class:`sparsefront.models.encoder.ElasticEncoder`).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from sparsefront.models.encoder import ElasticEncoder, Encoded, Reader
from sparsefront.models.selection import ABOVE_ATTENTION, leading_first, may_answer, positions_of, protecting
from sparsefront.spaces import Genome


class Gates(Protocol):
    """Says which tokens stay: :class:`sparsefront.models.token_gates.GateSample`, or another rule to compare with."""

    def covers(self, layer: int) -> bool:
        """Whether a layer may drop tokens."""

    def kept(self, layer: int, scores: Tensor, alive: Tensor) -> Tensor:
        """Multipliers ``(batch, tokens)`` in [0, 1], 1 for [CLS]; both arguments have the same shape."""


def encode_gated(
    encoder: ElasticEncoder,
    input_ids: Tensor,
    attention_mask: Tensor,
    token_type_ids: Tensor,
    *,
    gates: Gates,
    genome: Genome | None = None,
    reader: Reader | None = None,
) -> Encoded:
    """Encode a padded batch; of the last layer, which does not prune, only what a head reads.

    Args:
        encoder: a supernet or a model of its own widths.
        input_ids: ``(batch, tokens)``, [CLS] first, padding at the end.
        attention_mask: ``(batch, tokens)``, non-zero at real tokens.
        token_type_ids: ``(batch, tokens)``.
        gates: which tokens stay; layers that they do not cover keep all.
        genome: widths to run; its own keep shares are ignored. The encoder's by default.
        reader: told the states before every layer.

    Returns:
        hidden ``(batch, 1, width)``, or ``(batch, tokens, width)`` where a head reads every token; scores per layer
        ``(batch, tokens)``, 0 at tokens that are gone.
    """
    genome = encoder.genome if genome is None else encoder.check(genome)
    real = attention_mask.bool()
    hidden = every = encoder.embeddings(input_ids, token_type_ids)
    per_token: bool = encoder.config.per_token
    presence = real.float()
    protected, positions = encoder.protected(input_ids, token_type_ids), positions_of(real)
    ranking = protecting(leading_first(real), protected, above=real.shape[1])
    collected: list[Tensor | None] = []
    places: list[Tensor] = []
    for index, (layer, gene) in enumerate(zip(encoder.elastic_layers, genome, strict=True)):
        if reader is not None:
            reader(index, hidden, real, presence)
        last = index == len(genome) - 1
        score = bool(gene.heads) and not last
        cls_only = last and not per_token
        hidden, scores = layer.attend(hidden, real, gene.heads, cls_only=cls_only, score=score, presence=presence)
        collected.append(scores)
        places.append(positions)
        if scores is not None:
            ranking = protecting(scores.detach(), protected, above=ABOVE_ATTENTION)
        if not last and gates.covers(index):
            alive = presence > 0
            every = torch.where(alive[..., None], hidden, every) if per_token else every
            presence = presence * gates.kept(index, ranking, alive)
            positions = positions.masked_fill(presence == 0, input_ids.shape[1])
        hidden = layer.feed(hidden, gene.ffn_units)
    if not per_token:
        return Encoded(hidden, torch.ones_like(real[:, :1]), collected, places)
    every = torch.where((presence > 0)[..., None], hidden, every)
    return Encoded(hidden, real & (presence > 0), collected, places, every, may_answer(real, token_type_ids))
