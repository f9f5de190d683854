"""OpenVINO on the CPU; it reads the same ONNX file as ONNX Runtime."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from sparsefront.latency.runtime import Feeds, Logits, Runtime, Session, Takes
from sparsefront.models.bahe_graph import MASK, VECTORS
from sparsefront.models.branch_graph import CATEGORICAL, NUMERIC
from sparsefront.models.onnx_graph import HISTORY_INPUTS, INPUTS, STATIC_SHAPE, build_graph, onnx_file, properties_of
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    import openvino

    from sparsefront.models.config import CrossEncoderConfig

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_KNOWN = frozenset({*INPUTS, *HISTORY_INPUTS, NUMERIC, CATEGORICAL})


class OpenVino(Runtime):
    """OpenVINO on the CPU: one stream, so that a call has all threads; weights stay fp32 in the file."""

    name = "openvino"
    package = "openvino"
    precisions: ClassVar = {"fp32": (), "bf16": ("avx512_bf16", "amx_bf16")}
    has_static_shapes = True

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        model = build_graph(config, random_arrays(config) if arrays is None else arrays).SerializeToString()
        if self.shapes == "dynamic":
            return self._compiled(model)
        return _PerShape(lambda shape: self._compiled(model, shape), Takes.of(config))

    def load_export(self, directory: str | Path) -> Session:
        path = onnx_file(directory)
        stated = _properties(path)
        if stated.get("precision") != "fp32":
            raise InputError(f"{path} is not a graph in fp32 of this project, which is what runtime openvino reads")
        if (STATIC_SHAPE in stated) != (self.shapes == "static"):
            raise InputError(f"{path} was not exported for {self.shapes} shapes")
        if STATIC_SHAPE not in stated:
            return self._compiled(str(path))
        batch, tokens = map(int, stated[STATIC_SHAPE].split("x"))
        return _Padded(self._compiled(str(path), (batch, tokens)), batch, tokens)

    def _compiled(self, model: bytes | str, shape: tuple[int, int] | None = None) -> _OpenVinoSession:
        return _OpenVinoSession(model, self.threads, self.precision, shape)


class _PerShape:
    """Compiles a model anew for every shape that it is called with; what is timed is never padded."""

    def __init__(self, compile_for: Callable[[tuple[int, int]], Session], takes: Takes) -> None:
        self._compile_for = compile_for
        self._sessions: dict[tuple[int, int], Session] = {}
        self.takes = takes

    def run(self, feeds: Feeds) -> Logits:
        rows, tokens = _shape_of(feeds)
        if (rows, tokens) not in self._sessions:
            self._sessions[rows, tokens] = self._compile_for((rows, tokens))
        return self._sessions[rows, tokens].run(feeds)


class _Padded:
    """A model for one shape that serves any number of rows of at most that length."""

    def __init__(self, session: Session, batch: int, tokens: int) -> None:
        self._session, self._batch, self._tokens = session, batch, tokens
        self.takes: Takes = getattr(session, "takes", Takes())

    def run(self, feeds: Feeds) -> Logits:
        rows, tokens = _shape_of(feeds)
        if (rows, tokens) == (self._batch, self._tokens):
            return self._session.run(feeds)
        if tokens > self._tokens:
            raise InputError(f"rows of {tokens} tokens: the model was exported for at most {self._tokens}")
        parts: list[Logits] = []
        for start in range(0, rows, self._batch):
            here = min(self._batch, rows - start)
            padded = {
                name: _filled(name, values[start : start + here], self._batch, self._tokens)
                for name, values in feeds.items()
            }
            padded[MASK][here:, ..., 0] = 1  # rows that fill a batch have one token, as any row has
            found = self._session.run(padded)[:here]
            parts.append(found[:, :tokens] if found.ndim == 3 else found)
        return np.concatenate(parts)


def _shape_of(feeds: Feeds) -> tuple[int, int]:
    """Rows, and tokens of each."""
    shape = feeds[MASK].shape
    return shape[0], shape[-1]


def _tokens_axis(name: str, axes: int) -> int | None:
    """Which axis of an input of so many counts tokens: features and items have none."""
    if name not in (*INPUTS, VECTORS):
        return None
    return 2 if name == VECTORS else axes - 1


def _filled(name: str, values: npt.NDArray[Any], batch: int, tokens: int) -> npt.NDArray[Any]:
    """An input with zeros up to so many rows and tokens."""
    more = [(0, batch - len(values))] + [(0, 0)] * (values.ndim - 1)
    if (axis := _tokens_axis(name, values.ndim)) is not None:
        more[axis] = 0, tokens - values.shape[axis]
    return np.pad(values, more)


def _name_of(port: Any) -> str:
    """What the graph calls an input: OpenVINO adds the name of a node that it folded into it."""
    name: str = next((name for name in port.get_names() if name in _KNOWN), port.get_any_name())
    return name


def _static(port: Any, shape: tuple[int, int]) -> list[int]:
    """The shape of an input where rows and tokens are so many."""
    own, name = port.partial_shape, _name_of(port)
    tokens_at = _tokens_axis(name, len(own))
    return [
        shape[0] if axis == 0 else shape[1] if axis == tokens_at else own[axis].get_length() for axis in range(len(own))
    ]


def _properties(path: Path) -> dict[str, str]:
    try:
        return properties_of(onnx.load(path, load_external_data=False))
    except Exception as error:
        raise InputError(f"{path}: is not an ONNX file: {' '.join(str(error).split())}") from error


@functools.cache
def _core() -> openvino.Core:
    """One for the process: each sets a signal stack and restores the one before it when it goes.

    Where two go in the wrong order, that is freed memory, and the next signal (Ctrl-C) kills the process.
    """
    import openvino

    return openvino.Core()


class _OpenVinoSession:
    def __init__(self, model: bytes | str, threads: int, precision: str, shape: tuple[int, int] | None = None) -> None:
        import openvino

        core = _core()
        options = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
        }
        try:
            graph = core.read_model(model)
            if shape is not None:
                graph.reshape({_name_of(port): _static(port, shape) for port in graph.inputs})
            compiled = core.compile_model(graph, "CPU", options)
        except Exception as error:
            source = model if isinstance(model, str) else "graph in memory"
            raise InputError(f"{source}: OpenVINO cannot load it: {' '.join(str(error).split())}") from error
        self._request = compiled.create_infer_request()
        self._tensor = openvino.Tensor
        # What no layer reads is not an input any more: a model without heads needs no mask.
        shapes = {_name_of(port): port.partial_shape for port in compiled.inputs}
        numbers, categories = [shapes[name][1].get_length() if name in shapes else 0 for name in (NUMERIC, CATEGORICAL)]
        vectors = shapes.get(VECTORS)
        histories, width = (0, 0) if vectors is None else (vectors[1].get_length(), vectors[3].get_length())
        self.takes = Takes(numbers, categories, histories, width)
        self._bound: dict[str, npt.NDArray[Any]] = {name: np.empty((0, 0), np.int64) for name in shapes}

    def run(self, feeds: Feeds) -> Logits:
        for name, bound in self._bound.items():
            if bound.shape == feeds[name].shape:  # a tensor set anew makes the runtime prepare its inputs anew
                np.copyto(bound, feeds[name])
            else:
                self._bound[name] = np.array(feeds[name], order="C")
                self._request.set_tensor(name, self._tensor(self._bound[name], shared_memory=True))
        self._request.infer()
        logits: Logits = self._request.get_output_tensor(0).data.copy()
        return logits
