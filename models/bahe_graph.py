"""The graph of a slim Bahe: every history and the item through the layers, and the meeting of what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sparsefront.models.bert4ctr_graph import Bert4CtrGraph
from sparsefront.models.branch_graph import feature_inputs
from sparsefront.models.graph_nodes import Tokens
from sparsefront.models.parameters import Arrays
from sparsefront.models.text_graph import CrossEncoderGraph, Precision

if TYPE_CHECKING:
    from sparsefront.models.bahe_config import BaheConfig

HISTORY_INPUTS = VECTORS, MASK, ITEM = "vectors", "attention_mask", "item"


class BaheGraph(Bert4CtrGraph):
    """Histories of vectors and an item's vector in, logits out.

    Histories of a row are rows of their own on their way through the layers. The item is a sequence of one, which
    loses nothing in a pruning step.
    """

    config: BaheConfig

    def __init__(self, config: BaheConfig, arrays: Arrays, precision: Precision) -> None:
        super().__init__(config, arrays, precision)
        self._reads, self._first = bool(config.features), ""

    def reading_layers(self) -> list[int]:
        """Those with heads for features, where there are any."""
        return super().reading_layers() if self.config.features else []

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """Vectors of the histories with their mask, the item, then the features."""
        histories, width = self.config.histories, self.config.hidden_size
        return [
            helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["batch", histories, "tokens", width]),
            helper.make_tensor_value_info(MASK, TensorProto.INT64, ["batch", histories, "tokens"]),
            helper.make_tensor_value_info(ITEM, TensorProto.FLOAT, ["batch", width]),
            *feature_inputs(self.config, "batch"),
        ]

    def build(self) -> onnx.ModelProto:
        """The whole graph; once per object."""
        histories, tokens = self._histories()
        read, _ = self.through_layers(histories, tokens)
        self.pruning, self.scoring, self._reads = [], set(), False
        item, _ = self.through_layers(*self._item())
        self.read_cls(self._meeting(read, item))
        return self.model()

    def read_along(self, layer: int, hidden: str, tokens: Tokens) -> None:
        """The branch's layer, with all histories of a row for one text."""
        if not self._reads or layer not in self.reading_layers():
            return
        nodes, histories = self.nodes, self.config.histories
        key, value = self.read_products(layer, hidden)
        if histories > 1:
            width = self.config.layer_feature_heads[layer] * self.config.feature_head_size
            key, value = (self._of_rows(one, width) for one in (key, value))
            tokens = Tokens(nodes, "", self._of_rows(tokens.alive), self.limit)
        self.branch.read(layer, key, value, tokens.mask_of(self.config.features), per_text=False)

    def cls_logits(self, cls: str) -> str:
        """Logits of the meeting (batch, meeting_units), and what the features add."""
        logits = CrossEncoderGraph.cls_logits(self, cls)
        if not self.config.features:
            return logits
        return self.branch.logits(self.branch.mixed_cls(self._first), logits, per_text=False)

    def _of_rows(self, states: str, *width: int) -> str:
        """(batch * histories, tokens, ...) -> (batch, histories * tokens, ...)."""
        nodes = self.nodes
        apart = nodes.op("Unsqueeze", states, nodes.ints(1))
        apart = nodes.op("Reshape", apart, nodes.ints(-1, self.config.histories, 0, *width))
        return nodes.op("Reshape", apart, nodes.ints(0, -1, *width))

    def _histories(self) -> tuple[str, Tokens]:
        """States of all histories (batch * histories, tokens, width) before the first layer."""
        nodes, width = self.nodes, self.config.hidden_size
        newest = (nodes.ints(0), nodes.ints(self.limit), nodes.ints(2))  # those that there are places for
        vectors, mask = (nodes.op("Slice", name, *newest) for name in (VECTORS, MASK))
        length = nodes.op("Shape", mask, start=2, end=3)
        flat = nodes.op("Concat", nodes.ints(-1), length, axis=0)
        vectors = nodes.op("Reshape", vectors, nodes.op("Concat", flat, nodes.ints(width), axis=0))
        mask = nodes.op("Reshape", mask, flat)
        places = self._places()
        if self.last_mixing < 0:
            first = self._cls(vectors)
            return self._embedded(nodes.op("Add", first, nodes.const(places[0], "place_first"))), self._no_tokens()
        tokens = Tokens(nodes, length, nodes.op("Cast", mask, to=TensorProto.BOOL), self.limit)
        self.count_survivors(length, mask)
        return self._embedded(nodes.op("Add", vectors, tokens.prefix(places, 0, "places_of_behaviours"))), tokens

    def _item(self) -> tuple[str, Tokens]:
        """The item's state (batch, 1, width) before the first layer."""
        nodes = self.nodes
        added = nodes.const(self.arrays["encoder.embeddings.item"], "added_to_item")
        state = self._embedded(nodes.op("Add", ITEM, added))
        if self.last_mixing < 0:
            return state, self._no_tokens()
        return nodes.op("Unsqueeze", state, nodes.ints(1)), Tokens(nodes, nodes.ints(1), "", self.limit)

    def _places(self) -> npt.NDArray[np.float32]:
        """(places, width): embeddings of places, and of [CLS] at the first."""
        places = self.arrays["encoder.embeddings.position.weight"].copy()
        places[0] += self.arrays["encoder.embeddings.first"]
        return places

    def _embedded(self, states: str) -> str:
        return self.norm(states, "encoder.embeddings.norm", self.attention_bias(0))

    def _meeting(self, read: str, item: str) -> str:
        """(batch, meeting_units) of [CLS]'s states of the histories (batch * histories, width) and of the item."""
        nodes, width = self.nodes, self.config.hidden_size
        histories = nodes.op("Reshape", read, nodes.ints(-1, self.config.histories, width))
        self._first = nodes.op("Gather", histories, nodes.const(np.array(0, np.int64), "first_token"), axis=1)
        agree = nodes.op("Mul", histories, nodes.op("Unsqueeze", item, nodes.ints(1)))
        parts = [item, *(nodes.op("Flatten", one, axis=1) for one in (histories, agree))]
        weight, bias = self.arrays["meeting.weight"], self.arrays["meeting.bias"]
        return nodes.op("Gelu", self.gemm(nodes.op("Concat", *parts, axis=1), "meeting", weight, bias))
