"""The fastest runtime of this machine for a model, measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.runtime import Runtime, Session
from sparsefront.latency.runtimes import RUNTIMES, runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

AUTO = "auto"


@dataclass(frozen=True)
class Fastest:
    """A runtime and what it was compared with.

    Attributes:
        runtime: the fastest.
        microseconds: of the dense model by runtime, in the statistic asked.
        refused: why the others were not measured, by runtime.
    """

    runtime: Runtime
    microseconds: Mapping[str, float]
    refused: Mapping[str, str]


def fastest_runtime(
    config: CrossEncoderConfig,
    *,
    threads: int,
    precision: str,
    statistic: Statistic,
    shapes: str = "dynamic",
    visits: int = 20,
) -> Fastest:
    """Measure a model, with arbitrary weights, in every runtime that this machine has, turn by turn.

    Raises:
        InputError: no runtime can do it; the line says why of each.
    """
    serving: dict[str, Runtime] = {}
    sessions: dict[str, Session] = {}
    refused: dict[str, str] = {}
    for name in RUNTIMES:
        try:
            serving[name] = runtime(name, threads=threads, precision=precision, shapes=shapes)
            sessions[name] = serving[name].load(config)
        except InputError as error:
            refused[name] = str(error)
    if not sessions:
        raise InputError(f"no runtime can serve this model: {'; '.join(refused.values())}")
    stats = measure_sessions(list(sessions.values()), statistic=statistic, visits=visits)
    found = {name: statistic.value_us(one) for name, one in zip(sessions, stats, strict=True)}
    return Fastest(serving[min(found, key=lambda name: found[name])], found, refused)
