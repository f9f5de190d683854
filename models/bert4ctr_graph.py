"""The graphs of a slim Bert4Ctr: of all of it, and of its two sides.

The text's states do not depend on the features, so that one side may be computed once for a text and the other for
every row of features that meets it. Together they are the whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from sparsefront.models.branch_graph import BranchNodes, feature_inputs
from sparsefront.models.graph_nodes import MASKED, Nodes, Tokens
from sparsefront.models.parameters import Arrays
from sparsefront.models.text_graph import OUTPUT, CrossEncoderGraph, Precision, model_of

if TYPE_CHECKING:
    from sparsefront.models.bert4ctr_config import Bert4CtrConfig

MIXED_CLS, TEXT_LOGITS = "mixed_cls", "text_logits"


def read_names(layer: int) -> tuple[str, str, str]:
    """Names of what the sides hand over of a layer: keys, values, and which words are real."""
    return f"key_{layer}", f"value_{layer}", f"real_{layer}"


class Bert4CtrGraph(CrossEncoderGraph):
    """Text and features in one."""

    config: Bert4CtrConfig

    def __init__(self, config: Bert4CtrConfig, arrays: Arrays, precision: Precision) -> None:
        super().__init__(config, arrays, precision)
        self.branch = BranchNodes(self.nodes, config, arrays)

    def reading_layers(self) -> list[int]:
        """Those with heads for features."""
        return [layer for layer, heads in enumerate(self.config.layer_feature_heads) if heads]

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The text's, then those of the features."""
        return [*super().inputs(), *feature_inputs(self.config, "batch")]

    def read_along(self, layer: int, hidden: str, tokens: Tokens) -> None:
        """The branch's layer."""
        if layer in self.reading_layers():
            key, value = self.read_products(layer, hidden)
            self.branch.read(layer, key, value, tokens.mask_of(self.config.features), per_text=False)

    def read_products(self, layer: int, hidden: str) -> tuple[str, str]:
        """Keys and values (texts, words, heads * size) of the states before a layer, without their biases."""
        names = [f"branch.layers.{layer}.{kind}" for kind in ("key", "value")]
        key, value = (self.matmul(hidden, name, self.arrays[f"{name}.weight"]) for name in names)
        return key, value

    def cls_logits(self, cls: str) -> str:
        """The text's logits and what the features add."""
        return self.branch.logits(self.branch.mixed_cls(cls), super().cls_logits(cls), per_text=False)


class TextSideGraph(Bert4CtrGraph):
    """What features read of a text, and what the text says by itself: computed once per text.

    Outputs per reading layer: ``key_N`` and ``value_N``, float32 (texts, words, heads * size), and ``real_N``, bool
    (texts, words); then ``mixed_cls``, float32 (texts, mixing_units), and ``text_logits``, float32 (texts, outputs).
    """

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The text's alone."""
        return CrossEncoderGraph.inputs(self)

    def read_along(self, layer: int, hidden: str, tokens: Tokens) -> None:
        """Hand over what there is to read."""
        if layer in self.reading_layers():
            for name, made in zip(read_names(layer), (*self.read_products(layer, hidden), tokens.alive), strict=True):
                self.nodes.nodes.append(helper.make_node("Identity", [made], [name], name=name))

    def read_cls(self, cls: str) -> None:
        """Hand over what [CLS] says."""
        for name, made in (
            (MIXED_CLS, self.branch.mixed_cls(cls)),
            (TEXT_LOGITS, CrossEncoderGraph.cls_logits(self, cls)),
        ):
            self.nodes.nodes.append(helper.make_node("Identity", [made], [name], name=name))

    def outputs(self) -> list[onnx.ValueInfoProto]:
        """See the class."""
        return side_values(self.config)


def side_values(config: Bert4CtrConfig) -> list[onnx.ValueInfoProto]:
    """What the text's side hands over to the features'."""
    found = []
    for layer, heads in enumerate(config.layer_feature_heads):
        if heads:
            key, value, real = read_names(layer)
            words, width = ("texts", f"words_{layer}"), heads * config.feature_head_size
            for name in (key, value):
                found.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [*words, width]))
            found.append(helper.make_tensor_value_info(real, TensorProto.BOOL, words))
    units, outputs = config.mixing_units, config.outputs
    found.append(helper.make_tensor_value_info(MIXED_CLS, TensorProto.FLOAT, ["texts", units]))
    return [*found, helper.make_tensor_value_info(TEXT_LOGITS, TensorProto.FLOAT, ["texts", outputs])]


def feature_side(config: Bert4CtrConfig, arrays: Arrays) -> onnx.ModelProto:
    """The graph of the features' side: ``logits`` of rows of features, given what the text's side says of their texts.

    There are as many rows as texts, or the rows of every text stand together, equally many of each.
    """
    nodes = Nodes()
    branch = BranchNodes(nodes, config, arrays)
    for layer, heads in enumerate(config.layer_feature_heads):
        if heads:
            key, value, real = read_names(layer)
            branch.read(layer, key, value, _mask(nodes, branch, real), per_text=True)
    logits = branch.logits(MIXED_CLS, TEXT_LOGITS, per_text=True)
    only = config.outputs == 1
    inputs = [logits, nodes.ints(1)] if only else [logits]
    nodes.nodes.append(helper.make_node("Squeeze" if only else "Identity", inputs, [OUTPUT], name=OUTPUT))
    shape: list[str | int] = ["rows"] if only else ["rows", config.outputs]
    output = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)
    return model_of(nodes, [*side_values(config), *feature_inputs(config, "rows")], [output], config, "fp32")


def _mask(nodes: Nodes, branch: BranchNodes, real: str) -> str:
    """0 for real and -1e9 for padding words: (texts, 1, queries, words); Attention takes no broadcast rows."""
    masked, zero = nodes.const(np.array(MASKED), "masked"), nodes.const(np.array(0, np.float32), "zero")
    row = nodes.op("Unsqueeze", nodes.op("Where", real, zero, masked), nodes.ints(1, 2))
    queries = nodes.op(
        "Shape", nodes.op("Reshape", branch.tokens(), nodes.ints(-1, branch.config.feature_width)), end=1
    )
    each = nodes.op("Div", queries, nodes.op("Shape", real, end=1))
    shape = nodes.op("Concat", nodes.ints(1, 1), each, nodes.ints(1), axis=0)
    return nodes.op("Expand", row, shape)
