"""The contract of serving runtimes: a model in, logits and microseconds out."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from sparsefront.latency.machine import MachineFingerprint, instruction_sets
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Feeds = Mapping[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]
SHAPES = ("dynamic", "static")


class Session(Protocol):
    """A loaded model; ``takes``, where it has that, says what it takes besides a text or instead of it."""

    def run(self, feeds: Feeds) -> Logits:
        """``input_ids``, ``attention_mask``, ``token_type_ids``, each (batch, tokens), and what else the graph takes,
        or the inputs of histories (:mod:`sparsefront.models.bahe_graph`) -> logits (batch,), or (batch, outputs) of a
        model of several outputs, or (batch, tokens, 2) of spans."""


class Runtime(ABC):
    """Loads models for a fixed number of threads and one numeric format.

    Attributes:
        name: what a user writes after ``--runtime``.
        package: the distribution that must be installed.
        precisions: numeric format -> instruction sets of which the CPU must have one; none: any CPU will do.
        has_static_shapes: whether a model can be compiled for one shape of its rows and is faster then.
    """

    name: ClassVar[str]
    package: ClassVar[str]
    precisions: ClassVar[Mapping[str, tuple[str, ...]]]
    has_static_shapes: ClassVar[bool] = False

    def __init__(self, *, threads: int = 1, precision: str = "fp32", shapes: str = "dynamic") -> None:
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        if precision not in self.precisions:
            raise InputError(
                f"runtime {self.name}: precision must be one of {', '.join(self.precisions)}, got {precision!r}"
            )
        if shapes not in SHAPES:
            raise InputError(f"shapes must be one of {', '.join(SHAPES)}, got {shapes!r}")
        if shapes == "static" and not self.has_static_shapes:
            raise InputError(f"runtime {self.name}: shapes must be dynamic, static ones are not faster there")
        needed, there = self.precisions[precision], instruction_sets()
        if needed and not set(needed) & set(there):
            raise InputError(
                f"runtime {self.name}: precision {precision} needs a CPU with {' or '.join(needed)}, "
                f"this one has {', '.join(there) or 'none of those known'}"
            )
        if importlib.util.find_spec(self.package) is None:
            raise InputError(f"runtime {self.name}: package {self.package!r} is not installed")
        self.threads = threads
        self.precision = precision
        self.shapes = shapes

    @property
    def version(self) -> str:
        """Version of the installed package."""
        return importlib.metadata.version(self.package)

    @property
    def graph_precision(self) -> Literal["fp32", "int8"]:
        """Numeric format that the served graph itself must be in; bf16 is computed from a graph in fp32."""
        return "int8" if self.precision == "int8" else "fp32"

    def fingerprint(self, *, length_tokens: int, batch: int = 1) -> MachineFingerprint:
        """This machine serving in this way."""
        return MachineFingerprint.here(
            runtime=self.name,
            runtime_version=self.version,
            threads=self.threads,
            precision=self.precision,
            length_tokens=length_tokens,
            batch=batch,
            shapes=self.shapes,
        )

    @abstractmethod
    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        """A session for weights in memory (state-dict names); random weights, good for timing only, by default."""

    @abstractmethod
    def load_export(self, directory: str | Path) -> Session:
        """A session for an export folder. Raises :class:`InputError` if the folder holds no model for this runtime."""


def feeds_of_length(
    length_tokens: int, *, batch: int = 1, vocabulary: int = 100, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """Unpadded random rows for timing: three arrays (batch, length_tokens), without features."""
    if length_tokens < 1 or batch < 1:
        raise ValueError(f"length_tokens and batch must be at least 1, got {length_tokens} and {batch}")
    ids = np.random.default_rng(seed).integers(1, vocabulary, (batch, length_tokens))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@dataclass(frozen=True)
class Takes:
    """What a model is called with besides a text, or instead of it.

    Attributes:
        numbers: columns of numbers.
        categories: columns of categories.
        histories: histories of behaviours, instead of a text; of a text none.
        width: of a behaviour's vector.
    """

    numbers: int = 0
    categories: int = 0
    histories: int = 0
    width: int = 0

    @classmethod
    def of(cls, config: CrossEncoderConfig) -> Takes:
        """What a model of this configuration takes."""
        return cls(*config.feature_columns, config.histories, config.hidden_size if config.histories else 0)

    def feeds(self, text: Feeds) -> Feeds:
        """The feeds of some text as such a model wants them: features, or as long histories, are drawn at random.

        Features that are there stay as they are; those that are drawn are numbers, and the ids of no value.
        """
        if self == Takes():
            return text
        rows, tokens = text["input_ids"].shape
        rng = np.random.default_rng(0)
        made: dict[str, npt.NDArray[Any]] = {}
        if self.histories:
            shape = rows, self.histories, tokens
            made["vectors"] = rng.normal(size=(*shape, self.width)).astype(np.float32)
            made["vectors"][:, :, 0] = 0
            made["attention_mask"] = np.repeat(text["attention_mask"][:, None], self.histories, axis=1)
            made["item"] = rng.normal(size=(rows, self.width)).astype(np.float32)
        if self.numbers:
            made["numeric"] = text.get("numeric", rng.normal(size=(rows, self.numbers)).astype(np.float32))
        if self.categories:
            made["categorical"] = text.get("categorical", np.zeros((rows, self.categories), np.int64))
        return {**({} if self.histories else text), **made}


def feeds_for(session: Session, text: Feeds) -> Feeds:
    """The feeds of some text as a session wants them, see :meth:`Takes.feeds`."""
    takes: Takes = getattr(session, "takes", Takes())
    return takes.feeds(text)
