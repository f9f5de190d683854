"""Names and shapes of a model's arrays, known without torch: what the graph builder reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Arrays = dict[str, npt.NDArray[np.float32]]
_DRAWN = 400_009  # odd, as is what lies behind an even start: rows of an even width are not repeated


def array_shapes(config: CrossEncoderConfig) -> dict[str, tuple[int, ...]]:
    """State-dict name -> shape for a slim model of this configuration; widths of zero give empty arrays."""
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        **{f"encoder.embeddings.{name}": shape for name, shape in config.embedding_shapes().items()},
        **_vectors("encoder.embeddings.norm", width),
    }
    for layer, gene in enumerate(config.genome):
        prefix, inner = f"encoder.layers.{layer}.", gene.heads * config.head_size
        for kind in ("query", "key", "value"):
            shapes |= {f"{prefix}{kind}.weight": (inner, width), f"{prefix}{kind}.bias": (inner,)}
        shapes |= {f"{prefix}output.weight": (width, inner), f"{prefix}output.bias": (width,)}
        shapes |= {f"{prefix}ffn_in.weight": (gene.ffn_units, width), f"{prefix}ffn_in.bias": (gene.ffn_units,)}
        shapes |= {f"{prefix}ffn_out.weight": (width, gene.ffn_units), f"{prefix}ffn_out.bias": (width,)}
        shapes |= {**_vectors(f"{prefix}attention_norm", width), **_vectors(f"{prefix}ffn_norm", width)}
    shapes |= {"head.weight": (config.outputs, config.head_inputs), "head.bias": (config.outputs,)}
    return shapes | config.more_shapes()


def checked_arrays(config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """The arrays as float32; raises ``ValueError`` naming one that is missing, not known or of another shape."""
    shapes = array_shapes(config)
    if unknown := sorted(set(arrays) - set(shapes)):
        raise ValueError(f"array {unknown[0]!r} does not belong to a model of {len(config.genome)} layers")
    checked: Arrays = {}
    for name, shape in shapes.items():
        if name not in arrays:
            raise ValueError(f"array {name!r} is missing, expected shape {shape}")
        if arrays[name].shape != shape:
            raise ValueError(f"array {name!r} must have shape {shape}, got {arrays[name].shape}")
        checked[name] = np.asarray(arrays[name], np.float32)
    return checked


def random_arrays(config: CrossEncoderConfig, seed: int = 0, *, scale: float = 0.02) -> Arrays:
    """Weights for timing: normal with deviation ``scale``, LayerNorm weights around one, so that nothing overflows.

    Hundreds of models are loaded for a profile, and drawing is slow: all share what was drawn, and large arrays repeat
    it.
    """
    drawn = _drawn(seed) * np.float32(scale)
    arrays: Arrays = {}
    for number, (name, shape) in enumerate(array_shapes(config).items()):
        start = 1000 * number % (_DRAWN // 2)
        values = np.resize(drawn[start : start + math.prod(shape)], shape)  # which copies all that it is given
        arrays[name] = values + np.float32(1) if name.endswith("norm.weight") else values
    return arrays


@lru_cache(maxsize=1)
def _drawn(seed: int) -> npt.NDArray[np.float32]:
    values = np.random.default_rng(seed).standard_normal(_DRAWN, dtype=np.float32)
    values.flags.writeable = False
    return values


def _vectors(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
