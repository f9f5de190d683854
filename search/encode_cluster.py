"""Encoding behaviours on a cluster: a Ray Data pipeline from Parquet to shards of vectors, which a store then loads.

Ray Data finds the distinct texts; the driver, who alone has the store, keeps those that are new; actors, each with the
encoder, turn them into vectors; shards are loaded in the end. What a killed job has left is loaded before the next one
begins, so that its texts are known by then.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import ray.data
import torch
from ray.data import ActorPoolStrategy, DataContext

from sparsefront.models.behaviour_encoder import BehaviourEncoder, EncoderParts
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.data_file import SEPARATORS
from sparsefront.models.text_columns import TextColumns, parquet_pieces
from sparsefront.models.vector_shards import TEXT, read_shard, shard_of, whole_shards
from sparsefront.search.encode import BATCH_TEXTS, EncodeReport
from sparsefront.search.interrupts import held_interrupts
from sparsefront.search.pool import cpus_in, missing_module, start_ray
from sparsefront.search.progress import Advance
from sparsefront.spaces import InputError, RunFailed

_LOOK_SECONDS = 2.0
_PARTITIONS_PER_CPU = 2
_BLOCKS_PER_PARTITION = 8
_RAISED = re.compile(r"^(?P<kind>[\w.]+(Error|Exception|Failed)): (?P<line>.*)$", re.MULTILINE)
"""The first exception that a worker's traceback tells: what the others come of."""
_PART, _GROUP, _COUNT = "part", "group", "count"


def encode_on_ray(
    columns: TextColumns,
    store: BehaviourStore,
    encoder: BehaviourEncoder,
    *,
    shards: Path,
    address: str | None = None,
    workers: int = 0,
    batch_texts: int = BATCH_TEXTS,
    build: Callable[[EncoderParts], BehaviourEncoder] = EncoderParts.build,
    advance: Advance,
) -> EncodeReport:
    """As :func:`sparsefront.search.encode.encode_columns`, by a cluster.

    Args:
        columns: of Parquet files; a cluster's machines must see them.
        store: opened to write, of this encoder; only this process opens it.
        encoder: whose copies the workers use.
        shards: folder for the shards, which all machines must see; they may be removed afterwards.
        address: of a running cluster; None starts Ray on this machine, or uses the one this process has started.
        workers: encoders at a time, one CPU each; 0: one per CPU.
        batch_texts: encoded together, and written as one shard.
        build: makes a worker's encoder.
        advance: told how many texts are done, of how many (0: not known yet).

    Raises:
        InputError: rows are not Parquet, a shard is another encoder's, no cluster answers, more CPUs are asked for
            than there are, or a machine cannot import what it should run.
        RunFailed: the workers failed; the same call goes on.
    """
    start = time.perf_counter()
    if columns.parts[0].suffix.lower() in SEPARATORS:
        raise InputError(f"{columns.parts[0]}: a cluster reads Parquet files, got {columns.parts[0].suffix}")
    if shards.exists() and not shards.is_dir():
        raise InputError(f"{shards}: is a file; expected a folder for the shards")
    shards = shards.resolve()
    shards.mkdir(parents=True, exist_ok=True)
    before = load_shards(shards, store, max_tokens=encoder.max_tokens)
    with _ray(workers, address):
        cpus = int(cpus_in(ray.cluster_resources))
        found = _new_texts(columns, store, partitions=_PARTITIONS_PER_CPU * max(cpus, 1), batch_texts=batch_texts)
        advance(0, found.new)
        if found.tables:
            known = set(whole_shards(shards)[0])
            with _watched(shards, known, found.new, advance):
                _encode(found.tables, shards, encoder, workers=workers or max(cpus, 1), build=build)
    after = load_shards(shards, store, max_tokens=encoder.max_tokens)
    advance(found.new, found.new)
    return EncodeReport(
        rows=columns.rows or 0,
        texts=found.texts,
        encoded=before.added + after.added,
        cut=before.cut + after.cut,
        seconds=time.perf_counter() - start,
        recovered=before.added,
        damaged_shards=after.damaged,
    )


@dataclass(frozen=True)
class Loaded:
    """Vectors that shards have ``added`` to a store, how many of them are of ``cut`` texts, and files that are no
    whole shards."""

    added: int
    cut: int
    damaged: tuple[str, ...]


def load_shards(folder: Path, store: BehaviourStore, *, max_tokens: int) -> Loaded:
    """Put all whole shards of a folder into a store; one that was loaded before adds nothing.

    Args:
        folder: with the shards.
        store: opened to write.
        max_tokens: of the encoder: texts of more were cut.

    Raises:
        InputError: a shard of another encoder, or a file that is none; or the disk is full.
    """
    whole, damaged = whole_shards(folder)
    added = cut = 0
    for path in whole:
        for texts, vectors, tokens in read_shard(path, encoder=store.encoder_fingerprint, width=store.width):
            is_new = store.rows(texts) < 0
            cut += int((is_new & (tokens > max_tokens)).sum())
            with held_interrupts():  # a write is never cut in two
                added += store.put(texts, vectors)
    return Loaded(added, cut, tuple(path.name for path in damaged))


