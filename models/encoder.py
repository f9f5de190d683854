"""ElasticEncoder: one BERT encoder that runs any genome by slicing prefixes of its heads and FFN units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefront.models.config import SparseBertConfig
from sparsefront.models.selection import (
    ABOVE_ATTENTION,
    attention_received,
    leading_first,
    may_answer,
    placed,
    positions_of,
    protected_tokens,
    protecting,
    select_tokens,
)
from sparsefront.spaces import Genome

FUSED_FROM_TOKENS = 64
"""From here on the fused kernel trains faster than plain products, and needs no matrix of them in memory
(``benchmarks/attention.py``)."""
_LEAST_MASS = 1e-30
"""Of the attention that goes to tokens that are there, so that nothing is divided by 0."""
_LEAST_LEFT = 1e-3
"""Share of it that a token leaves to the others, at least, when its slope is taken."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


@dataclass
class LayerGates:
    """Multipliers of one layer's units, for importance: ``heads (batch, heads)``, ``units (batch, ffn_units)`` and
    ``feature_heads (batch, feature_heads)``."""

    heads: Tensor
    units: Tensor
    feature_heads: Tensor


class Reader(Protocol):
    """Reads the text's states along with the encoder, without changing them.

    Attributes:
        tokens: what it has made of them, ``(batch, features, feature_width)``.
    """

    tokens: Tensor

    def __call__(self, layer: int, hidden: Tensor, mask: Tensor, presence: Tensor | None) -> None:
        """What stands before a layer: ``hidden (batch, tokens, width)``, ``mask (batch, tokens)`` bool, true at real
        tokens, and, where tokens are masked out instead of gathered, how much of each is there, in [0, 1]."""


@dataclass
class Encoded:
    """What the encoder returns.

    Attributes:
        hidden: ``(batch, tokens_left, width)``; ``(batch, 1, width)``, the [CLS] row, when only that was asked for.
        mask: ``(batch, tokens_left)`` bool, true at real tokens.
        scores: per layer ``(batch, tokens_there)`` attention received, for the layers that scored (others ``None``).
        positions: per layer ``(batch, tokens_there)``, where in the sequence the tokens stand that its attention sees;
            past the last token where a sequence has fewer.
        every: ``(batch, tokens, width)``, the last state of every token: that in which it was dropped, behind the
            attention whose layer drops it, or what leaves the last layer. ``None`` when only [CLS] was asked for.
        answers: ``(batch, tokens)`` bool, where an answer may begin or end: in the second text, or, where it has none,
            at [CLS]. ``None`` likewise.
        features: ``(batch, features, feature_width)``, tokens of a feature branch that read along, where there is one.
    """

    hidden: Tensor
    mask: Tensor
    scores: list[Tensor | None]
    positions: list[Tensor]
    every: Tensor | None = None
    answers: Tensor | None = None
    features: Tensor | None = None


