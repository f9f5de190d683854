"""Bench: an export under load, beside the dense model that it was cut from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsefront.latency.load import Load, serve
from sparsefront.latency.machine import MachineFingerprint
from sparsefront.latency.runtime import Runtime, Session, feeds_of_length
from sparsefront.latency.runtimes import runtime_of
from sparsefront.models.backbone import load_backbone
from sparsefront.models.ranker import load_ranker
from sparsefront.search.export import SparseConfig
from sparsefront.search.progress import Reporter, Silent
from sparsefront.spaces import Genome, InputError


@dataclass(frozen=True)
class Bench:
    """An export and the dense model, each called by one number of clients after the other.

    Attributes:
        runtime: name, version, precision and threads per call, for people.
        batch: rows per call; ``length_tokens``: tokens per row, unpadded.
        export: one entry per number of clients; ``dense``: the same, empty when the backbone is not there.
        dense_note: why it is empty.
    """

    runtime: str
    batch: int
    length_tokens: int
    export: tuple[Load, ...]
    dense: tuple[Load, ...]
    dense_note: str | None

    @property
    def speed_up(self) -> float:
        """Median of the dense model over the export's, for the first number of clients."""
        return self.dense[0].latency.median_us / self.export[0].latency.median_us


def bench(
    folder: Path,
    *,
    clients: Sequence[int],
    batch: int = 1,
    length_tokens: int | None = None,
    seconds: float = 2.0,
    reporter: Reporter | None = None,
) -> Bench:
    """Call an export, and the dense model of its backbone with arbitrary weights, turn by turn.

    Raises:
        InputError: no export; a length that its model has no positions for.
    """
    config = SparseConfig.read(folder)
    stated = MachineFingerprint.from_json(config.fingerprint)
    serving = runtime_of(stated)
    length = stated.length_tokens if length_tokens is None else length_tokens
    feeds = feeds_of_length(length, batch=batch)
    dense, note, positions = _dense(folder, config, serving)
    if length > positions:
        raise InputError(f"--length {length}: the model has {positions} positions")
    exports: list[Load] = []
    denses: list[Load] = []
    with (reporter or Silent()).step("calling") as advance:
        for done, count in enumerate(clients):
            exports.append(serve([serving.load_export(folder) for _ in range(count)], feeds, seconds=seconds))
            if dense is not None:
                denses.append(serve([dense() for _ in range(count)], feeds, seconds=seconds))
            advance(done + 1, len(clients))
    name = f"{serving.name} {serving.version} {serving.precision}, {serving.threads} threads per call"
    return Bench(name, batch, length, tuple(exports), tuple(denses), note)


def _dense(
    folder: Path, export: SparseConfig, serving: Runtime
) -> tuple[Callable[[], Session] | None, str | None, int]:
    """Loads the dense model, or why it cannot be, and its positions (512 when unknown)."""
    try:
        backbone = load_backbone(export.backbone)
        config = (backbone.with_spans() if export.spans else backbone.with_classes(export.classes or ())).config
        if (own := load_ranker(folder).config).histories:  # the upper layers alone
            upper = config.genome.layers[-len(own.genome) :]
            reading = [gene.feature_heads for gene in own.genome]
            heads, units = zip(*((gene.heads, gene.ffn_units) for gene in upper), strict=True)
            behaviours = max(own.behaviours, int(export.fingerprint["length_tokens"]) - 1)
            dense = Genome.from_columns(heads, units, [100] * len(upper), reading)
            config = own.with_genome(dense.replace(0, "behaviours", behaviours))
    except InputError as error:
        return None, str(error), 512
    return (lambda: serving.load(config)), None, config.max_position_embeddings