@dataclass(frozen=True)
class _Found:
    """``texts`` of the columns, repeated ones included; how many are ``new``; and those, in the object store."""

    texts: int
    new: int
    tables: list[Any]


def _new_texts(columns: TextColumns, store: BehaviourStore, *, partitions: int, batch_texts: int) -> _Found:
    """What the store has no vector of, as tables of ``batch_texts``."""
    names = list(columns.names)

    def counted(batch: pa.Table) -> Iterator[pa.Table]:
        """Distinct texts of row groups and how often each is there, so that less is sent around."""
        for part, group in zip(batch.column(_PART).to_pylist(), batch.column(_GROUP).to_pylist(), strict=True):
            for piece in parquet_pieces(Path(part), names, group=group):
                counts = pa.array(piece.texts, pa.string()).value_counts()
                yield pa.table({TEXT: counts.field("values"), _COUNT: counts.field("counts")})

    # Not read_parquet: it resolves paths in threads, which import a module at the same time and fail where that does.
    groups = [
        {_PART: str(part.resolve()), _GROUP: group}
        for part, count in zip(columns.parts, columns.groups, strict=True)
        for group in range(count)
    ]
    if not groups:
        return _Found(0, 0, [])
    blocks = min(len(groups), _BLOCKS_PER_PARTITION * partitions)
    pieces = ray.data.from_items(groups, override_num_blocks=blocks).map_batches(counted, batch_format="pyarrow")
    distinct = pieces.groupby(TEXT, num_partitions=partitions).sum(_COUNT)
    texts = new = 0
    waiting: list[str] = []
    tables: list[Any] = []
    with _told():
        batch: Any
        for batch in distinct.iter_batches(batch_size=batch_texts, batch_format="pyarrow"):
            texts += int(np.sum(batch.column(f"sum({_COUNT})").to_numpy()))
            words = batch.column(TEXT).to_pylist()
            unknown = np.flatnonzero(store.rows(words) < 0).tolist()
            new += len(unknown)
            waiting += [words[at] for at in unknown]
            while len(waiting) >= batch_texts:
                tables.append(ray.put(pa.table({TEXT: pa.array(waiting[:batch_texts], pa.string())})))
                del waiting[:batch_texts]
    if waiting:
        tables.append(ray.put(pa.table({TEXT: pa.array(waiting, pa.string())})))
    return _Found(texts, new, tables)


class EncodeTexts:
    """What runs in an actor: a table of texts -> a shard."""

    def __init__(self, parts: Any, build: Callable[[EncoderParts], BehaviourEncoder]) -> None:
        torch.set_num_threads(1)  # Ray sets OMP_NUM_THREADS once per process, whatever an actor is given
        self._encoder = build(ray.get(parts))

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch.column(TEXT).to_pylist()
        return shard_of(texts, self._encoder.encodings(texts), self._encoder.fingerprint)


def _encode(
    tables: list[Any],
    shards: Path,
    encoder: BehaviourEncoder,
    *,
    workers: int,
    build: Callable[[EncoderParts], BehaviourEncoder],
) -> None:
    """Write a shard for each table. A worker that dies is replaced, and its table is encoded again."""
    arguments = {"parts": ray.put(encoder.parts()), "build": build}
    vectors = ray.data.from_arrow_refs(tables).map_batches(
        EncodeTexts,
        fn_constructor_kwargs=arguments,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(workers, len(tables))),
        num_cpus=1,
    )
    with _told():
        vectors.write_parquet(str(shards), ray_remote_args={"num_cpus": 0})  # every CPU has an encoder


@contextmanager
def _ray(workers: int, address: str | None) -> Iterator[None]:
    """Ray, started unless this process has it already, with a silent Ray Data."""
    ours = not ray.is_initialized()
    if ours:
        start_ray(max(workers, 1), address)
    try:
        if workers > (there := cpus_in(ray.cluster_resources)):
            raise InputError(f"{workers} workers asked for, a CPU each; Ray has {there:g}")
        context = DataContext.get_current()
        bars, logger = context.enable_progress_bars, logging.getLogger("ray.data")
        level = logger.level
        context.enable_progress_bars = False
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            context.enable_progress_bars = bars
            logger.setLevel(level)
    finally:
        if ours:
            ray.shutdown()


@contextmanager
def _told() -> Iterator[None]:
    """What ends a pipeline as one line."""
    try:
        yield
    except (InputError, RunFailed):
        raise
    except Exception as error:
        if missing := missing_module(error):
            raise InputError(
                f"a machine of the cluster cannot import {missing!r}: install the same sparsefront there"
            ) from error
        raised = _RAISED.search(str(error))
        line = " ".join((raised["line"] if raised else str(error) or type(error).__name__).split())
        if raised and raised["kind"].endswith("InputError"):
            raise InputError(line) from error
        raise RunFailed(f"encoding ended early: {line}; the same call goes on") from error


@contextmanager
def _watched(shards: Path, known: set[Path], total: int, advance: Advance) -> Iterator[None]:
    """Tells how many texts the new shards hold, while they are written."""
    ended = threading.Event()

    def look() -> None:
        done = 0
        while not ended.wait(_LOOK_SECONDS):
            for path in set(whole_shards(shards)[0]) - known:
                known.add(path)
                done += pq.read_metadata(path).num_rows
            advance(done, total)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
