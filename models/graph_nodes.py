"""What graphs are put together from: nodes and constants, and what is alive between two pruning steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

MASKED = np.float32(-1e9)


class Nodes:
    """Collects nodes and constants; equal constants asked for by the same key are stored once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._shared: dict[str, str] = {}

    def const(self, value: npt.NDArray[Any], name: str) -> str:
        if name not in self._shared:
            self._shared[name] = name
            self.initializers.append(numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(np.array(values, np.int64), "ints_" + "_".join(map(str, values)))

    def outputs(self, op: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        number = len(self.nodes)
        names = [f"{op}_{number}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{number}", **attributes))
        return names

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.outputs(op, *inputs, outputs=1, **attributes)[0]


class Tokens:
    """What is alive between two pruning steps; masks are made once per length, and only if something reads them.

    Attributes:
        length: name of the tensor length, int64 (1,).
        alive: name of the mask of real tokens, bool (batch, length); empty where all are known to be real, and then
            masks have no name either.
    """

    def __init__(self, nodes: Nodes, length: str, alive: str, limit: int) -> None:
        self.length = length
        self.alive = alive
        self._nodes = nodes
        self._limit = limit
        self._made: dict[str, str] = {}

    def prefix(self, table: npt.NDArray[Any], axis: int, name: str) -> str:
        """The first ``length`` entries of a constant along ``axis``."""
        nodes = self._nodes
        return nodes.op("Slice", nodes.const(table, name), nodes.ints(0), self.length, nodes.ints(axis))

    def _alive_4d(self) -> str:
        if "4d" not in self._made:
            self._made["4d"] = self._nodes.op("Unsqueeze", self.alive, self._nodes.ints(1, 2))
        return self._made["4d"]

    def attention_mask(self) -> str:
        """0 for real and -1e9 for padding keys: (batch, 1, length, length); Attention takes no broadcast rows."""
        if not self.alive:
            return ""
        if "mask" not in self._made:
            zeros = self.prefix(np.zeros((1, 1, self._limit, 1), np.float32), 2, "zero_column")
            masked = self._nodes.const(np.array(MASKED), "masked")
            self._made["mask"] = self._nodes.op("Where", self._alive_4d(), zeros, masked)
        return self._made["mask"]

    def mask_of(self, queries: int) -> str:
        """The same for queries that are no tokens of the text: (batch, 1, queries, length)."""
        if f"mask {queries}" not in self._made:
            zeros = self._nodes.const(np.zeros((1, 1, queries, 1), np.float32), f"zero_column_{queries}")
            masked = self._nodes.const(np.array(MASKED), "masked")
            self._made[f"mask {queries}"] = self._nodes.op("Where", self._alive_4d(), zeros, masked)
        return self._made[f"mask {queries}"]

    def row_mask(self) -> str:
        """0 for real and -1e9 for padding keys: (batch, 1, length)."""
        nodes = self._nodes
        if not self.alive:
            return ""
        alive = nodes.op("Unsqueeze", self.alive, nodes.ints(1))
        masked, zero = nodes.const(np.array(MASKED), "masked"), nodes.const(np.array(0, np.float32), "zero")
        return nodes.op("Where", alive, zero, masked)

    def query_weights(self) -> str:
        """1 for real and 0 for padding queries: (batch, 1, 1, length)."""
        return self._nodes.op("Cast", self._alive_4d(), to=TensorProto.FLOAT)
