"""Recheck: has the machine changed since a table was profiled?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sparsefront.latency.meter import Meter
from sparsefront.latency.runtime import Runtime
from sparsefront.latency.table import LatencyTable
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.spaces import Genome, InputError

LIMIT = 0.05


@dataclass(frozen=True)
class Recheck:
    """Held-out models of a table, measured again.

    Attributes:
        genomes: their keys; ``then_us``, ``now_us`` and ``predicted_us``: microseconds, each (genomes,).
        drift: median of now / then, less one.
        error: mean of abs(predicted / now - 1).
        repeat_drift: how far the reference model's own passes were apart just now; noise, if large.
    """

    genomes: tuple[str, ...]
    then_us: tuple[float, ...]
    now_us: tuple[float, ...]
    predicted_us: tuple[float, ...]
    drift: float
    error: float
    repeat_drift: float

    @property
    def holds(self) -> bool:
        """Whether the machine is as fast as it was, to ``LIMIT``."""
        return abs(self.drift) <= LIMIT


def recheck(
    table: LatencyTable, serving: Runtime, *, models: int = 12, progress: Callable[[int, int], None] | None = None
) -> Recheck:
    """Measure some of the table's held-out models again, with the statistic that they were measured with.

    Raises:
        InputError: the table keeps no held-out models.
    """
    points, then = list(table.notes.get("heldout", [])), list(table.notes.get("heldout_us", []))
    if not points or len(points) != len(then):
        raise InputError("the table keeps no held-out models to measure again; profile anew")
    chosen = sorted(np.argsort(then)[np.linspace(0, len(then) - 1, min(models, len(then))).astype(int)].tolist())
    genomes = [Genome.parse(points[index][0]) for index in chosen]
    lengths = [int(points[index][1]) for index in chosen]
    meter = Meter(_config_of(table), serving, batch=table.fingerprint.batch, progress=progress, total=len(genomes))
    now, repeat_drift = meter.measure(list(zip(genomes, lengths, strict=True)))
    before = np.array([then[index] for index in chosen])
    predicted = np.array(
        [table.predict(genome, length_tokens=length) for genome, length in zip(genomes, lengths, strict=True)]
    )
    return Recheck(
        genomes=tuple(genome.key() for genome in genomes),
        then_us=tuple(before.tolist()),
        now_us=tuple(now.tolist()),
        predicted_us=tuple(predicted.tolist()),
        drift=float(np.median(now / before)) - 1,
        error=float(np.abs(predicted / now - 1).mean()),
        repeat_drift=repeat_drift,
    )


def _config_of(table: LatencyTable) -> CrossEncoderConfig:
    """A dense model of the table's widths; what its words are does not change the time."""
    own = table.backbone
    return CrossEncoderConfig(
        vocab_size=512,
        hidden_size=own.hidden_size,
        head_size=own.head_size,
        layer_heads=[own.heads] * own.layers,
        layer_ffn_units=[own.ffn_units] * own.layers,
        max_position_embeddings=max(512, table.fingerprint.length_tokens),
        hidden_act=own.hidden_act,
    )
