"""Configuration of the encoder: per-layer widths and the keep schedule, in Hugging Face's own format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from sparsefront.spaces import Genome, Widths


class SparseBertConfig(PretrainedConfig):  # type: ignore[misc]
    """A BERT encoder whose layers may differ in heads, FFN units and share of tokens kept.

    ``layer_heads``, ``layer_ffn_units`` and ``layer_keep_percent`` have one entry per layer. ``head_size`` is free:
    a layer's attention is ``layer_heads[i] * head_size`` wide, whatever ``hidden_size`` is.
    """

    model_type = "sparsefront_bert"

    def __init__(
        self,
        *,
        vocab_size: int = 30522,
        hidden_size: int = 384,
        head_size: int = 32,
        layer_heads: Sequence[int] = (12,) * 6,
        layer_ffn_units: Sequence[int] = (1536,) * 6,
        layer_keep_percent: Sequence[int] | None = None,
        max_position_embeddings: int = 512,
        type_vocab_size: int = 2,
        hidden_act: str = "gelu",
        layer_norm_eps: float = 1e-12,
        hidden_dropout_prob: float = 0.1,
        initializer_range: float = 0.02,
        pad_token_id: int = 0,
        **kwargs: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.head_size = head_size
        self.layer_heads = list(layer_heads)
        self.layer_ffn_units = list(layer_ffn_units)
        self.layer_keep_percent = list(layer_keep_percent or (100,) * len(self.layer_heads))
        self.max_position_embeddings = max_position_embeddings
        self.type_vocab_size = type_vocab_size
        self.hidden_act = hidden_act
        self.layer_norm_eps = layer_norm_eps
        self.hidden_dropout_prob = hidden_dropout_prob
        self.initializer_range = initializer_range
        super().__init__(pad_token_id=pad_token_id, **kwargs)
        lengths = {len(self.layer_heads), len(self.layer_ffn_units), len(self.layer_keep_percent)}
        if len(lengths) != 1:
            raise ValueError(f"per-layer lists must have equal lengths, got {sorted(lengths)}")
        if hidden_act not in ("gelu", "relu"):
            raise ValueError(f"hidden_act must be gelu or relu, got {hidden_act!r}")

    @property
    def genome(self) -> Genome:
        """The widths and schedule that this model physically has."""
        return Genome.from_columns(self.layer_heads, self.layer_ffn_units, self.layer_keep_percent)

    @property
    def widths(self) -> Widths:
        """Bounds of the space that this model spans as a supernet."""
        return Widths(len(self.layer_heads), max(self.layer_heads), max(self.layer_ffn_units))

    @property
    def num_hidden_layers(self) -> int:
        """Hugging Face's name for the number of layers."""
        return len(self.layer_heads)

    def with_genome(self, genome: Genome) -> SparseBertConfig:
        """The same encoder with other widths and another keep schedule."""
        values = self.to_dict()
        values.update(
            layer_heads=list(genome.column("heads")),
            layer_ffn_units=list(genome.column("ffn_units")),
            layer_keep_percent=list(genome.column("keep_percent")),
        )
        return type(self).from_dict(values)


class CrossEncoderConfig(SparseBertConfig):
    """A text cross-encoder: the encoder and one logit from [CLS]."""

    model_type = "sparsefront_cross_encoder"
