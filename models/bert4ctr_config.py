"""Configuration of BERT4CTR: the encoder's, and what the feature branch is made of."""

from __future__ import annotations

import math
from dataclasses import fields
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.features import Features
from sparsefront.spaces import Genome


class Bert4CtrConfig(CrossEncoderConfig):
    """A cross-encoder with a feature branch.

    ``numeric_edges`` has the quantiles of every numeric column, ``categorical_ids`` the number of ids of every
    categorical one. ``layer_feature_heads`` says how many heads of ``feature_head_size`` the tokens of features, of
    ``feature_width``, read each layer's text with; none by default. Text and features meet in ``mixing_units``.
    """

    model_type = "sparsefront_bert4ctr"

    numeric_edges: list[list[float]] | tuple[tuple[float, ...], ...] = ()
    categorical_ids: list[int] | tuple[int, ...] = ()
    feature_width: int = 48
    feature_head_size: int = 16
    layer_feature_heads: list[int] | tuple[int, ...] = ()
    mixing_units: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.numeric_edges = [[float(edge) for edge in edges] for edges in self.numeric_edges]
        self.categorical_ids = list(self.categorical_ids)
        self.layer_feature_heads = list(self.layer_feature_heads) or [0] * len(self.layer_heads)
        if self.per_token:
            raise ValueError("a feature branch does not go with a head of every token")
        for name in ("feature_width", "feature_head_size", "mixing_units"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        for edges in self.numeric_edges:
            if len(edges) < 2 or not all(map(math.isfinite, edges)) or any(b <= a for a, b in pairwise(edges)):
                raise ValueError(f"numeric_edges must be at least two finite numbers that rise, got {edges}")
        if any(type(count) is not int or count < 1 for count in self.categorical_ids):
            raise ValueError(f"categorical_ids must be whole numbers of at least 1, got {self.categorical_ids}")
        if not self.features and not self.histories:
            raise ValueError("a feature branch needs features, got none")
        heads = self.layer_feature_heads
        if len(heads) != len(self.layer_heads) or any(type(count) is not int or count < 0 for count in heads):
            raise ValueError(
                f"layer_feature_heads must be {len(self.layer_heads)} whole numbers of at least 0, got {heads}"
            )

    def reading_heads(self) -> list[int]:
        """``layer_feature_heads``."""
        return list(self.layer_feature_heads)

    def columns_of(self, genome: Genome) -> dict[str, Any]:
        """A genome's columns, that of the features' heads too."""
        text = Genome.from_columns(
            genome.column("heads"),
            genome.column("ffn_units"),
            genome.column("keep_percent"),
            behaviours=genome.column("behaviours"),
        )
        return {**super().columns_of(text), "layer_feature_heads": list(genome.column("feature_heads"))}

    @property
    def features(self) -> int:
        """How many feature columns, and so feature tokens, there are."""
        return sum(self.feature_columns)

    @property
    def feature_columns(self) -> tuple[int, int]:
        """How many of them are numbers and how many categories."""
        return len(self.numeric_edges), len(self.categorical_ids)

    @property
    def text(self) -> CrossEncoderConfig:
        """The same encoder without features."""
        own = {field.name for field in fields(type(self))} - {field.name for field in fields(CrossEncoderConfig)}
        dropped = {"model_type", "architectures", *own}
        values = {key: value for key, value in self.to_dict().items() if key not in dropped}
        found: CrossEncoderConfig = CrossEncoderConfig.from_dict(values)
        return found

    @property
    def branch_sizes(self) -> tuple[int, int, int]:
        """What besides a genome decides what reading costs: features, their width, and the size of a head."""
        return self.features, self.feature_width, self.feature_head_size

    def pieces(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Of every numeric column and piece, where it begins and one over its length: ``(columns, pieces)`` each.

        Columns of fewer pieces than others have some that are always empty, of slope 0.
        """
        most = max((len(one) - 1 for one in self.numeric_edges), default=0)
        low, slope = np.zeros((2, len(self.numeric_edges), most), np.float32)
        for at, one in enumerate(self.numeric_edges):
            ends = np.array(one, np.float32)
            low[at, : len(one) - 1] = ends[:-1]
            slope[at, : len(one) - 1] = 1 / np.diff(ends)
        return low, slope

    def more_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the branch; a layer without heads for features has none."""
        if not self.features:
            return {}
        width, numbers = self.feature_width, len(self.numeric_edges)
        embedding, norm = "branch.embedding.", ("weight", "bias")
        shapes: dict[str, tuple[int, ...]] = {
            f"{embedding}pieces": (numbers, self.pieces()[0].shape[1], width),
            f"{embedding}level": (numbers, width),
            f"{embedding}missing": (numbers, width),
            f"{embedding}ids": (sum(self.categorical_ids), width),
            **{f"{embedding}norm.{kind}": (width,) for kind in norm},
        }
        linears = {
            "branch.mixing": (self.mixing_units, self.hidden_size + self.features * width),
            "branch.head": (self.outputs, self.mixing_units),
        }
        for layer, heads in enumerate(self.layer_feature_heads):
            if heads:
                prefix, inner = f"branch.layers.{layer}.", heads * self.feature_head_size
                linears |= {
                    f"{prefix}query": (inner, width),
                    f"{prefix}key": (inner, self.hidden_size),
                    f"{prefix}value": (inner, self.hidden_size),
                    f"{prefix}output": (width, inner),
                    f"{prefix}ffn_in": (2 * width, width),
                    f"{prefix}ffn_out": (width, 2 * width),
                }
                for name in ("attention_norm", "ffn_norm"):
                    shapes |= {f"{prefix}{name}.{kind}": (width,) for kind in norm}
        for name, shape in linears.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
        return shapes

    @classmethod
    def of(cls, text: CrossEncoderConfig, features: Features, **branch: Any) -> Self:
        """The same encoder with a branch for these features; ``branch``: this class's own settings.

        All layers read with three heads unless ``layer_feature_heads`` says otherwise, or the encoder has a branch
        already: then its settings stay.
        """
        values = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "architectures")}
        known = {
            "numeric_edges": [[float(edge) for edge in one.edges] for one in features.numeric],
            "categorical_ids": [one.ids for one in features.categorical],
        }
        return cls(**{"layer_feature_heads": [3] * len(text.layer_heads), **values, **known, **branch})
