"""The behaviour store: what it costs to fill beside the encoder alone, to read and to keep, and a killed worker.

Encoding is told as a ratio: texts of a Parquet file into a store, against the same batches through the same encoder
with nothing around it, a slice of the texts at a time. Lookups are of random batches in a store of synthetic vectors,
warm and, after the system was asked to forget its files, cold, each in a process of its own. Then the Ray pipeline with
one worker and with two that get twice the texts, and once more with a worker killed. Each part is kept in the work
folder as it is made.

    python benchmarks/behaviour_store.py [--quick] [--rows N] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import torch
from common import Target, write_result

from sparsefront.models.ad_words import ATTRIBUTES, PRODUCTS
from sparsefront.models.backbone import load_backbone
from sparsefront.models.batching import TensorBatch
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import VECTORS, BehaviourStore
from sparsefront.models.scoring import scoring_batches
from sparsefront.models.text_columns import TextColumns
from sparsefront.search.encode import encode_columns
from sparsefront.search.encode_cluster import encode_on_ray
from sparsefront.search.pool import start_ray
from sparsefront.search.steps import write_json

REPOSITORY = Path(__file__).parent.parent
LAYERS, WIDTH = 3, 384
ROWS, QUICK_ROWS = 10_000_000, 200_000
TEXTS, QUICK_TEXTS = 65_536, 1_024
CLUSTER_TEXTS, QUICK_CLUSTER_TEXTS = 65_536, 1_024
"""Enough that starting workers is a small part; not so in a quick run."""
PAIRS, QUICK_PAIRS = 32, 2
"""Slices of the texts: short ones, so that a slow moment hits both ways of one."""
CHUNK, BATCH = 32_768, 4096
SLOWEST, FEWEST_PER_SECOND, GROWTH_MIB = 1.05, 200_000.0, 100.0
"""Encoding's time over the encoder's own; warm vectors a second; what twice the rows may add to a process's memory."""
FINGERPRINT = "5" * 64


def behaviours(count: int, *, start: int = 0) -> list[str]:
    """So many different short texts, as people leave them."""
    names = [name for kinds in PRODUCTS.values() for kind in kinds.values() for name in kind]
    words = sorted({word for values in ATTRIBUTES.values() for alike in values for word in alike})
    chosen = np.random.default_rng(start).integers(0, len(names) * len(words), count)
    return [
        f"viewed {words[at % len(words)]} {names[at // len(words)]} {number}"
        for number, at in enumerate(chosen.tolist(), start)
    ]


def write_texts(path: Path, texts: list[str]) -> TextColumns:
    """A Parquet file of histories of sixteen."""
    histories = [texts[at : at + 16] for at in range(0, len(texts), 16)]
    pq.write_table(pa.table({"history": pa.array(histories, pa.list_(pa.string()))}), path, row_group_size=256)
    return TextColumns.of(path)


def encode_rate(work: Path, encoder: BehaviourEncoder, texts: int, pairs: int) -> dict[str, Any]:
    """Seconds of encoding into a store and of forward passes alone, of one slice of the texts after the other."""
    size = texts // pairs
    seconds: dict[str, list[float]] = {"store": [], "encoder": []}
    tokens = 0
    shutil.rmtree(work / "encoded", ignore_errors=True)
    with BehaviourStore.open(
        work / "encoded", encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=True
    ) as store:
        for pair in range(pairs):
            named = behaviours(size, start=pair * size)
            columns = write_texts(work / "texts.parquet", named)
            batches = list(scoring_batches(encoder.token_rows(named)[0], torch.device("cpu")))
            tokens += sum(int(batch.attention_mask.sum()) for batch in batches)
            if not pair:
                _forward(encoder, batches)  # warms up
            for name in ("store", "encoder") if pair % 2 else ("encoder", "store"):
                start = time.perf_counter()
                if name == "store":
                    encode_columns(columns, store, encoder, advance=lambda *_: None)
                else:
                    _forward(encoder, batches)
                seconds[name].append(time.perf_counter() - start)
    ratios = np.array(seconds["store"]) / np.array(seconds["encoder"])
    return {
        "part": "encode",
        "texts": texts,
        "slices": pairs,
        "tokens_mean": tokens / texts,
        "texts_per_second_encoder": size / float(np.median(seconds["encoder"])),
        "texts_per_second_store": size / float(np.median(seconds["store"])),
        "ratio": float(np.median(ratios)),
        "ratio_quartiles": np.quantile(ratios, [0.25, 0.75]).tolist(),
    }


