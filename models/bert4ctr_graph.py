"""The graph of a slim Bert4Ctr: that of its text, and the branch of its features, which reads along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sparsefront.models.graph_nodes import Tokens
from sparsefront.models.parameters import Arrays
from sparsefront.models.text_graph import CrossEncoderGraph, Precision, product

if TYPE_CHECKING:
    from sparsefront.models.bert4ctr_config import Bert4CtrConfig

NUMERIC, CATEGORICAL = "numeric", "categorical"


class Bert4CtrGraph(CrossEncoderGraph):
    """Feature tokens stay in one tensor (batch, features, feature_width) from layer to layer.

    Of keys and values only the weights are multiplied: a key's bias moves all scores of a query alike, and what every
    value has in common passes through the softmax into the output's bias.
    """

    config: Bert4CtrConfig

    def __init__(self, config: Bert4CtrConfig, arrays: Arrays, precision: Precision) -> None:
        self._branch: str | None = None
        super().__init__(config, arrays, precision)

    def reading_layers(self) -> list[int]:
        """Those with heads for features."""
        return [layer for layer, heads in enumerate(self.config.layer_feature_heads) if heads]

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The text's, then ``numeric`` and ``categorical`` where there are such columns."""
        found, config = super().inputs(), self.config
        if columns := len(config.numeric_edges):
            found.append(helper.make_tensor_value_info(NUMERIC, TensorProto.FLOAT, ["batch", columns]))
        if columns := len(config.categorical_ids):
            found.append(helper.make_tensor_value_info(CATEGORICAL, TensorProto.INT64, ["batch", columns]))
        return found

    def read_along(self, layer: int, hidden: str, tokens: Tokens) -> None:
        """Uni-Attention and the small FFN behind it."""
        heads, config = self.config.layer_feature_heads[layer], self.config
        if not heads:
            return
        nodes, prefix, branch = self.nodes, f"branch.layers.{layer}.", self._tokens()
        scale = np.float32(config.feature_head_size**-0.5)
        query = self._linear(branch, f"{prefix}query", scale)
        key, value = (
            self.matmul(hidden, f"{prefix}{kind}", self.arrays[f"{prefix}{kind}.weight"]) for kind in ("key", "value")
        )
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        read = nodes.op("Attention", query, key, value, tokens.mask_of(config.features), **attributes)
        mixed = nodes.op("MatMul", read, nodes.const(self.arrays[f"{prefix}output.weight"].T, f"{prefix}output.weight"))
        bias = nodes.const(self._output_bias_of(layer), f"{prefix}output.bias")
        branch = self._branch_norm(nodes.op("Sum", mixed, branch, bias), f"{prefix}attention_norm")
        inner = nodes.op("Gelu", self._linear(branch, f"{prefix}ffn_in"))
        fed = nodes.op("Sum", self._linear(inner, f"{prefix}ffn_out"), branch)
        self._branch = self._branch_norm(fed, f"{prefix}ffn_norm")

    def cls_logits(self, cls: str) -> str:
        """The text's logits and what the features add."""
        nodes = self.nodes
        flat = nodes.op("Flatten", self._tokens(), axis=1)
        together = nodes.op("Concat", cls, flat, axis=1)
        mixed = nodes.op("Gelu", self._gemm_of(together, "branch.mixing"))
        return nodes.op("Add", super().cls_logits(cls), self._gemm_of(mixed, "branch.head"))

    def _tokens(self) -> str:
        """The feature tokens as they are now."""
        if self._branch is None:
            parts = [*([self._numbers()] if self.config.numeric_edges else [])]
            parts += [self._categories()] if self.config.categorical_ids else []
            together = self.nodes.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
            self._branch = self._branch_norm(together, "branch.embedding.norm")
        return self._branch

    def _numbers(self) -> str:
        """Numbers piecewise linearly, missing ones as their own vectors: (batch, numeric columns, feature_width)."""
        nodes, config, prefix = self.nodes, self.config, "branch.embedding."
        low, slope = config.pieces()
        columns, pieces = low.shape
        absent = nodes.op("IsNaN", NUMERIC)
        zero, one = (nodes.const(np.array(value, np.float32), name) for value, name in ((0, "zero"), (1, "one")))
        value = nodes.op("Unsqueeze", nodes.op("Where", absent, zero, NUMERIC), nodes.ints(2))
        value = nodes.op("Sub", value, nodes.const(low, f"{prefix}low"))
        filled = nodes.op("Clip", nodes.op("Mul", value, nodes.const(slope, f"{prefix}slope")), zero, one)
        filled = nodes.op("Reshape", filled, nodes.ints(0, columns, 1, pieces))
        told = nodes.op("MatMul", filled, nodes.const(self.arrays[f"{prefix}pieces"], f"{prefix}pieces"))
        told = nodes.op("Reshape", told, nodes.ints(0, columns, config.feature_width))
        told = nodes.op("Add", told, nodes.const(self.arrays[f"{prefix}level"], f"{prefix}level"))
        missing = nodes.const(self.arrays[f"{prefix}missing"], f"{prefix}missing")
        return nodes.op("Where", nodes.op("Unsqueeze", absent, nodes.ints(2)), missing, told)

    def _categories(self) -> str:
        """(batch, categorical columns, feature_width)."""
        nodes, prefix = self.nodes, "branch.embedding."
        starts = np.cumsum([0, *self.config.categorical_ids[:-1]], dtype=np.int64)
        ids = nodes.op("Add", CATEGORICAL, nodes.const(starts, f"{prefix}first_id"))
        return nodes.op("Gather", nodes.const(self.arrays[f"{prefix}ids"], f"{prefix}ids"), ids)

    def _output_bias_of(self, layer: int) -> npt.NDArray[np.float32]:
        """The output's bias and what all values have in common: their bias, less what the text's states carry for the
        layer (see :meth:`attention_bias`)."""
        prefix = f"branch.layers.{layer}."
        weight = self.arrays[f"{prefix}value.weight"]
        common = self.arrays[f"{prefix}value.bias"] - product(weight, self.attention_bias(layer))
        return np.asarray(
            self.arrays[f"{prefix}output.bias"] + product(self.arrays[f"{prefix}output.weight"], common), np.float32
        )

    def _linear(self, states: str, name: str, scale: np.float32 | float = 1.0) -> str:
        """A narrow product of the branch; always fp32."""
        nodes = self.nodes
        weight = self.arrays[f"{name}.weight"] * np.float32(scale)
        bias = self.arrays[f"{name}.bias"] * np.float32(scale)
        products = nodes.op("MatMul", states, nodes.const(weight.T, f"{name}.weight"))
        return nodes.op("Add", products, nodes.const(bias, f"{name}.bias"))

    def _gemm_of(self, row: str, name: str) -> str:
        weight, bias = self.arrays[f"{name}.weight"], self.arrays[f"{name}.bias"]
        return self.nodes.op(
            "Gemm", row, self.nodes.const(weight.T, f"{name}.weight"), self.nodes.const(bias, f"{name}.bias")
        )

    def _branch_norm(self, states: str, name: str) -> str:
        return self.norm(states, name, np.zeros(self.config.feature_width, np.float32))
