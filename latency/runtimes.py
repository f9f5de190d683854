"""The serving runtimes by name. Each imports its package only when it is asked for."""

from __future__ import annotations

from sparsefront.latency.machine import MachineFingerprint
from sparsefront.latency.runtime import Runtime
from sparsefront.latency.runtime_onnxruntime import OnnxRuntime
from sparsefront.latency.runtime_openvino import OpenVino
from sparsefront.latency.runtime_torch import TorchRuntime
from sparsefront.spaces import InputError

RUNTIMES: dict[str, type[Runtime]] = {kind.name: kind for kind in (OnnxRuntime, OpenVino, TorchRuntime)}


def runtime(name: str, *, threads: int = 1, precision: str = "fp32", shapes: str = "dynamic") -> Runtime:
    """The runtime of that name; :class:`InputError` lists the known ones otherwise."""
    if name not in RUNTIMES:
        raise InputError(f"runtime must be one of {', '.join(sorted(RUNTIMES))}, got {name!r}")
    return RUNTIMES[name](threads=threads, precision=precision, shapes=shapes)


def runtime_of(stated: MachineFingerprint) -> Runtime:
    """The runtime that a table or an export was measured in."""
    return runtime(stated.runtime, threads=stated.threads, precision=stated.precision, shapes=stated.shapes)
