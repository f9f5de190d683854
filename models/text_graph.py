"""The graph of a slim cross-encoder: embeddings, layers, token pruning and head, node by node.

What was measured on ONNX Runtime 1.31, one thread, batch 1, width 384, decided the form:

* the contrib SkipLayerNormalization costs 65 us more than Add + LayerNormalization at 48 tokens; residuals are ``Sum``
  nodes, which a runtime's optimizer does not turn into it;
* the standard Attention operator is as fast as the contrib ones or faster, and it hands out its probabilities;
* from the last layer with heads on, only [CLS]'s row reaches the logit. Its attention is re-associated,
  ``(q W_k) X^T`` instead of ``q (X W_k)^T``, which is about 20 times fewer multiply-adds at 48 tokens;
* where a head reads every token, its logits are taken from a token's state when that is dropped: two numbers instead of
  a whole state are carried to the end;
* biases are folded: a key bias moves all scores of a query alike and vanishes in the softmax, a value bias passes
  through it unchanged into the output bias, and the FFN's output bias moves into the LayerNorm in front of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from sparsefront.models.graph_nodes import Nodes, Tokens
from sparsefront.models.parameters import Arrays
from sparsefront.models.spans import NO_TOKEN
from sparsefront.spaces import Genome, kept_tokens

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Precision = Literal["fp32", "int8"]
OPSET = 23
IR_VERSION = 10
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "logits"
_AFTER_SOFTMAX = 3


def product(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``weight @ bias`` without BLAS, whose idle threads have no business in a process that times models."""
    return np.asarray((weight * bias).sum(axis=1), np.float32)


def headless_bias(config: CrossEncoderConfig, arrays: Arrays, layer: int) -> npt.NDArray[np.float32]:
    """What the states before ``layer`` carry besides: the output bias of an attention that has no heads left."""
    if layer < len(config.genome) and not config.genome.layers[layer].heads:
        return arrays[f"encoder.layers.{layer}.output.bias"]
    return np.zeros(config.hidden_size, np.float32)


def model_of(
    nodes: Nodes,
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    config: CrossEncoderConfig,
    precision: Precision,
) -> onnx.ModelProto:
    """A model of nodes, which says what it is of."""
    graph = helper.make_graph(nodes.nodes, "cross_encoder", inputs, outputs, nodes.initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="sparsefront"
    )
    helper.set_model_props(
        model, {"genome": config.genome.key(), "hidden_size": str(config.hidden_size), "precision": precision}
    )
    return model