class Embeddings(nn.Module):
    """Word, position and token-type embeddings, summed and normalised."""

    def __init__(self, config: SparseBertConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor:
        """``(batch, tokens)`` twice -> ``(batch, tokens, width)``."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        summed = self.word(input_ids) + self.position(positions) + self.token_type(token_type_ids)
        normed: Tensor = self.norm(summed)
        return normed


class BehaviourEmbeddings(nn.Module):
    """Vectors of behaviours with their places, normalised; what stands at the first place is learnt, as of [CLS].

    A vector of token type 0 is an item, which has no place.
    """

    def __init__(self, config: SparseBertConfig) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.zeros(config.hidden_size))
        self.item = nn.Parameter(torch.zeros(config.hidden_size))
        self.position = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, vectors: Tensor, token_type_ids: Tensor) -> Tensor:
        """``(batch, tokens, width)``, zero at a [CLS] -> the same shape."""
        places = self.position(torch.arange(vectors.shape[1], device=vectors.device))
        first = functional.pad(self.first[None], (0, 0, 0, vectors.shape[1] - 1))
        added = torch.where(token_type_ids[..., None] == 0, self.item, places + first)
        normed: Tensor = self.norm((vectors + added).to(self.norm.weight.dtype))
        return normed


class ElasticLayer(nn.Module):
    """One post-norm transformer layer of at most ``heads`` heads and ``ffn_units`` units."""

    def __init__(self, config: SparseBertConfig, heads: int, ffn_units: int) -> None:
        super().__init__()
        width, inner = config.hidden_size, heads * config.head_size
        self.head_size = config.head_size
        self.activation: Callable[[Tensor], Tensor] = ACTIVATIONS[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.query, self.key, self.value = (_linear(width, inner) for _ in range(3))
        self.output = _linear(inner, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.ffn_in = _linear(width, ffn_units)
        self.ffn_out = _linear(ffn_units, width)
        self.ffn_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def attend(
        self,
        hidden: Tensor,
        mask: Tensor,
        heads: int,
        *,
        cls_only: bool = False,
        score: bool = False,
        gates: LayerGates | None = None,
        presence: Tensor | None = None,
        unpadded: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Self-attention of the first ``heads`` heads with residual and norm.

        Args:
            hidden: ``(batch, tokens, width)``.
            mask: ``(batch, tokens)`` bool, true at real tokens.
            heads: heads used; 0 leaves the output bias, the residual and the norm.
            cls_only: compute only the [CLS] row.
            score: also return the attention each token received.
            gates: multipliers of the heads' outputs.
            presence: ``(batch, tokens)`` in [0, 1], how much of each token is still there: attention to it is
                multiplied by that before it is normalised, and tokens at 0 do not vote for others. Tokens at 0 change
                nothing, as if they had been gathered out, but a gradient reaches their presence.
            unpadded: all tokens are known to be real, so that nothing has to be masked.

        Returns:
            ``(batch, tokens or 1, width)`` and scores ``(batch, tokens)`` or ``None``.
        """
        rows = hidden[:, :1] if cls_only else hidden
        scores = None
        if heads == 0:
            mixed = self.output.bias.expand_as(rows)
        else:
            inner = heads * self.head_size
            query = self._project(self.query, rows, inner)
            key = self._project(self.key, hidden, inner)
            value = self._project(self.value, hidden, inner)
            short = hidden.shape[1] < FUSED_FROM_TOKENS
            if score or presence is not None or (self.training and short):
                logits = query @ key.transpose(-1, -2) * self.head_size**-0.5
                logits = at_least_fp32(logits).masked_fill(~mask[:, None, None, :], float("-inf"))
                probabilities = logits.softmax(-1)
                voters = mask
                if presence is not None:
                    probabilities = among_present(probabilities, presence)
                    voters = mask & (presence > 0)
                scores = attention_received(probabilities, voters) if score else None
                context = probabilities.to(value.dtype) @ value
            else:
                masking = None if unpadded else mask[:, None, None, :]
                context = functional.scaled_dot_product_attention(query, key, value, attn_mask=masking)
            if gates is not None:
                context = context * gates.heads[:, :heads, None, None].to(context.dtype)
            context = context.transpose(1, 2).flatten(2)
            mixed = functional.linear(context, self.output.weight[:, :inner], self.output.bias)
        return self.attention_norm(rows + self.dropout(mixed)), scores

    def feed(self, hidden: Tensor, units: int, *, gates: LayerGates | None = None) -> Tensor:
        """FFN of the first ``units`` units with residual and norm: ``(batch, tokens, width)`` -> the same shape."""
        if units == 0:
            out = self.ffn_out.bias.expand_as(hidden)
        else:
            inner = functional.linear(hidden, self.ffn_in.weight[:units], self.ffn_in.bias[:units])
            inner = self.activation(inner)
            if gates is not None:
                inner = inner * gates.units[:, None, :units].to(inner.dtype)
            out = functional.linear(inner, self.ffn_out.weight[:, :units], self.ffn_out.bias)
        normed: Tensor = self.ffn_norm(hidden + self.dropout(out))
        return normed

    def _project(self, linear: nn.Linear, hidden: Tensor, inner: int) -> Tensor:
        projected = functional.linear(hidden, linear.weight[:inner], linear.bias[:inner])
        split: Tensor = projected.unflatten(-1, (-1, self.head_size))
        return split.transpose(1, 2)


class ElasticEncoder(nn.Module):
    """A supernet and, once slimmed, the small model itself: the weights it holds are the largest genome it can run.

    With the genome of its configuration and ``cls_only=False`` it computes exactly what ``transformers.BertModel``
    does. Any genome whose widths do not exceed the layers' own runs by slicing; the units are expected in order of
    importance (:mod:`sparsefront.models.importance`).
    """

    def __init__(self, config: SparseBertConfig) -> None:
        super().__init__()
        self.genome: Genome = config.genome
        self.config = config
        self.embeddings = BehaviourEmbeddings(config) if config.histories else Embeddings(config)
        self.layers = nn.ModuleList(ElasticLayer(config, gene.heads, gene.ffn_units) for gene in config.genome)

    @property
    def elastic_layers(self) -> list[ElasticLayer]:
        """The layers, typed."""
        return [layer for layer in self.layers if isinstance(layer, ElasticLayer)]

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        token_type_ids: Tensor,
        *,
        genome: Genome | None = None,
        cls_only: bool | None = None,
        score_layers: tuple[int, ...] = (),
        gates: list[LayerGates] | None = None,
        reader: Reader | None = None,
        more: Tensor | None = None,
    ) -> Encoded:
        """Encode a padded batch.

        Args:
            input_ids: ``(batch, tokens)``, [CLS] first, padding at the end.
            attention_mask: ``(batch, tokens)``, non-zero at real tokens.
            token_type_ids: ``(batch, tokens)``.
            genome: widths and keep schedule to run; the model's own by default.
            cls_only: compute only the [CLS] row of the last layer (which then does not prune); by default unless the
                configuration says that a head reads every token.
            score_layers: layers that return their scores whether or not pruning needs them.
            gates: per-layer multipliers of heads and units.
            reader: told the states before every layer.
            more: ``(batch, tokens, width)``, states of further tokens, of no place in the text, that stand behind it.

        Raises:
            ValueError: if the genome has another depth or a layer wider than the model's, or prunes tokens where there
                are more than the text's.
        """
        genome = self.genome if genome is None else self.check(genome)
        cls_only = not self.config.per_token if cls_only is None else cls_only
        mask = attention_mask.bool()
        # Rows of one length lose as many tokens each. A GPU would have to be waited for to know.
        unpadded = mask.device.type == "cpu" and bool(mask.all())
        answers = None if cls_only else may_answer(mask, token_type_ids)
        hidden = self.embeddings(input_ids, token_type_ids)
        if more is not None:
            if not genome.keeps_all_tokens:
                raise ValueError(f"tokens beside the text's are not pruned, got genome {genome}")
            hidden = torch.cat([hidden, more], dim=1)
            mask = torch.cat([mask, mask.new_ones(more.shape[:2])], dim=1)
        needed = genome.scoring_layers(cls_only_last=cls_only)
        protected = None if more is not None else self.protected(input_ids, token_type_ids)
        positions = positions_of(mask)
        ranking = protecting(leading_first(mask), protected, above=mask.shape[1])
        collected: list[Tensor | None] = []
        places: list[Tensor] = []
        every: Tensor | None = None
        for index, (layer, gene) in enumerate(zip(self.elastic_layers, genome, strict=True)):
            if reader is not None:
                reader(index, hidden, mask, None)
            last = cls_only and index == len(genome) - 1
            gate = gates[index] if gates is not None else None
            score = bool(gene.heads) and not last and (needed[index] or index in score_layers)
            hidden, scores = layer.attend(
                hidden, mask, gene.heads, cls_only=last, score=score, gates=gate, unpadded=unpadded
            )
            collected.append(scores)
            places.append(positions)
            if last:
                mask = mask[:, :1]
            elif gene.keep_percent < 100:
                if scores is not None:
                    ranking = protecting(scores.detach(), protected, above=ABOVE_ATTENTION)
                every = None if cls_only else placed(hidden, positions, every)
                kept, survives = select_tokens(ranking, mask, gene.keep_percent)
                hidden = hidden.gather(1, kept[..., None].expand(-1, -1, hidden.shape[-1]))
                ranking, mask = ranking.gather(1, kept), survives
                protected = None if protected is None else protected.gather(1, kept)
                positions = positions.gather(1, kept).masked_fill(~survives, input_ids.shape[1])
            elif scores is not None:
                ranking = protecting(scores.detach(), protected, above=ABOVE_ATTENTION)
            hidden = layer.feed(hidden, gene.ffn_units, gates=gate)
        every = None if cls_only else placed(hidden, positions, every)
        return Encoded(hidden, mask, collected, places, every, answers)

    def protected(self, input_ids: Tensor, token_type_ids: Tensor) -> Tensor | None:
        """``(batch, tokens)`` bool: which tokens pruning takes last; ``None`` where all are alike."""
        own = self.config
        return protected_tokens(own.protect, input_ids, token_type_ids, separator_id=own.separator_id)

    def check(self, genome: Genome) -> Genome:
        """The genome, or ``ValueError`` when this model is too small for it."""
        if len(genome) != len(self.genome):
            raise ValueError(f"genome must have {len(self.genome)} layers, got {len(genome)}: {genome}")
        for index, (own, gene) in enumerate(zip(self.genome, genome, strict=True)):
            wider = gene.heads > own.heads or gene.ffn_units > own.ffn_units or gene.feature_heads > own.feature_heads
            if wider or gene.behaviours > own.behaviours:
                widest = replace(own, keep_percent=100)
                raise ValueError(f"layer {index} holds {widest} at most, got {gene} in genome {genome}")
        return genome


