"""The graph of a feature branch: raw numbers and ids to tokens, their way through the layers, and what they add."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sparsefront.models.graph_nodes import Nodes
from sparsefront.models.parameters import Arrays
from sparsefront.models.text_graph import headless_bias, product

if TYPE_CHECKING:
    from sparsefront.models.bert4ctr_config import Bert4CtrConfig

NUMERIC, CATEGORICAL = "numeric", "categorical"


def feature_inputs(config: Bert4CtrConfig, rows: str) -> list[onnx.ValueInfoProto]:
    """``numeric`` and ``categorical``, where there are such columns: (rows, columns), the first axis by this name."""
    found = []
    if columns := len(config.numeric_edges):
        found.append(helper.make_tensor_value_info(NUMERIC, TensorProto.FLOAT, [rows, columns]))
    if columns := len(config.categorical_ids):
        found.append(helper.make_tensor_value_info(CATEGORICAL, TensorProto.INT64, [rows, columns]))
    return found


class BranchNodes:
    """Feature tokens stay in one tensor (rows, features, feature_width) from layer to layer.

    There are as many rows as texts, or several in turn for each text: since tokens read texts and not each other, all
    tokens that read one text are queries of one sequence. Of keys and values only the weights are multiplied: a key's
    bias moves all scores of a query alike, and what every value has in common passes through the softmax into the
    output's bias.
    """

    def __init__(self, nodes: Nodes, config: Bert4CtrConfig, arrays: Arrays) -> None:
        self.nodes = nodes
        self.config = config
        self.arrays = arrays
        self._tokens: str | None = None

    def read(self, layer: int, key: str, value: str, mask: str, *, per_text: bool) -> None:
        """Uni-Attention and the small FFN behind it.

        Args:
            layer: whose text is read.
            key: products of the text's states before it (texts, words, heads * size).
            value: likewise.
            mask: 0 for real and -1e9 for padding words (texts, 1, queries, words).
            per_text: whether a text may have several rows.
        """
        nodes, config, prefix, tokens = self.nodes, self.config, f"branch.layers.{layer}.", self.tokens()
        heads, size = config.layer_feature_heads[layer], config.feature_head_size
        query = self._linear(tokens, f"{prefix}query", np.float32(size**-0.5))
        if per_text:
            query = self._by_text(query, key, heads * size)
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        read = nodes.op("Attention", query, key, value, mask, **attributes)
        if per_text:
            read = nodes.op("Reshape", read, nodes.ints(-1, config.features, heads * size))
        mixed = nodes.op("MatMul", read, self._const(f"{prefix}output.weight", transposed=True))
        bias = nodes.const(self._output_bias(layer), f"{prefix}output.bias")
        tokens = self._norm(nodes.op("Sum", mixed, tokens, bias), f"{prefix}attention_norm")
        inner = nodes.op("Gelu", self._linear(tokens, f"{prefix}ffn_in"))
        fed = nodes.op("Sum", self._linear(inner, f"{prefix}ffn_out"), tokens)
        self._tokens = self._norm(fed, f"{prefix}ffn_norm")

    def mixed_cls(self, cls: str) -> str:
        """What [CLS] (texts, width) brings to the meeting of text and features: (texts, mixing_units)."""
        weight = self.arrays["branch.mixing.weight"][:, : self.config.hidden_size]
        own = self.nodes.const(weight.T, "branch.mixing.weight_cls")
        return self.nodes.op("Gemm", cls, own, self._const("branch.mixing.bias"))

    def logits(self, mixed_cls: str, text_logits: str, *, per_text: bool) -> str:
        """(rows, outputs) of ``mixed_cls`` (texts, mixing_units) and ``text_logits`` (texts, outputs)."""
        nodes, units = self.nodes, self.config.mixing_units
        weight = self.arrays["branch.mixing.weight"][:, self.config.hidden_size :]
        flat = nodes.op("Flatten", self.tokens(), axis=1)
        mixed = nodes.op("MatMul", flat, nodes.const(weight.T, "branch.mixing.weight_tokens"))
        if per_text:
            mixed = self._by_text(mixed, mixed_cls, units)
            mixed = nodes.op("Add", mixed, nodes.op("Unsqueeze", mixed_cls, nodes.ints(1)))
        else:
            mixed = nodes.op("Add", mixed, mixed_cls)
        added = self._linear(nodes.op("Gelu", mixed), "branch.head")
        if not per_text:
            return nodes.op("Add", added, text_logits)
        together = nodes.op("Add", added, nodes.op("Unsqueeze", text_logits, nodes.ints(1)))
        return nodes.op("Reshape", together, nodes.ints(-1, self.config.outputs))

    def tokens(self) -> str:
        """The feature tokens as they are now."""
        if self._tokens is None:
            parts = [self._numbers()] if self.config.numeric_edges else []
            parts += [self._categories()] if self.config.categorical_ids else []
            together = self.nodes.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
            self._tokens = self._norm(together, "branch.embedding.norm")
        return self._tokens

    def _by_text(self, states: str, like: str, width: int) -> str:
        """States of rows as those of the texts that they belong to: (texts, rows or tokens of each, width)."""
        nodes = self.nodes
        shape = nodes.op("Concat", nodes.op("Shape", like, start=0, end=1), nodes.ints(-1, width), axis=0)
        return nodes.op("Reshape", states, shape)

    def _numbers(self) -> str:
        """Numbers piecewise linearly, missing ones as their own vectors: (rows, numeric columns, feature_width)."""
        nodes, config, prefix = self.nodes, self.config, "branch.embedding."
        low, slope = config.pieces()
        columns, pieces = low.shape
        absent = nodes.op("IsNaN", NUMERIC)
        zero, one = (nodes.const(np.array(value, np.float32), name) for value, name in ((0, "zero"), (1, "one")))
        value = nodes.op("Unsqueeze", nodes.op("Where", absent, zero, NUMERIC), nodes.ints(2))
        value = nodes.op("Sub", value, nodes.const(low, f"{prefix}low"))
        filled = nodes.op("Clip", nodes.op("Mul", value, nodes.const(slope, f"{prefix}slope")), zero, one)
        filled = nodes.op("Reshape", filled, nodes.ints(0, columns, 1, pieces))
        told = nodes.op("MatMul", filled, self._const(f"{prefix}pieces"))
        told = nodes.op("Reshape", told, nodes.ints(0, columns, config.feature_width))
        told = nodes.op("Add", told, self._const(f"{prefix}level"))
        return nodes.op("Where", nodes.op("Unsqueeze", absent, nodes.ints(2)), self._const(f"{prefix}missing"), told)

    def _categories(self) -> str:
        """(rows, categorical columns, feature_width)."""
        starts = np.cumsum([0, *self.config.categorical_ids[:-1]], dtype=np.int64)
        ids = self.nodes.op("Add", CATEGORICAL, self.nodes.const(starts, "branch.embedding.first_id"))
        return self.nodes.op("Gather", self._const("branch.embedding.ids"), ids)

    def _output_bias(self, layer: int) -> npt.NDArray[np.float32]:
        """The output's bias and what all values have in common: their bias, less what the text's states carry."""
        prefix = f"branch.layers.{layer}."
        carried = headless_bias(self.config, self.arrays, layer)
        common = self.arrays[f"{prefix}value.bias"] - product(self.arrays[f"{prefix}value.weight"], carried)
        folded = product(self.arrays[f"{prefix}output.weight"], common)
        return np.asarray(self.arrays[f"{prefix}output.bias"] + folded, np.float32)

    def _linear(self, states: str, name: str, scale: np.float32 | float = 1.0) -> str:
        """A narrow product of the branch; always fp32."""
        nodes = self.nodes
        weight, bias = (self.arrays[f"{name}.{kind}"] * np.float32(scale) for kind in ("weight", "bias"))
        products = nodes.op("MatMul", states, nodes.const(weight.T, f"{name}.weight"))
        return nodes.op("Add", products, nodes.const(bias, f"{name}.bias"))

    def _const(self, name: str, *, transposed: bool = False) -> str:
        return self.nodes.const(self.arrays[name].T if transposed else self.arrays[name], name)

    def _norm(self, states: str, name: str) -> str:
        weight, bias = self._const(f"{name}.weight"), self._const(f"{name}.bias")
        epsilon = self.config.layer_norm_eps
        return self.nodes.op("LayerNormalization", states, weight, bias, axis=-1, epsilon=epsilon)
