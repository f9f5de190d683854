"""Vector shards: Parquet files of texts with their vectors, as they travel from a cluster to a store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparsefront.models.behaviour_encoder import Encodings
from sparsefront.spaces import InputError

TEXT, VECTOR, TOKENS, ENCODER = "text", "vector", "tokens", "encoder"
"""Columns: the text; its vector as ``2 * width`` bytes, little-endian half precision; tokens before it was cut; the
encoder's fingerprint."""
_BATCH_ROWS = 32_768


def shard_of(texts: Sequence[str], found: Encodings, encoder: str) -> pa.Table:
    """A table of texts with their vectors.

    Args:
        texts: in the order of the vectors.
        found: what an encoder has made of them.
        encoder: its fingerprint.
    """
    vectors = np.ascontiguousarray(found.vectors, "<f2")
    packed = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(2 * vectors.shape[1]), len(vectors), [None, pa.py_buffer(vectors)]
    )
    whose = pa.array([encoder] * len(vectors), pa.string())
    columns = {TEXT: pa.array(texts, pa.string()), VECTOR: packed, TOKENS: pa.array(found.tokens), ENCODER: whose}
    return pa.table(columns)


def whole_shards(folder: Path) -> tuple[list[Path], list[Path]]:
    """The shards in a folder, and the files among them that are not whole: what a killed writer leaves."""
    whole, damaged = list[Path](), list[Path]()
    for path in sorted(folder.glob("*.parquet")):
        try:
            pq.read_metadata(path)
        except (ValueError, OSError):  # the end of a Parquet file, without which it cannot be read, is written last
            damaged.append(path)
        else:
            whole.append(path)
    return whole, damaged


def read_shard(
    path: Path, *, encoder: str, width: int
) -> Iterator[tuple[list[str], NDArray[np.float16], NDArray[np.int32]]]:
    """Texts, ``(texts, width)`` vectors and ``(texts,)`` tokens of a shard, a piece at a time.

    Raises:
        InputError: no shard, one of another encoder or width, or a damaged one.
    """
    expected = {TEXT: pa.string(), VECTOR: pa.binary(2 * width), TOKENS: pa.int32(), ENCODER: pa.string()}
    try:
        with pq.ParquetFile(path) as file:
            kinds = dict(zip(file.schema_arrow.names, file.schema_arrow.types, strict=True))
            for name, kind in expected.items():
                if kinds.get(name) != kind and not (name == TEXT and kinds.get(name) == pa.large_string()):
                    raise InputError(
                        f"{path}: no shard of vectors: column {name!r} holds {kinds.get(name)}; expected {kind}"
                    )
            for batch in file.iter_batches(_BATCH_ROWS):
                others = set(batch.column(ENCODER).unique().to_pylist()) - {encoder}
                if others:
                    other = str(others.pop())
                    raise InputError(f"{path}: holds vectors of encoder {other[:12]}; expected encoder {encoder[:12]}")
                packed = batch.column(VECTOR)
                if packed.null_count or batch.column(TEXT).null_count:
                    raise InputError(f"{path}: damaged: a text or a vector is missing; expected both in every row")
                flat = np.frombuffer(packed.buffers()[1], np.uint8)[packed.offset * 2 * width :]
                vectors = flat[: len(batch) * 2 * width].view("<f2").reshape(len(batch), width)
                yield batch.column(TEXT).to_pylist(), vectors, batch.column(TOKENS).to_numpy()
    except InputError:
        raise
    except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
        raise InputError(f"{path}: not a readable shard: {str(error).splitlines()[0]}") from None