def among_present(probabilities: Tensor, presence: Tensor) -> Tensor:
    """Attention among the tokens that are there.

    Backward a presence has the slope to what there would be without the token, or with it where it is gone, and not
    the tangent: where most of the attention goes to tokens that are gone, that says many times what one of them could
    change.

    Args:
        probabilities: ``(batch, heads, queries, tokens)`` among all.
        presence: ``(batch, tokens)`` in [0, 1].
    """
    there = presence[:, None, None, :]
    if presence.requires_grad:
        with torch.no_grad():
            mass = (probabilities * there).sum(-1, keepdim=True).clamp_min(_LEAST_MASS)
            after = torch.where(there > 0.5, mass - probabilities * there, mass + probabilities * (1 - there))
            slope = mass / after.clamp_min(mass * _LEAST_LEFT)
        there = there.detach() + slope * (there - there.detach())
    present = probabilities * there
    return present / present.sum(-1, keepdim=True).clamp_min(_LEAST_MASS)


def at_least_fp32(values: Tensor) -> Tensor:
    """In fp32, or in what is more exact already."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer whose dimensions may be zero (``nn.Linear`` warns when it initialises those)."""
    linear = nn.Linear(1, 1)
    linear.in_features, linear.out_features = inputs, outputs
    linear.weight = nn.Parameter(torch.zeros(outputs, inputs))
    linear.bias = nn.Parameter(torch.zeros(outputs))
    return linear