class CrossEncoderGraph:
    def __init__(self, config: CrossEncoderConfig, arrays: Arrays, precision: Precision) -> None:
        self.config = config
        self.precision = precision
        self.genome: Genome = config.genome
        self.arrays = arrays
        self.nodes = Nodes()
        self.limit: int = config.max_position_embeddings
        heads = self.genome.column("heads")
        # Behind the last layer with heads no token but [CLS] can reach a logit, unless something reads along; -1: not
        # even the first layer mixes.
        mixing = [layer for layer, count in enumerate(heads) if count]
        self.last_mixing = max([*mixing, *self.reading_layers()], default=-1)
        if config.per_token:
            self.last_mixing = len(self.genome)
        self.pruning = [
            layer for layer, gene in enumerate(self.genome) if gene.keep_percent < 100 and layer < self.last_mixing
        ]
        self.scoring = self._scoring_layers()
        self._survivors: dict[int, tuple[str, str]] = {}
        self._rounded: dict[str, list[str]] = {}
        self._protected: str | None = None
        self._positions: str | None = None
        self._ends: str | None = None

    def reading_layers(self) -> list[int]:
        """Layers whose tokens something else reads before them."""
        return []

    def read_along(self, layer: int, hidden: str, tokens: Tokens) -> None:
        """Told the tokens before a layer as long as there are any."""

    def inputs(self) -> list[onnx.ValueInfoProto]:
        """What the graph is called with."""
        return [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"]) for name in INPUTS]

    def build(self) -> onnx.ModelProto:
        """The whole graph; once per object."""
        hidden, tokens = self._embeddings()
        hidden, tokens = self.through_layers(hidden, tokens)
        if self.config.per_token:
            self._read_every_token(hidden, tokens)
        else:
            self.read_cls(hidden)
        return self.model()

    def model(self) -> onnx.ModelProto:
        """Of the nodes that are there."""
        return model_of(self.nodes, self.inputs(), self.outputs(), self.config, self.precision)

    def through_layers(self, hidden: str, tokens: Tokens) -> tuple[str, Tokens]:
        """What leaves the last layer: [CLS]'s state (batch, width), or those of the tokens that are left."""
        scores: str | None = None
        for layer, gene in enumerate(self.genome):
            if layer <= self.last_mixing:
                self.read_along(layer, hidden, tokens)
            if layer < self.last_mixing:
                if gene.heads:
                    hidden, fresh = self._attention(layer, hidden, tokens)
                    scores = fresh if fresh is not None else scores
                else:
                    hidden = self.norm(hidden, f"encoder.layers.{layer}.attention_norm", self._ffn_bias(layer))
                if layer in self.pruning:
                    hidden, tokens, scores = self._prune(layer, hidden, tokens, scores)
            elif layer == self.last_mixing and gene.heads:
                hidden = self._cls_attention(layer, hidden, tokens)
            else:
                hidden = self._cls(hidden) if layer == self.last_mixing else hidden
                hidden = self.norm(hidden, f"encoder.layers.{layer}.attention_norm", self._ffn_bias(layer))
            hidden = self._ffn(layer, hidden, cls_only=layer >= self.last_mixing)
        return hidden, tokens

    def outputs(self) -> list[onnx.ValueInfoProto]:
        """What the graph answers."""
        shape: list[str | int] = ["batch", *(["tokens"] if self.config.per_token else [])]
        shape += [self.config.outputs] if self.config.outputs > 1 else []
        return [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)]

    def cls_logits(self, cls: str) -> str:
        """Logits (batch, outputs) of [CLS]'s last state (batch, width)."""
        weight, bias = self.arrays["head.weight"], self.arrays["head.bias"]
        return self.nodes.op(
            "Gemm", cls, self.nodes.const(weight.T, "head.weight"), self.nodes.const(bias, "head.bias")
        )

    def read_cls(self, cls: str) -> None:
        """Answer by [CLS]'s last state."""
        logits, only = self.cls_logits(cls), self.config.outputs == 1
        inputs = [logits, self.nodes.ints(1)] if only else [logits]
        self.nodes.nodes.append(helper.make_node("Squeeze" if only else "Identity", inputs, [OUTPUT], name=OUTPUT))

    def _cls(self, hidden: str) -> str:
        """[CLS]'s row (batch, width) of all tokens."""
        return self.nodes.op("Gather", hidden, self.nodes.const(np.array(0, np.int64), "first_token"), axis=1)

    # -- embeddings ------------------------------------------------------------------------------------------------

    def _embeddings(self) -> tuple[str, Tokens]:
        nodes, arrays = self.nodes, self.arrays
        prefix = "encoder.embeddings."
        word, position, token_type = (arrays[f"{prefix}{kind}.weight"] for kind in ("word", "position", "token_type"))
        if self.last_mixing < 0:
            zero = nodes.const(np.array(0, np.int64), "first_token")
            ids, types = (nodes.op("Gather", name, zero, axis=1) for name in (INPUTS[0], INPUTS[2]))
            terms = [
                nodes.op("Gather", nodes.const(word, "word"), ids),
                nodes.op("Gather", nodes.const(token_type + position[0], "token_type_first"), types),
            ]
            return self.norm(nodes.op("Sum", *terms), f"{prefix}norm", self.attention_bias(0)), self._no_tokens()
        length = nodes.op("Shape", INPUTS[0], start=1, end=2)
        tokens = Tokens(nodes, length, nodes.op("Cast", INPUTS[1], to=TensorProto.BOOL), self.limit)
        terms = [
            nodes.op("Gather", nodes.const(word, "word"), INPUTS[0]),
            nodes.op("Gather", nodes.const(token_type, "token_type"), INPUTS[2]),
            tokens.prefix(position, 0, "position"),
        ]
        self.count_survivors(length, INPUTS[1])
        if self.pruning:
            self._protected = self._protected_tokens()
        return self.norm(nodes.op("Sum", *terms), f"{prefix}norm", self.attention_bias(0)), tokens

    def _protected_tokens(self) -> str | None:
        """1 at tokens that pruning takes last, else 0: float (batch, length); None where all are alike."""
        if self.config.protect == "none":
            return None
        nodes, first = self.nodes, self.config.protect == "first"
        name, value = (INPUTS[2], 0) if first else (INPUTS[0], self.config.separator_id)
        same = nodes.op("Equal", name, nodes.const(np.array(value, np.int64), "protected_id"))
        return nodes.op("Cast", same, to=TensorProto.FLOAT)

    def _protecting(self, scores: str, tokens: Tokens, above: int) -> str:
        """Scores with those of protected tokens lifted by ``above`` times the length; padding's stay the lowest."""
        if self._protected is None:
            return scores
        nodes = self.nodes
        length = nodes.op("Cast", tokens.length, to=TensorProto.FLOAT)
        by = nodes.op("Mul", length, nodes.const(np.array(above, np.float32), f"above_{above}"))
        lifted = nodes.op("Mul", self._protected, nodes.op("Cast", tokens.alive, to=TensorProto.FLOAT))
        return nodes.op("Add", scores, nodes.op("Mul", lifted, by))

    def _no_tokens(self) -> Tokens:
        return Tokens(self.nodes, "", "", self.limit)

    def count_survivors(self, length: str, mask: str) -> None:
        """Looks all counts up at once: (tensor length (1,), survivors per row (batch, 1)) for every pruning layer.

        ``mask``: int64 (batch, length), 1 at real tokens.
        """
        if not self.pruning:
            return
        nodes = self.nodes
        table = np.ones((self.limit + 1, len(self.pruning)), np.int64)
        for row in range(1, self.limit + 1):
            left = row
            for step, layer in enumerate(self.pruning):
                left = kept_tokens(left, self.genome.layers[layer].keep_percent)
                table[row, step] = left
        counts = nodes.const(table, "survivors")
        real = nodes.op("ReduceSum", mask, nodes.ints(1), keepdims=0)
        steps = len(self.pruning)
        rows = nodes.op("Gather", counts, real)
        whole = nodes.op("Gather", counts, length)
        by_row = nodes.outputs("Split", rows, outputs=steps, axis=1, num_outputs=steps) if steps > 1 else [rows]
        flat = nodes.op("Reshape", whole, nodes.ints(-1))
        by_length = nodes.outputs("Split", flat, outputs=steps, axis=0, num_outputs=steps) if steps > 1 else [flat]
        self._survivors = dict(zip(self.pruning, zip(by_length, by_row, strict=True), strict=True))

    # -- attention -------------------------------------------------------------------------------------------------

    def _attention(self, layer: int, hidden: str, tokens: Tokens) -> tuple[str, str | None]:
        """Self-attention of all tokens -> (hidden, scores (batch, length) if this layer must score)."""
        nodes, prefix = self.nodes, f"encoder.layers.{layer}."
        heads = self.genome.layers[layer].heads
        scale = np.float32(self.config.head_size**-0.5)
        query = self.matmul(hidden, f"{prefix}query", self.arrays[f"{prefix}query.weight"] * scale)
        query = nodes.op("Add", query, nodes.const(self.arrays[f"{prefix}query.bias"] * scale, f"{prefix}query.bias"))
        key, value = (
            self.matmul(hidden, f"{prefix}{kind}", self.arrays[f"{prefix}{kind}.weight"]) for kind in ("key", "value")
        )
        inputs = (query, key, value, tokens.attention_mask())
        attributes = {"q_num_heads": heads, "kv_num_heads": heads, "scale": 1.0}
        scores: str | None = None
        if layer in self.scoring:
            context, _, _, received = nodes.outputs(
                "Attention", *inputs, outputs=4, qk_matmul_output_mode=_AFTER_SOFTMAX, **attributes
            )
            # Only the ranking matters, so sums stand in for the means over heads and over real queries.
            per_head = nodes.op("MatMul", tokens.query_weights(), received)
            scores = nodes.op("ReduceSum", per_head, nodes.ints(1, 2), keepdims=0)
            first = np.zeros((1, self.limit), np.float32)
            first[0, 0] = 1e9
            scores = nodes.op("Add", scores, tokens.prefix(first, 1, "cls_first"))
            scores = self._protecting(scores, tokens, 2 * heads)
        else:
            context = nodes.op("Attention", *inputs, **attributes)
        out = self.matmul(context, f"{prefix}output", self.arrays[f"{prefix}output.weight"])
        total = nodes.op("Sum", out, hidden, nodes.const(self._output_bias(layer), f"{prefix}output.bias"))
        return self.norm(total, f"{prefix}attention_norm", self._ffn_bias(layer)), scores

    def _cls_attention(self, layer: int, hidden: str, tokens: Tokens) -> str:
        """Attention of [CLS]'s query only -> (batch, width)."""
        nodes, prefix = self.nodes, f"encoder.layers.{layer}."
        heads, size, width = self.genome.layers[layer].heads, self.config.head_size, self.config.hidden_size
        scale = np.float32(size**-0.5)
        cls = self._cls(hidden)
        query = self.gemm(
            cls,
            f"{prefix}query",
            self.arrays[f"{prefix}query.weight"] * scale,
            self.arrays[f"{prefix}query.bias"] * scale,
        )
        query = nodes.op("Reshape", query, nodes.ints(0, heads, 1, size))
        keys = self.arrays[f"{prefix}key.weight"].reshape(heads, size, width)
        probe = nodes.op("MatMul", query, nodes.const(keys, f"{prefix}key.weight"))
        probe = nodes.op("Reshape", probe, nodes.ints(0, heads, width))
        logits = nodes.op("MatMul", probe, nodes.op("Transpose", hidden, perm=[0, 2, 1]))
        row_mask = tokens.row_mask()
        received = nodes.op("Softmax", nodes.op("Add", logits, row_mask) if row_mask else logits, axis=-1)
        mixed = nodes.op("Reshape", nodes.op("MatMul", received, hidden), nodes.ints(0, heads, 1, width))
        values = self.arrays[f"{prefix}value.weight"].reshape(heads, size, width).transpose(0, 2, 1)
        context = nodes.op("MatMul", mixed, nodes.const(values, f"{prefix}value.weight"))
        context = nodes.op("Reshape", context, nodes.ints(0, heads * size))
        out = self.gemm(context, f"{prefix}output", self.arrays[f"{prefix}output.weight"], self._output_bias(layer))
        return self.norm(nodes.op("Sum", out, cls), f"{prefix}attention_norm", self._ffn_bias(layer))

    # -- token pruning ---------------------------------------------------------------------------------------------

    def _prune(self, layer: int, hidden: str, tokens: Tokens, scores: str | None) -> tuple[str, Tokens, str | None]:
        """Keeps each row's best tokens in their order; a row with fewer survivors is padded at its end."""
        nodes = self.nodes
        length, survivors = self._survivors[layer]
        if self.config.per_token:
            self._read(hidden, tokens, self._ffn_bias(layer))
        place = Tokens(nodes, length, "", self.limit).prefix(np.arange(self.limit)[None, :], 1, "places")
        alive = nodes.op("Less", place, survivors)
        if scores is None and self._protected is not None:
            leading = -np.arange(self.limit, dtype=np.float32)[None, :]
            leading[0, 0] = 1e9
            scores = self._protecting(tokens.prefix(leading, 1, "leading"), tokens, 1)
        if scores is None:
            hidden = nodes.op("Slice", hidden, nodes.ints(0), length, nodes.ints(1))
            if self.config.per_token:
                shape = nodes.op("Shape", hidden, start=0, end=2)
                self._positions = nodes.op("Expand", place, shape)
            return hidden, Tokens(nodes, length, alive, self.limit), None
        # TopK breaks ties by the lower index. Survivors get their index minus the length, which gathers the same token
        # but sorts before every token that the row drops.
        _, ranked = nodes.outputs("TopK", scores, length, outputs=2, axis=1, largest=1, sorted=1)
        none = nodes.const(np.array(0, np.int64), "first_token")
        shifted = nodes.op("Sub", ranked, nodes.op("Where", alive, tokens.length, none))
        order, _ = nodes.outputs("TopK", shifted, length, outputs=2, axis=1, largest=0, sorted=1)
        hidden = nodes.op("GatherND", hidden, nodes.op("Unsqueeze", order, nodes.ints(2)), batch_dims=1)
        if self.config.per_token:
            there = self._positions
            self._positions = order if there is None else nodes.op("GatherElements", there, order, axis=1)
        if self._scores_are_read_again(layer):
            scores = nodes.op("GatherElements", scores, order, axis=1)
        if self._protected is not None:
            self._protected = nodes.op("GatherElements", self._protected, order, axis=1)
        return hidden, Tokens(nodes, length, alive, self.limit), scores

    def _scoring_layers(self) -> set[int]:
        """Layers whose attention a pruning step reads: the latest one with heads at or before it."""
        scoring: set[int] = set()
        for pruned in self.pruning:
            scoring.update([layer for layer in range(pruned + 1) if self.genome.layers[layer].heads][-1:])
        return scoring

    def _scores_are_read_again(self, layer: int) -> bool:
        """Whether a later layer prunes by the same attention."""
        for later in range(layer + 1, self.last_mixing):
            if self.genome.layers[later].heads:
                return False
            if later in self.pruning:
                return True
        return False

    # -- a head that reads every token -----------------------------------------------------------------------------

    def _read(self, hidden: str, tokens: Tokens, folded: npt.NDArray[np.float32]) -> None:
        """Takes the logits of the tokens that are there; others keep theirs. ``folded``: see :meth:`_ffn_bias`."""
        nodes, weight = self.nodes, self.arrays["head.weight"]
        ends = nodes.op("MatMul", hidden, nodes.const(weight.T, "head.weight"))
        bias = self.arrays["head.bias"] - product(weight, folded)
        ends = nodes.op("Add", ends, nodes.const(bias, f"head.bias_{len(nodes.nodes)}"))
        if self._ends is None or self._positions is None:
            self._ends = ends
            return
        at = nodes.op("Unsqueeze", self._positions, nodes.ints(2))
        at = nodes.op("Concat", at, at, axis=2)
        alive = nodes.op("Unsqueeze", tokens.alive, nodes.ints(2))
        ends = nodes.op("Where", alive, ends, nodes.op("GatherElements", self._ends, at, axis=1))
        self._ends = nodes.op("ScatterElements", self._ends, at, ends, axis=1)

    def _read_every_token(self, hidden: str, tokens: Tokens) -> None:
        """Logits of all tokens: no chance for those at which no answer may begin or end."""
        nodes = self.nodes
        self._read(hidden, tokens, np.zeros(self.config.hidden_size, np.float32))
        length = nodes.op("Shape", INPUTS[0], start=1, end=2)
        first = Tokens(nodes, length, "", self.limit).prefix(np.arange(self.limit)[None, :] == 0, 1, "first_place")
        second = nodes.op("Equal", INPUTS[2], nodes.const(np.array(1, np.int64), "second_text"))
        answers = nodes.op("Or", nodes.op("And", nodes.op("Cast", INPUTS[1], to=TensorProto.BOOL), second), first)
        none = nodes.const(np.array(NO_TOKEN, np.float32), "no_token")
        inputs = [nodes.op("Unsqueeze", answers, nodes.ints(2)), self._ends or "", none]
        nodes.nodes.append(helper.make_node("Where", inputs, [OUTPUT], name=OUTPUT))

    # -- feed-forward, LayerNorm and biases ------------------------------------------------------------------------

    def _ffn(self, layer: int, hidden: str, *, cls_only: bool) -> str:
        """FFN, residual and LayerNorm; the output bias is already in ``hidden``, see :meth:`_ffn_bias`."""
        nodes, prefix = self.nodes, f"encoder.layers.{layer}."
        norm = f"{prefix}ffn_norm"
        shift = self.attention_bias(layer + 1)
        if not self.genome.layers[layer].ffn_units:
            return self.norm(hidden, norm, shift)
        weight = self.arrays[f"{prefix}ffn_in.weight"]
        bias = self.arrays[f"{prefix}ffn_in.bias"] - product(weight, self._ffn_bias(layer))
        if cls_only:
            inner = self.gemm(hidden, f"{prefix}ffn_in", weight, bias)
        else:
            inner = self.matmul(hidden, f"{prefix}ffn_in", weight)
            inner = nodes.op("Add", inner, nodes.const(bias, f"{prefix}ffn_in.bias"))
        inner = nodes.op("Gelu" if self.config.hidden_act == "gelu" else "Relu", inner)
        out = self.matmul(inner, f"{prefix}ffn_out", self.arrays[f"{prefix}ffn_out.weight"])
        return self.norm(nodes.op("Sum", out, hidden), norm, shift)

    def _ffn_bias(self, layer: int) -> npt.NDArray[np.float32]:
        """What the LayerNorm before the FFN adds, so that the residual carries the FFN's output bias."""
        return self.arrays[f"encoder.layers.{layer}.ffn_out.bias"]

    def attention_bias(self, layer: int) -> npt.NDArray[np.float32]:
        """What the LayerNorm before ``layer`` adds, see :func:`headless_bias`."""
        return headless_bias(self.config, self.arrays, layer)

    def _output_bias(self, layer: int) -> npt.NDArray[np.float32]:
        prefix = f"encoder.layers.{layer}."
        folded = product(self.arrays[f"{prefix}output.weight"], self.arrays[f"{prefix}value.bias"])
        return np.asarray(self.arrays[f"{prefix}output.bias"] + folded, np.float32)

    def norm(self, hidden: str, name: str, shift: npt.NDArray[np.float32]) -> str:
        weight = self.nodes.const(self.arrays[f"{name}.weight"], f"{name}.weight")
        bias = self.nodes.const(self.arrays[f"{name}.bias"] + shift, f"{name}.bias")
        return self.nodes.op("LayerNormalization", hidden, weight, bias, axis=-1, epsilon=self.config.layer_norm_eps)

    def matmul(self, hidden: str, name: str, weight: npt.NDArray[np.float32]) -> str:
        """``hidden`` (..., inputs) times the transpose of ``weight`` (outputs, inputs)."""
        nodes = self.nodes
        if self.precision == "fp32":
            return nodes.op("MatMul", hidden, nodes.const(weight.T, f"{name}.weight"))
        if hidden not in self._rounded:
            self._rounded[hidden] = nodes.outputs("DynamicQuantizeLinear", hidden, outputs=3)
        rounded, scale, zero_point = self._rounded[hidden]
        weight_scale = np.abs(weight).max(axis=1, initial=0) / 127
        weight_scale[weight_scale == 0] = 1
        integers = np.round(weight / weight_scale[:, None]).astype(np.int8)
        product = nodes.op("MatMulInteger", rounded, nodes.const(integers.T, f"{name}.weight"), zero_point)
        factor = nodes.op("Mul", scale, nodes.const(weight_scale.astype(np.float32), f"{name}.scale"))
        return nodes.op("Mul", nodes.op("Cast", product, to=TensorProto.FLOAT), factor)

    def gemm(self, row: str, name: str, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> str:
        nodes = self.nodes
        if self.precision == "fp32":
            return nodes.op("Gemm", row, nodes.const(weight.T, f"{name}.weight"), nodes.const(bias, f"{name}.bias"))
        return nodes.op("Add", self.matmul(row, name, weight), nodes.const(bias, f"{name}.bias"))
