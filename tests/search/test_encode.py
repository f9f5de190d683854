"""Encoding into a store: only what is new, whatever interrupts it, by the command line and without."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from tests.search.conftest import Cli
from tests.search.tiny import WORDS

from sparsefront.models.backbone import load_backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.text_columns import TextColumns
from sparsefront.search.encode import EncodeReport, encode_columns
from sparsefront.spaces import InputError

TEXTS = [f"{first} {second} {third}" for first in WORDS[:4] for second in WORDS for third in WORDS[:8]]


@pytest.fixture(scope="module")
def encoder(backbone: Path) -> BehaviourEncoder:
    return BehaviourEncoder.of(load_backbone(str(backbone)), layers=1, max_tokens=16)


def write_rows(path: Path, texts: list[str]) -> TextColumns:
    """Histories of five."""
    histories = [texts[at : at + 5] for at in range(0, len(texts), 5)]
    pd.DataFrame({"user": range(len(histories)), "history": histories}).to_parquet(path)
    return TextColumns.of(path)


def opened(path: Path, encoder: BehaviourEncoder) -> BehaviourStore:
    return BehaviourStore.open(path, encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=True)


def check(path: Path, encoder: BehaviourEncoder, texts: list[str]) -> None:
    """These texts are there once, with the vectors that the encoder gives them."""
    with BehaviourStore.open(path, encoder_fingerprint=encoder.fingerprint) as store:
        assert len(store) == len(texts)
        np.testing.assert_allclose(store.get(texts), encoder.encode(texts), rtol=2e-3, atol=2e-3)


class Counting:
    """An encoder that knows what it was asked, and is stopped at a batch."""

    def __init__(self, encoder: BehaviourEncoder, *, stop_at: int = 0) -> None:
        self.batches: list[list[str]] = []
        self._encoder, self._stop_at = encoder, stop_at
        self.texts_cut = 0

    def encode(self, texts: Sequence[str]) -> NDArray[np.float16]:
        self.batches.append(list(texts))
        if len(self.batches) == self._stop_at:
            raise KeyboardInterrupt
        return self._encoder.encode(texts)


def test_each_text_is_encoded_once_and_only_what_is_new(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    columns = write_rows(tmp_path / "rows.parquet", [*TEXTS, *TEXTS[:100]])
    told: list[tuple[int, int]] = []
    counting = Counting(encoder)
    with opened(tmp_path / "store", encoder) as store:
        store.put(TEXTS[:50], encoder.encode(TEXTS[:50]))
        report = encode_columns(
            columns,
            store,
            counting,
            batch_texts=100,
            advance=lambda done, total, facts=None: told.append((done, total)),
        )
        assert report.encoded == len(TEXTS) - 50 and report.texts == len(TEXTS) + 100
        assert report.rows == columns.rows and told[-1] == (columns.rows, columns.rows)
        assert [len(batch) for batch in counting.batches] == [100, 100, 100, 100, 62]
        assert report.hit_rate == 1 - report.encoded / report.texts
        again = encode_columns(columns, store, encoder, advance=lambda *_: None)
        assert again.encoded == 0 and again.hit_rate == 1 and again.vectors_per_second is None
        more = write_rows(tmp_path / "rows.parquet", [*TEXTS, "wool red", "", "x" * 10_000, "red " * 2_000])
        report = encode_columns(more, store, encoder, advance=lambda *_: None)
        assert (report.encoded, report.cut) == (4, 1)
    check(tmp_path / "store", encoder, [*TEXTS, "wool red", "", "x" * 10_000, "red " * 2_000])


def test_what_was_committed_before_an_interruption_is_not_done_again(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    columns = write_rows(tmp_path / "rows.parquet", TEXTS)
    stopped, counting = Counting(encoder, stop_at=4), Counting(encoder)
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "store", encoder) as store:
        encode_columns(columns, store, stopped, batch_texts=100, advance=lambda *_: None)
    check(tmp_path / "store", encoder, TEXTS[:300])
    with opened(tmp_path / "store", encoder) as store:
        encode_columns(columns, store, counting, batch_texts=100, advance=lambda *_: None)
    assert sum(len(batch) for batch in counting.batches) == len(TEXTS) - 300
    check(tmp_path / "store", encoder, TEXTS)


def test_a_full_disk_ends_it_and_the_same_call_goes_on(
    tmp_path: Path, encoder: BehaviourEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns, pwrite = write_rows(tmp_path / "rows.parquet", TEXTS), os.pwrite

    def full(handle: int, data: memoryview, offset: int) -> int:
        if offset >= 300 * 2 * encoder.width:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(handle, data, offset)

    with opened(tmp_path / "store", encoder) as store:
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(InputError, match="no room left on the disk"):
                encode_columns(columns, store, encoder, batch_texts=100, advance=lambda *_: None)
        assert len(store) == 300
        report = encode_columns(columns, store, encoder, batch_texts=100, advance=lambda *_: None)
        assert report.encoded == len(TEXTS) - 300
    check(tmp_path / "store", encoder, TEXTS)


def test_what_an_interrupted_call_has_encoded_counts_as_there() -> None:
    report = EncodeReport(rows=2, texts=7, encoded=107, cut=0, seconds=2.0, recovered=100)
    assert report.hit_rate == 0 and report.vectors_per_second == 3.5
    nothing_new = EncodeReport(rows=2, texts=7, encoded=100, cut=0, seconds=2.0, recovered=100)
    assert nothing_new.hit_rate == 1 and nothing_new.vectors_per_second is None


def test_the_command_says_what_it_did(tmp_path: Path, encoder: BehaviourEncoder, backbone: Path, cli: Cli) -> None:
    write_rows(tmp_path / "rows.parquet", [*TEXTS, *TEXTS[:10]])
    where = ("encode", tmp_path / "rows.parquet", "--store", tmp_path / "store")
    command = (*where, "--backbone", backbone, "--max-tokens", 16)
    report = cli(*command, "--json").json
    assert report["encoded"] == report["distinct"] == len(TEXTS) and report["rows"] == -(-(len(TEXTS) + 10) // 5)
    assert report["encoder"] == encoder.fingerprint, "the first half of two layers by default"
    assert report["bytes"] / len(TEXTS) == report["bytes_per_vector"] and report["vectors_per_second"] > 0
    check(tmp_path / "store", encoder, TEXTS)
    write_rows(tmp_path / "rows.parquet", TEXTS[:7])
    told = cli(*command, "--column", "history", "--compact-to", tmp_path / "smaller")
    assert told.status == 0 and "history: 7 texts in 2 rows, 100.0% had a vector" in told.out
    assert f"{len(TEXTS)} texts" in told.out and "compacted:" in told.out
    check(tmp_path / "smaller", encoder, TEXTS[:7])


def test_bad_input_is_one_line(tmp_path: Path, backbone: Path, cli: Cli) -> None:
    write_rows(tmp_path / "rows.parquet", TEXTS[:5])
    base = ("encode", tmp_path / "rows.parquet", "--backbone", backbone, "--max-tokens", 16)
    first = cli(*base, "--store", tmp_path / "store")
    assert first.status == 0, first.err
    for arguments, line in (
        (("--store", tmp_path / "store", "--pooling", "cls"), "holds vectors of encoder"),
        (("--store", tmp_path / "new", "--layers", 3), "layers must be from 1 to the backbone's 2, got 3"),
        (("--store", tmp_path / "new", "--layers", 0), "layers must be from 1 to the backbone's 2, got 0"),
        (("--store", tmp_path / "new", "--pooling", "max"), "pooling must be mean or cls, got 'max'"),
        (("--store", tmp_path / "new", "--max-tokens", 33), "max_tokens must be from 3 to the model's 32, got 33"),
        (("--store", tmp_path / "new", "--column", "no"), "no column 'no'; there are user, history"),
        (("--store", tmp_path / "new", "--column", "user"), "column 'user' holds int64; expected texts"),
        (("--store", tmp_path / "new", "--workers", 2), "--workers: is for a cluster; expected --shards"),
        (("--store", tmp_path / "rows.parquet"), "is a file; expected the folder of a behaviour store"),
        (("--store", tmp_path / "new", "--compact-to", tmp_path / "store"), "exists already"),
    ):
        told = cli(*base, *arguments)
        assert told.status == 2 and line in told.err and told.err.count("\n") == 1, told.err
        assert not (tmp_path / "new").exists()


def test_ctrl_c_keeps_what_is_committed(tmp_path: Path, encoder: BehaviourEncoder, backbone: Path) -> None:
    write_rows(tmp_path / "rows.parquet", TEXTS)
    store = tmp_path / "store"
    command = [
        *(sys.executable, "-m", "sparsefront", "encode", str(tmp_path / "rows.parquet"), "--store", str(store)),
        *("--backbone", str(backbone), "--max-tokens", "16", "--batch", "1", "--json"),
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )
    vectors = store / "vectors.f16"
    while process.poll() is None and not (vectors.exists() and vectors.stat().st_size):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130 and out == "" and "Traceback" not in err
    assert err.strip().splitlines()[-1].startswith("interrupted; what is finished is kept, the same command continues")
    with BehaviourStore.open(store) as left:
        there = len(left)
    assert 0 < there < len(TEXTS)
    check(store, encoder, TEXTS[:there])
    subprocess.run(command, check=True, capture_output=True, env=os.environ)
    check(store, encoder, TEXTS)
