"""MachineFingerprint: what a latency depends on besides the model."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from sparsefront.spaces import InputError

_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "asimd",
    "asimddp",
    "sve",
    "i8mm",
    "bf16",
)
_FLAG_PREFIXES = ("amx_",)


@dataclass(frozen=True)
class MachineFingerprint:
    """A latency table is valid for one of these only.

    Attributes:
        cpu: model name.
        isa: instruction sets that matrix products use, sorted.
        cores: logical cores of the machine.
        system: operating system and architecture.
        runtime: name of the serving runtime.
        runtime_version: its version.
        threads: threads that one call may use.
        precision: numeric format of the weights, e.g. ``fp32``.
        batch: rows per call.
        length_tokens: tokens per row that the table was profiled for.
        shapes: ``dynamic``, or ``static``: the model is compiled for rows of one length and shorter ones are padded.
    """

    cpu: str
    isa: tuple[str, ...]
    cores: int
    system: str
    runtime: str
    runtime_version: str
    threads: int
    precision: str
    batch: int
    length_tokens: int
    shapes: str = "dynamic"

    @classmethod
    def here(
        cls,
        *,
        runtime: str,
        runtime_version: str,
        threads: int,
        length_tokens: int,
        precision: str = "fp32",
        batch: int = 1,
        shapes: str = "dynamic",
    ) -> MachineFingerprint:
        """This machine with the given way of serving."""
        return cls(
            cpu=_cpuinfo().get("model name") or platform.processor() or platform.machine(),
            isa=instruction_sets(),
            cores=os.cpu_count() or 1,
            system=f"{platform.system()} {platform.machine()}",
            runtime=runtime,
            runtime_version=runtime_version,
            threads=threads,
            precision=precision,
            batch=batch,
            length_tokens=length_tokens,
            shapes=shapes,
        )

    def differences(self, asked: MachineFingerprint) -> list[str]:
        """One line per field that differs, e.g. ``threads: table 1, asked 2``; empty when both agree."""
        lines = []
        for field in fields(self):
            mine, other = getattr(self, field.name), getattr(asked, field.name)
            if mine != other:
                lines.append(f"{field.name}: table {_text(mine)}, asked {_text(other)}")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Plain values, inverse of :meth:`from_json`."""
        return {**asdict(self), "isa": list(self.isa)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> MachineFingerprint:
        """Strict: raises :class:`InputError` for a key that is missing, not known or of another type."""
        known = {field.name: field.type for field in fields(cls)}
        if unknown := sorted(set(values) ^ set(known)):
            raise InputError(
                f"machine fingerprint: key {unknown[0]!r} is {'missing' if unknown[0] in known else 'not known'}"
            )
        for name, kind in known.items():
            value = values[name]
            if name == "isa":
                fits = isinstance(value, list) and all(isinstance(flag, str) for flag in value)
            else:
                fits = type(value).__name__ == kind
            if not fits:
                raise InputError(f"machine fingerprint: {name} must be of type {kind}, got {value!r}")
        return cls(**{**values, "isa": tuple(values["isa"])})


def instruction_sets() -> tuple[str, ...]:
    """What this CPU has of the instruction sets that matrix products use, sorted."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    return tuple(sorted(flag for flag in flags if flag in _FLAGS or flag.startswith(_FLAG_PREFIXES)))


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries; empty where the system has no /proc/cpuinfo."""
    path = Path("/proc/cpuinfo")
    info: dict[str, str] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if colon:
                info.setdefault(name.strip(), value.strip())
    return info


def _text(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) else str(value)
