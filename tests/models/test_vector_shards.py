"""Shards of vectors: what goes in comes out, of their own encoder only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsefront.models.behaviour_encoder import Encodings
from sparsefront.models.vector_shards import VECTOR, read_shard, shard_of, whole_shards
from sparsefront.spaces import InputError

TEXTS = ["a", "", "é" * 5_000]
FOUND = Encodings(
    vectors=np.linspace(-4, 7, 12).astype(np.float16).reshape(3, 4), tokens=np.array([3, 2, 5_002], np.int32)
)
ENCODER = "ab" * 32


def test_a_shard_comes_back_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.models.vector_shards._BATCH_ROWS", 2)
    path = tmp_path / "one.parquet"
    pq.write_table(shard_of(TEXTS, FOUND, ENCODER), path, row_group_size=3)
    pieces = list(read_shard(path, encoder=ENCODER, width=4))
    assert [text for texts, _, _ in pieces for text in texts] == TEXTS and len(pieces) == 2
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors, _ in pieces]), FOUND.vectors)
    np.testing.assert_array_equal(np.concatenate([tokens for _, _, tokens in pieces]), FOUND.tokens)


def test_what_is_no_shard_of_the_encoder_is_refused(tmp_path: Path) -> None:
    path, table = tmp_path / "one.parquet", shard_of(TEXTS, FOUND, ENCODER)
    pq.write_table(table, path)
    for encoder, width, line in (
        ("cd" * 32, 4, f"holds vectors of encoder {ENCODER[:12]}; expected encoder cdcdcdcdcdcd"),
        (ENCODER, 5, r"column 'vector' holds fixed_size_binary\[8\]; expected fixed_size_binary\[10\]"),
    ):
        with pytest.raises(InputError, match=line):
            list(read_shard(path, encoder=encoder, width=width))
    pq.write_table(table.drop_columns([VECTOR]), path)
    with pytest.raises(InputError, match="column 'vector' holds None"):
        list(read_shard(path, encoder=ENCODER, width=4))
    missing = table.set_column(1, VECTOR, pa.array([b"12345678", None, b"12345678"], pa.binary(8)))
    pq.write_table(missing, path)
    with pytest.raises(InputError, match=r"one\.parquet: damaged: a text or a vector is missing"):
        list(read_shard(path, encoder=ENCODER, width=4))


def test_files_that_are_cut_are_told_apart(tmp_path: Path) -> None:
    pq.write_table(shard_of(TEXTS, FOUND, ENCODER), tmp_path / "whole.parquet")
    content = (tmp_path / "whole.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(content[:-20])
    (tmp_path / "empty.parquet").touch()
    whole, damaged = whole_shards(tmp_path)
    assert [path.name for path in whole] == ["whole.parquet"]
    assert [path.name for path in damaged] == ["cut.parquet", "empty.parquet"]
    with pytest.raises(InputError, match="not a readable shard"):
        list(read_shard(tmp_path / "cut.parquet", encoder=ENCODER, width=4))
