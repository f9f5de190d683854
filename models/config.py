"""Configuration of the encoder: per-layer widths and the keep schedule, in Hugging Face's own format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from sparsefront.models.selection import PROTECTIONS, Protect
from sparsefront.spaces import Genome, Widths

ACTIVATIONS = ("gelu", "relu")


class SparseBertConfig(PretrainedConfig):  # type: ignore[misc]
    """A BERT encoder whose layers may differ in heads, FFN units and share of tokens kept.

    ``layer_heads``, ``layer_ffn_units`` and ``layer_keep_percent`` have one entry per layer. ``head_size`` is free:
    a layer's attention is ``layer_heads[i] * head_size`` wide, whatever ``hidden_size`` is. ``protect`` says which
    tokens pruning takes last; separators are those of ``separator_id``. ``per_token``: a head reads the last state of
    every token, also of those that were dropped, instead of [CLS]'s alone.
    """

    model_type = "sparsefront_bert"

    vocab_size: int = 30522
    hidden_size: int = 384
    head_size: int = 32
    layer_heads: list[int] | tuple[int, ...] = (12,) * 6
    layer_ffn_units: list[int] | tuple[int, ...] = (1536,) * 6
    layer_keep_percent: list[int] | tuple[int, ...] = ()
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_act: str = "gelu"
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    pad_token_id: int | None = 0
    separator_id: int = 102
    protect: Protect = "none"
    per_token: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.layer_heads = list(self.layer_heads)
        self.layer_ffn_units = list(self.layer_ffn_units)
        self.layer_keep_percent = list(self.layer_keep_percent) or [100] * len(self.layer_heads)
        lengths = [len(self.layer_heads), len(self.layer_ffn_units), len(self.layer_keep_percent)]
        if len(set(lengths)) != 1 or not lengths[0]:
            raise ValueError(
                "layer_heads, layer_ffn_units and layer_keep_percent must have one entry per layer, "
                f"got {lengths} entries"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise ValueError(f"hidden_act must be one of {', '.join(ACTIVATIONS)}, got {self.hidden_act!r}")
        if self.protect not in PROTECTIONS:
            raise ValueError(f"protect must be one of {', '.join(PROTECTIONS)}, got {self.protect!r}")
        super().__post_init__(**kwargs)

    @property
    def genome(self) -> Genome:
        """The widths and schedule that this model physically has."""
        return Genome.from_columns(
            self.layer_heads,
            self.layer_ffn_units,
            self.layer_keep_percent,
            self.reading_heads(),
            [self.behaviours, *([0] * (len(self.layer_heads) - 1))],
        )

    @property
    def histories(self) -> int:
        """How many histories of behaviours a model reads instead of a text."""
        return 0

    @property
    def behaviours(self) -> int:
        """Of a history; 0 where there are no histories."""
        return 0

    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name within the embeddings -> shape, of what stands before their norm."""
        width = self.hidden_size
        return {
            "word.weight": (self.vocab_size, width),
            "position.weight": (self.max_position_embeddings, width),
            "token_type.weight": (self.type_vocab_size, width),
        }

    def reading_heads(self) -> list[int]:
        """Per layer, the heads with which features read the text."""
        return [0] * len(self.layer_heads)

    @property
    def widths(self) -> Widths:
        """Bounds of the space that this model spans as a supernet."""
        widest = max(self.layer_heads), max(self.layer_ffn_units), max(self.reading_heads())
        return Widths(len(self.layer_heads), *widest, self.behaviours)

    @property
    def num_hidden_layers(self) -> int:
        """Hugging Face's name for the number of layers."""
        return len(self.layer_heads)

    def columns_of(self, genome: Genome) -> dict[str, Any]:
        """What a genome says, under this configuration's names; ``ValueError`` for what it cannot say."""
        if any(genome.column("feature_heads")):
            raise ValueError(f"a model without features has no heads for them, got genome {genome}")
        if genome.behaviours:
            raise ValueError(f"a model of texts has no history that could be cut, got genome {genome}")
        return {
            "layer_heads": list(genome.column("heads")),
            "layer_ffn_units": list(genome.column("ffn_units")),
            "layer_keep_percent": list(genome.column("keep_percent")),
        }

    def with_genome(self, genome: Genome) -> SparseBertConfig:
        """The same encoder with other widths and another keep schedule."""
        changed: SparseBertConfig = type(self).from_dict({**self.to_dict(), **self.columns_of(genome)})
        return changed


class CrossEncoderConfig(SparseBertConfig):
    """A text cross-encoder: the encoder and a head that makes ``outputs`` logits of [CLS], one per class or one only.

    Where there are several, ``id2label`` names the classes. With ``per_token`` it makes two logits of every token, of
    an answer's ends.
    """

    model_type = "sparsefront_cross_encoder"

    outputs: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        if type(self.outputs) is not int or self.outputs < 1:
            raise ValueError(f"outputs must be a whole number of at least 1, got {self.outputs!r}")
        if self.per_token and self.outputs != 2:
            raise ValueError(f"a head of every token has 2 outputs, got {self.outputs}")
        if self.outputs > 1 and self.id2label is None:
            kwargs.setdefault("num_labels", self.outputs)
        super().__post_init__(**kwargs)
        if self.outputs > 1 and len(self.id2label) != self.outputs:
            raise ValueError(f"id2label must name {self.outputs} classes, got {len(self.id2label)}")

    @property
    def head_inputs(self) -> int:
        """Width of what the head reads."""
        return self.hidden_size

    @property
    def features(self) -> int:
        """How many feature columns a model reads beside the text."""
        return 0

    @property
    def text(self) -> CrossEncoderConfig:
        """The same encoder without features: itself."""
        return self

    @property
    def feature_columns(self) -> tuple[int, int]:
        """How many of them are numbers and how many categories."""
        return 0, 0

    def more_shapes(self) -> dict[str, tuple[int, ...]]:
        """State-dict name -> shape of what a model has beside encoder and head."""
        return {}

    def with_spans(self) -> CrossEncoderConfig:
        """The same encoder with two logits per token: of a span's first and of its last one."""
        ends = self.with_classes(("first", "last"))
        changed: CrossEncoderConfig = type(self).from_dict({**ends.to_dict(), "per_token": True})
        return changed

    def with_classes(self, names: Sequence[object]) -> CrossEncoderConfig:
        """The same encoder with a logit per class, or with one logit where there are no names."""
        values = {**self.to_dict(), "outputs": len(names) or 1, "per_token": False}
        values["id2label"] = {index: str(name) for index, name in enumerate(names)} or None
        values["label2id"] = {str(name): index for index, name in enumerate(names)} or None
        changed: CrossEncoderConfig = type(self).from_dict(values)
        return changed