def _forward(encoder: BehaviourEncoder, batches: list[TensorBatch]) -> None:
    for batch in batches:
        encoder.pooled(batch)


def fill(path: Path, rows: int) -> dict[str, Any]:
    """Vectors until there are so many; goes on where it was. Runs in a process of its own."""
    block = np.random.default_rng(0).standard_normal((CHUNK, WIDTH)).astype(np.float16)
    start, own_mib, added = time.perf_counter(), 0.0, 0
    with BehaviourStore.open(path, encoder_fingerprint=FINGERPRINT, width=WIDTH, write=True) as store:
        for first in range(len(store) // CHUNK * CHUNK, rows, CHUNK):
            count = min(CHUNK, rows - first)
            added += store.put(behaviours(count, start=first), block[:count])
            own_mib = max(own_mib, anonymous_mib())
        stats = store.stats()
    return {
        "rows": rows,
        "added": added,
        "vectors_per_second": added / (time.perf_counter() - start),
        "bytes_per_behaviour": stats["bytes_per_vector"],
        "bytes_of_vector": 2 * WIDTH,
        "own_peak_mib": own_mib,
        "resident_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def look_up(path: Path, rows: int, seconds: float) -> dict[str, Any]:
    """Vectors, rows of texts and both per second, of random batches, and both once more of texts that the store was
    asked for before. Runs in a process of its own.

    For so many seconds each; 0: for one row in a hundred, before much of the files has been read.
    """
    few = max(1, rows // 100 // BATCH)
    rng = np.random.default_rng(os.getpid())

    def drawn() -> list[str]:
        first = int(rng.integers(0, max(1, rows // CHUNK))) * CHUNK
        texts = behaviours(min(CHUNK, rows - first), start=first)
        return [texts[at] for at in rng.integers(0, len(texts), BATCH)]

    out = np.empty((BATCH, WIDTH), np.float16)
    with BehaviourStore.open(path) as store:
        calls: dict[str, Callable[[Any], Any]] = {
            "vectors": lambda index: store.vectors(index, out=out),
            "rows": store.rows,
            "get": store.get,
            "again": store.get,
        }
        same = drawn()
        found = {}
        for name, call in calls.items():
            done, spent = 0, 0.0
            if name == "again":
                store.get(same)
            while spent < seconds if seconds else done < few:
                asked = rng.integers(0, rows, BATCH) if name == "vectors" else same if name == "again" else drawn()
                start = time.perf_counter()
                call(asked)
                spent += time.perf_counter() - start
                done += 1
            found[f"{name}_per_second"] = done * BATCH / spent
        return {**found, "own_peak_mib": anonymous_mib()}


def anonymous_mib() -> float:
    """Memory of this process that is not a mapped file, now."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def forget(path: Path) -> None:
    """Ask the system to drop what it holds of a store's files."""
    for file in (path / VECTORS, path / "keys" / "data.mdb"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def store_parts(work: Path, rows: int, seconds: float) -> list[dict[str, Any]]:
    """Fill half, then all; look up cold and warm."""
    path = work / f"synthetic-{rows}"
    needed = rows * WIDTH * 2 * 1.3
    free = shutil.disk_usage(work).free + sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if free < needed:
        sys.exit(f"{work}: {free / 2**30:.1f} GiB are free, {rows} rows need {needed / 2**30:.1f}; give fewer --rows")
    found = [kept(work, f"fill-{rows}-{part}", partial(own_process, "fill", path, part)) for part in (rows // 2, rows)]
    forget(path)
    cold = kept(work, f"cold-{rows}", lambda: own_process("look_up", path, rows, 0.0))
    touch(path)
    warm = kept(work, f"warm-{rows}", lambda: own_process("look_up", path, rows, seconds))
    return [
        *({"part": "fill", **one} for one in found),
        {"part": "look up, cold", "rows": rows, **cold},
        {"part": "look up, warm", "rows": rows, **warm},
    ]


def touch(path: Path) -> None:
    """Read all vectors once, so that what fits into memory is there."""
    with (path / VECTORS).open("rb") as stream:
        while stream.read(1 << 24):
            pass


def cluster(work: Path, encoder: BehaviourEncoder, texts: int, *, workers: int, kill: bool = False) -> dict[str, Any]:
    """The Ray pipeline, from nothing; ``kill``: SIGKILL one of its encoders a while after it began."""
    if not ray.is_initialized():
        start_ray(2, None)
    named = behaviours(texts)
    columns = write_texts(work / "cluster.parquet", named)
    for name in ("cluster", "shards"):
        shutil.rmtree(work / name, ignore_errors=True)
    killed: list[int] = []
    over = threading.Event()

    def killer() -> None:
        while not over.wait(0.2) and not killed:
            shards = list((work / "shards").glob("*.parquet"))
            actors = [one for one in psutil.Process().children(recursive=True) if "EncodeTexts" in command_of(one)]
            if shards and actors:
                actors[0].send_signal(signal.SIGKILL)
                killed.append(actors[0].pid)

    watching = threading.Thread(target=killer, daemon=True)
    if kill:
        watching.start()
    with BehaviourStore.open(
        work / "cluster", encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=True
    ) as store:
        report = encode_on_ray(
            columns, store, encoder, shards=work / "shards", workers=workers, batch_texts=max(64, texts // 16),
            advance=lambda *_: None,
        )  # fmt: skip
        over.set()
        distinct = len(store)
        sample = named[:: max(1, texts // 500)]
        differ = float(np.abs(store.get(sample).astype(np.float32) - encoder.encode(sample)).max())
    in_shards = sum(pq.read_metadata(file).num_rows for file in (work / "shards").glob("*.parquet"))
    return {
        "part": "cluster, a worker killed" if kill else "cluster",
        "workers": workers,
        "texts": texts,
        "seconds": report.seconds,
        "vectors_per_second": texts / report.seconds,
        "killed": len(killed),
        "lost": texts - distinct,
        "twice": in_shards - texts,
        "vectors_differ": differ,
    }


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def kept(work: Path, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A measurement from the work folder, or a new one that is kept there."""
    path = work / f"{name}.json"
    if not path.exists():
        write_json(path, measure())
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def own_process(name: str, *arguments: object) -> dict[str, Any]:
    """A function of this module in a process of its own."""
    command = [sys.executable, __file__, "--call", name, *(str(one) for one in arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def called(name: str, path: str, rows: str, *rest: str) -> None:
    """What :func:`own_process` asks for."""
    print(json.dumps(fill(Path(path), int(rows)) if name == "fill" else look_up(Path(path), int(rows), float(*rest))))


def main() -> None:
    """Every part that is not there yet, then the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="200,000 vectors, 1,024 texts")
    parser.add_argument("--rows", type=int, default=None, help="synthetic vectors; 10 million by default")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-behaviour-store")
    parser.add_argument("--call", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.call:
        called(*arguments.call)
        return
    quick = arguments.quick
    torch.set_num_threads(1)
    work = (arguments.work / ("quick" if quick else "full")).resolve()
    work.mkdir(parents=True, exist_ok=True)
    rows = arguments.rows or (QUICK_ROWS if quick else ROWS)
    texts, pairs = (QUICK_TEXTS, QUICK_PAIRS) if quick else (TEXTS, PAIRS)
    spread = QUICK_CLUSTER_TEXTS if quick else CLUSTER_TEXTS
    encoder = BehaviourEncoder.of(load_backbone("minilm"), layers=LAYERS)
    found = [kept(work, "encode", lambda: encode_rate(work, encoder, texts, pairs))]
    found += store_parts(work, rows, 1.0 if quick else 10.0)
    for name, workers, count, kill in (
        ("one", 1, spread, False), ("two", 2, 2 * spread, False), ("killed", 2, spread, True),
    ):  # fmt: skip
        found.append(
            kept(
                work,
                f"cluster-{name}",
                partial(cluster, work, encoder, count, workers=workers, kill=kill),
            )
        )
    write_result("behaviour_store", found, targets_of(found), [0], quick)


def targets_of(found: list[dict[str, Any]]) -> list[Target]:
    """What was asked of the store."""
    encode, half, full, _, warm, one, two, killed = found
    return [
        Target("time of encoding into a store over that of the encoder alone", "<=", SLOWEST, encode["ratio"]),
        Target("vectors a second, warm, one core", ">=", FEWEST_PER_SECOND, warm["vectors_per_second"]),
        Target("vectors by text a second, warm, one core", ">=", FEWEST_PER_SECOND, warm["get_per_second"]),
        Target(
            "MiB of own memory that twice the rows add", "<=", GROWTH_MIB, full["own_peak_mib"] - half["own_peak_mib"]
        ),
        Target("seconds for twice the texts with two workers over one", "<=", 1.2, two["seconds"] / one["seconds"]),
        Target("workers killed", ">=", 1.0, float(killed["killed"])),
        Target("texts lost by it", "<=", 0.0, float(killed["lost"])),
        Target("texts stored twice by it", "<=", 0.0, float(killed["twice"])),
    ]


if __name__ == "__main__":
    main()
