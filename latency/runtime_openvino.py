"""OpenVINO on the CPU; it reads the same ONNX file as ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Logits, Runtime, Session
from sparsefront.models.onnx_graph import INPUTS, OUTPUT, build_graph, onnx_file
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVino(Runtime):
    """OpenVINO on the CPU: one stream, so that a call has all threads; weights stay fp32 in the file."""

    name = "openvino"
    package = "openvino"
    precisions: ClassVar = {"fp32": (), "bf16": ("avx512_bf16", "amx_bf16")}

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        model = build_graph(config, random_arrays(config) if arrays is None else arrays)
        return _OpenVinoSession(model.SerializeToString(), self.threads, self.precision)

    def load_export(self, directory: str | Path) -> Session:
        path = onnx_file(directory)
        session = _OpenVinoSession(str(path), self.threads, self.precision)
        if session.foreign_names():
            raise InputError(
                f"{path} is not a cross-encoder of this project: its inputs and outputs are "
                f"{', '.join(session.names)}, expected {', '.join((*INPUTS, OUTPUT))}"
            )
        return session


class _OpenVinoSession:
    def __init__(self, model: bytes | str, threads: int, precision: str) -> None:
        import openvino

        core = openvino.Core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        try:
            self._model = core.compile_model(core.read_model(model), "CPU", options)
        except Exception as error:
            source = model if isinstance(model, str) else "graph in memory"
            raise InputError(f"{source}: OpenVINO cannot load it: {' '.join(str(error).split())}") from error
        self._request = self._model.create_infer_request()
        self._tensor = openvino.Tensor
        self.names = [port.get_any_name() for port in (*self._model.inputs, *self._model.outputs)]
        # What no layer reads is not an input any more: a model without heads needs no mask.
        self._inputs = self.names[: len(self._model.inputs)]

    def foreign_names(self) -> set[str]:
        """Names that a graph of ours cannot have."""
        return set(self.names) ^ {*self._inputs, OUTPUT} | set(self._inputs) - set(INPUTS)

    def run(self, feeds: Feeds) -> Logits:
        for name in self._inputs:  # the arrays are read where they lie
            self._request.set_tensor(name, self._tensor(np.ascontiguousarray(feeds[name]), shared_memory=True))
        self._request.infer()
        logits: Logits = self._request.get_output_tensor(0).data.copy()
        return logits
