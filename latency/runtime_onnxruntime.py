"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Logits, Runtime, Session, Takes
from sparsefront.models.onnx_graph import HISTORY_INPUTS, INPUTS, OUTPUT, build_graph, onnx_file
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: sequential execution; its threads spin within a call and not after it.

    By default they go on spinning when a call has ended. With several threads and several sessions, the threads of
    those that were called before then take the processors from the one that is called.
    """

    name = "onnxruntime"
    package = "onnxruntime"
    precisions: ClassVar = {"fp32": (), "int8": ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")}

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        model = build_graph(config, random_arrays(config) if arrays is None else arrays, precision=self.graph_precision)
        return _OnnxSession(model.SerializeToString(), self.threads)

    def load_export(self, directory: str | Path) -> Session:
        path = onnx_file(directory)
        session = _OnnxSession(str(path), self.threads)
        if missing := session.missing_names():
            raise InputError(f"{path} is not a cross-encoder of this project: it has no input or output {missing[0]!r}")
        if session.precision != self.precision:
            raise InputError(f"{path} was exported for precision {session.precision}, asked {self.precision}")
        return session


def onnx_session(model: bytes | str, threads: int) -> Any:
    """ONNX Runtime's own session of a graph, as it serves here; ``InputError`` for what is no graph."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        source = model if isinstance(model, str) else "graph in memory"
        raise InputError(f"{source}: ONNX Runtime cannot load it: {' '.join(str(error).split())}") from error


class _OnnxSession:
    def __init__(self, model: bytes | str, threads: int) -> None:
        self._session = onnx_session(model, threads)
        shapes = {node.name: node.shape for node in self._session.get_inputs()}
        numbers, categories = [shapes[name][1] if name in shapes else 0 for name in ("numeric", "categorical")]
        _, histories, _, width = shapes.get("vectors", [0, 0, 0, 0])
        self.takes = Takes(numbers, categories, histories, width)

    def missing_names(self) -> list[str]:
        names = {node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        inputs = HISTORY_INPUTS if self.takes.histories else INPUTS
        return [name for name in (*inputs, OUTPUT) if name not in names]

    @property
    def precision(self) -> str:
        """What the graph was built for."""
        properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return properties.get("precision", "fp32")

    def run(self, feeds: Feeds) -> Logits:
        logits: Logits = self._session.run([OUTPUT], feeds)[0]
        return logits
