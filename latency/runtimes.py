"""Serving runtimes behind one contract. torch and ONNX Runtime are imported by the runtime that is asked for only."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from sparsefront.models.onnx_graph import INPUTS, OUTPUT, build_graph
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Feeds = Mapping[str, npt.NDArray[np.int64]]
Logits = npt.NDArray[np.float32]


class Session(Protocol):
    """A loaded model."""

    def run(self, feeds: Feeds) -> Logits:
        """``input_ids``, ``attention_mask``, ``token_type_ids``, each (batch, tokens) -> logits (batch,)."""


class Runtime(ABC):
    """Loads models for a fixed number of threads.

    Attributes:
        name: what a user writes after ``--runtime``.
        package: the distribution that must be installed.
        precision: numeric format it computes in.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    precision: str = "fp32"

    def __init__(self, *, threads: int = 1) -> None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        self.threads = threads
        if importlib.util.find_spec(self.package) is None:
            raise InputError(f"runtime {self.name}: package {self.package!r} is not installed")

    @property
    def version(self) -> str:
        """Version of the installed package."""
        return importlib.metadata.version(self.package)

    @abstractmethod
    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        """A session for weights in memory (state-dict names); random weights, good for timing only, by default."""

    @abstractmethod
    def load_export(self, directory: str | Path) -> Session:
        """A session for an export folder. Raises :class:`InputError` if the folder holds no model for this runtime."""


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: sequential execution, pinned threads, the runtime's default spinning."""

    name = "onnxruntime"
    package = "onnxruntime"

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        model = build_graph(config, random_arrays(config) if arrays is None else arrays)
        return _OnnxSession(model.SerializeToString(), self.threads)

    def load_export(self, directory: str | Path) -> Session:
        path = Path(directory) / "model.onnx"
        if not path.is_file():
            raise InputError(f"{path} does not exist; expected an export folder with model.onnx")
        session = _OnnxSession(str(path), self.threads)
        if missing := session.missing_names():
            raise InputError(f"{path} is not a cross-encoder of this project: it has no input or output {missing[0]!r}")
        return session


class _OnnxSession:
    def __init__(self, model: bytes | str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            source = model if isinstance(model, str) else "graph in memory"
            raise InputError(f"{source}: ONNX Runtime cannot load it: {' '.join(str(error).split())}") from error

    def missing_names(self) -> list[str]:
        names = {node.name for node in (*self._session.get_inputs(), *self._session.get_outputs())}
        return [name for name in (*INPUTS, OUTPUT) if name not in names]

    def run(self, feeds: Feeds) -> Logits:
        logits: Logits = self._session.run([OUTPUT], feeds)[0]
        return logits


class TorchRuntime(Runtime):
    """torch in eager mode: the reference that nobody should serve. Its thread count is one per process."""

    name = "torch"
    package = "torch"

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        import torch

        from sparsefront.models.cross_encoder import CrossEncoder

        model = CrossEncoder(config)
        values = random_arrays(config) if arrays is None else arrays
        model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()})
        return _TorchSession(model, self.threads)

    def load_export(self, directory: str | Path) -> Session:
        from sparsefront.models.cross_encoder import CrossEncoder

        if not (Path(directory) / "config.json").is_file():
            raise InputError(
                f"{directory} holds no config.json; expected an export folder with a Hugging Face checkpoint"
            )
        return _TorchSession(CrossEncoder.from_pretrained(directory), self.threads)


class _TorchSession:
    def __init__(self, model: Any, threads: int) -> None:
        self._model = model.eval()
        self._threads = threads

    def run(self, feeds: Feeds) -> Logits:
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            logits = self._model(**{name: torch.from_numpy(feeds[name]) for name in INPUTS}).logits
            values: Logits = logits.reshape(len(logits)).float().numpy()
        return values


RUNTIMES: dict[str, type[Runtime]] = {kind.name: kind for kind in (OnnxRuntime, TorchRuntime)}


def runtime(name: str, *, threads: int = 1) -> Runtime:
    """The runtime of that name; :class:`InputError` lists the known ones otherwise."""
    if name not in RUNTIMES:
        raise InputError(f"runtime must be one of {', '.join(sorted(RUNTIMES))}, got {name!r}")
    return RUNTIMES[name](threads=threads)


def feeds_of_length(
    length_tokens: int, *, batch: int = 1, vocabulary: int = 100, seed: int = 0
) -> dict[str, npt.NDArray[np.int64]]:
    """Unpadded random rows for timing: three arrays (batch, length_tokens)."""
    if length_tokens < 1 or batch < 1:
        raise ValueError(f"length_tokens and batch must be at least 1, got {length_tokens} and {batch}")
    ids = np.random.default_rng(seed).integers(1, vocabulary, (batch, length_tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
