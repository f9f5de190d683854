"""The ONNX graph of a slim model, written by hand.

An exporter would trace torch for seconds; this takes milliseconds, which profiling a hundred genomes needs, and it
leaves the formulation to us. Only standard operators (opset 23) are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import onnx
from onnx import helper

from sparsefront.models.bahe_graph import HISTORY_INPUTS, BaheGraph
from sparsefront.models.bert4ctr_graph import Bert4CtrGraph
from sparsefront.models.parameters import checked_arrays
from sparsefront.models.text_graph import INPUTS, OUTPUT, CrossEncoderGraph, Precision
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

__all__ = [
    "HISTORY_INPUTS",
    "INPUTS",
    "OUTPUT",
    "STATIC_SHAPE",
    "Precision",
    "build_graph",
    "onnx_file",
    "properties_of",
]

STATIC_SHAPE = "static_shape"
GRAPHS: dict[str, type[CrossEncoderGraph]] = {
    "sparsefront_cross_encoder": CrossEncoderGraph,
    "sparsefront_bert4ctr": Bert4CtrGraph,
    "sparsefront_bahe": BaheGraph,
}
"""By the type of a configuration."""


def build_graph(
    config: CrossEncoderConfig,
    arrays: Mapping[str, npt.NDArray[Any]],
    *,
    precision: Precision = "fp32",
    static_shape: tuple[int, int] | None = None,
) -> onnx.ModelProto:
    """The graph of the model that ``arrays`` (state-dict names) holds.

    With ``int8`` the products with weights are integer products: weights are rounded once, symmetrically per output,
    activations per call over the whole tensor. Attention, norms and embeddings stay float32. ``static_shape``, (batch,
    tokens), is written into the graph's properties for a runtime that compiles it for that; its inputs stay dynamic.

    Inputs ``input_ids``, ``attention_mask``, ``token_type_ids``: int64 (batch, tokens), both dynamic; padding, if any,
    stands at the end of a row. A model with a feature branch has besides, where it has such columns, ``numeric``,
    float32 (batch, numeric columns), NaN where a value is missing, and ``categorical``, int64 (batch, categorical
    columns). A model of histories has no text but ``vectors``, float32 (batch, histories, tokens, width), zero at the
    first place of each, which is [CLS]'s, ``attention_mask``, int64 (batch, histories, tokens), and ``item``, float32
    (batch, width).

    Output ``logits``: float32 (batch,) of one output, (batch, outputs) of several, (batch, tokens, 2) of spans.

    Raises:
        InputError: a type of model that has no graph.
        ValueError: an array that is missing, not known, or not of the shape that the configuration asks for.
    """
    if config.model_type not in GRAPHS:
        raise InputError(f"a model of type {config.model_type} has no graph; expected one of {', '.join(GRAPHS)}")
    model = GRAPHS[config.model_type](config, checked_arrays(config, arrays), precision).build()
    if static_shape is not None:
        helper.set_model_props(model, {**properties_of(model), STATIC_SHAPE: "x".join(map(str, static_shape))})
    return model


def properties_of(model: onnx.ModelProto) -> dict[str, str]:
    """What a graph says of itself: genome, hidden_size, precision and, if it is to be compiled for one, its shape."""
    return {entry.key: entry.value for entry in model.metadata_props}


def onnx_file(directory: str | Path) -> Path:
    """The graph of an export folder; :class:`InputError` when there is none."""
    path = Path(directory) / "model.onnx"
    if not path.is_file():
        raise InputError(f"{path} does not exist; expected an export folder with model.onnx")
    return path
