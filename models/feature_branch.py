"""FeatureBranch: one token per feature, which reads the text in every layer by Uni-Attention and is never read by it.

BERT4CTR (arXiv 2308.11527) lets the tokens of features query the text's states; how its tokens are made, their width
and what follows them is not public, and is decided here: numbers are encoded piecewise linearly between quantiles
(arXiv 2203.05556), categories by a table, missing values by vectors of their own; a token is far narrower than a word's
state, and has no position.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparsefront.models.batching import FeatureTensors
from sparsefront.models.encoder import at_least_fp32

if TYPE_CHECKING:
    from sparsefront.models.bert4ctr_config import Bert4CtrConfig


class FeatureEmbedding(nn.Module):
    """Feature values to tokens: the numeric columns first, then the categorical ones."""

    def __init__(self, config: Bert4CtrConfig) -> None:
        super().__init__()
        self.config = config
        width, numbers = config.feature_width, len(config.numeric_edges)
        self.pieces = nn.Parameter(torch.zeros(numbers, config.pieces()[0].shape[1], width))
        self.level = nn.Parameter(torch.zeros(numbers, width))
        self.missing = nn.Parameter(torch.zeros(numbers, width))
        self.ids = nn.Parameter(torch.zeros(sum(config.categorical_ids), width))
        # Not buffers: Hugging Face makes a model without memory before it loads one, and would lose what they hold.
        self._scales: dict[torch.device, tuple[Tensor, Tensor, Tensor]] = {}
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def draw(self, deviation: float) -> None:
        """Start anew: all vectors normal with this deviation."""
        for parameter in (self.pieces, self.level, self.missing, self.ids):
            nn.init.normal_(parameter, std=deviation)

    def forward(self, features: FeatureTensors) -> Tensor:
        """``(batch, features, feature_width)``."""
        numeric = features.numeric.to(self.pieces.dtype)
        absent = numeric.isnan()
        values = numeric.masked_fill(absent, 0.0)
        low, slope, first_id = self._scales_on(numeric.device)
        filled = ((values[..., None] - low) * slope).clamp(0.0, 1.0)
        told = torch.einsum("bnp,npw->bnw", filled, self.pieces) + self.level
        numbers = torch.where(absent[..., None], self.missing, told)
        categories = functional.embedding(features.categorical + first_id, self.ids)
        tokens: Tensor = self.norm(torch.cat([numbers, categories], dim=1))
        return tokens

    def _scales_on(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Where pieces begin and one over their lengths, and the first id of each categorical column."""
        if device not in self._scales:
            starts = torch.tensor([0, *self.config.categorical_ids]).cumsum(0)[:-1]
            low, slope = (torch.from_numpy(values).to(device) for values in self.config.pieces())
            self._scales[device] = low, slope, starts.to(device)
        return self._scales[device]


class UniAttention(nn.Module):
    """One layer of the branch: feature tokens query the text's states, then a small FFN, with residuals and norms."""

    def __init__(self, config: Bert4CtrConfig, heads: int) -> None:
        super().__init__()
        width, inner = config.feature_width, heads * config.feature_head_size
        self.head_size = config.feature_head_size
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.query = nn.Linear(width, inner)
        self.key = nn.Linear(config.hidden_size, inner)
        self.value = nn.Linear(config.hidden_size, inner)
        self.output = nn.Linear(inner, width)
        self.attention_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.ffn_in = nn.Linear(width, 2 * width)
        self.ffn_out = nn.Linear(2 * width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(
        self,
        tokens: Tensor,
        hidden: Tensor,
        mask: Tensor,
        heads: int,
        presence: Tensor | None,
        gates: Tensor | None = None,
    ) -> Tensor:
        """Feature tokens after this layer.

        Args:
            tokens: ``(batch, features, feature_width)``.
            hidden: ``(batch, words, width)``, the text's states before the encoder's layer.
            mask: ``(batch, words)`` bool, true at real words.
            heads: heads used, at least one.
            presence: ``(batch, words)`` in [0, 1], as in :meth:`ElasticLayer.attend`.
            gates: ``(batch, heads or more)``, multipliers of the heads' outputs.
        """
        inner = heads * self.head_size
        hidden = hidden.to(self.key.weight.dtype)  # an encoder may be of another precision than the branch
        query, key, value = (
            functional.linear(states, linear.weight[:inner], linear.bias[:inner])
            .unflatten(-1, (heads, self.head_size))
            .transpose(1, 2)
            for linear, states in ((self.query, tokens), (self.key, hidden), (self.value, hidden))
        )
        logits = at_least_fp32(query @ key.transpose(-1, -2) * self.head_size**-0.5)
        probabilities = logits.masked_fill(~mask[:, None, None, :], float("-inf")).softmax(-1)
        if presence is not None:
            present = probabilities * presence[:, None, None, :]
            probabilities = present / present.sum(-1, keepdim=True).clamp_min(1e-30)
        read = probabilities.to(value.dtype) @ value
        if gates is not None:
            read = read * gates[:, :heads, None, None].to(read.dtype)
        mixed = functional.linear(read.transpose(1, 2).flatten(2), self.output.weight[:, :inner], self.output.bias)
        tokens = self.attention_norm(tokens + self.dropout(mixed))
        fed: Tensor = self.ffn_norm(tokens + self.dropout(self.ffn_out(functional.gelu(self.ffn_in(tokens)))))
        return fed


class FeatureBranch(nn.Module):
    """Tokens of all features, a :class:`UniAttention` in the layers that have heads for it, and the way to a logit."""

    def __init__(self, config: Bert4CtrConfig) -> None:
        super().__init__()
        self.embedding = FeatureEmbedding(config)
        heads = config.layer_feature_heads
        self.layers = nn.ModuleDict({str(at): UniAttention(config, count) for at, count in enumerate(heads) if count})
        inputs = config.hidden_size + config.features * config.feature_width
        self.mixing = nn.Linear(inputs, config.mixing_units)
        self.head = nn.Linear(config.mixing_units, config.outputs)

    def uni_attention(self, layer: int) -> UniAttention:
        """That of an encoder layer; ``KeyError`` where it has none."""
        found: Any = self.layers[str(layer)]
        return cast(UniAttention, found)

    def logits(self, cls: Tensor, tokens: Tensor) -> Tensor:
        """What features add to the text's logits: ``(batch, outputs)``.

        Args:
            cls: ``(batch, width)``, [CLS]'s last state.
            tokens: ``(batch, features, feature_width)``.
        """
        together = torch.cat([cls, tokens.flatten(1)], dim=-1)
        logits: Tensor = self.head(functional.gelu(self.mixing(together)))
        return logits
