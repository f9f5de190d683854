"""Encoding with Ray Data: the same vectors as without, whatever happens to its workers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import ray
from tests.search.conftest import Cli
from tests.search.encoder_builders import build_encoder_failing, build_encoder_killed_once
from tests.search.tiny import WORDS

from sparsefront.models.backbone import load_backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.text_columns import TextColumns
from sparsefront.models.vector_shards import shard_of, whole_shards
from sparsefront.search.encode_cluster import encode_on_ray, load_shards
from sparsefront.spaces import InputError, RunFailed

TEXTS = [f"{first} {second}" for first in WORDS[:9] for second in WORDS]


@pytest.fixture(scope="module", autouse=True)
def _local_ray() -> Iterator[None]:
    """One Ray for all tests here, with two CPUs whatever the machine has."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def encoder(backbone: Path) -> BehaviourEncoder:
    return BehaviourEncoder.of(load_backbone(str(backbone)), layers=1, max_tokens=4)


def rows_of(folder: Path) -> TextColumns:
    """Two parts of histories, in which texts repeat within and across parts, with missing ones."""
    folder.mkdir()
    half = len(TEXTS) // 2
    for part, texts in enumerate((TEXTS[: half + 20], TEXTS[half - 20 :])):
        histories = [[*texts[at : at + 5], None, texts[0]] for at in range(0, len(texts), 5)]
        frame = pd.DataFrame({"user": range(len(histories) + 1), "history": [*histories, None]})
        frame.to_parquet(folder / f"part-{part}.parquet")
    return TextColumns.of(folder, ["history"])


def opened(path: Path, encoder: BehaviourEncoder) -> BehaviourStore:
    return BehaviourStore.open(path, encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=True)


def write_shard(path: Path, texts: list[str], encoder: BehaviourEncoder) -> None:
    """As a worker does."""
    path.parent.mkdir(exist_ok=True)
    pq.write_table(shard_of(texts, encoder.encodings(texts), encoder.fingerprint), path)


def check(path: Path, encoder: BehaviourEncoder) -> None:
    """Every text is there once, with the vector that the encoder gives it here."""
    with BehaviourStore.open(path, encoder_fingerprint=encoder.fingerprint) as store:
        assert len(store) == len(TEXTS)
        np.testing.assert_allclose(store.get(TEXTS), encoder.encode(TEXTS), rtol=2e-3, atol=2e-3)


def test_shards_are_written_and_loaded_once(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    columns, shards = rows_of(tmp_path / "rows"), tmp_path / "shards"
    advanced: list[tuple[int, int]] = []
    with opened(tmp_path / "store", encoder) as store:
        store.put(TEXTS[:30], encoder.encode(TEXTS[:30]))
        report = encode_on_ray(
            columns, store, encoder, shards=shards, workers=2, batch_texts=50,
            advance=lambda done, total, facts=None: advanced.append((done, total)),
        )  # fmt: skip
        new = len(TEXTS) - 30
        assert (report.encoded, report.recovered, report.damaged_shards) == (new, 0, ())
        assert report.cut == 0 and report.rows == columns.rows and report.texts > len(TEXTS)
        assert advanced[0] == (0, new) and advanced[-1] == (new, new)
        files = sorted(shards.glob("*.parquet"))
        assert sum(pq.read_metadata(file).num_rows for file in files) == new and len(files) >= new // 50
        # The same call has nothing to do, and shards of what is known add nothing.
        again = encode_on_ray(columns, store, encoder, shards=shards, workers=1, advance=lambda *_: None)
        assert again.encoded == again.recovered == 0 and sorted(shards.glob("*.parquet")) == files
        assert (
            load_shards(shards, store, max_tokens=4).added == 0
            and again.hit_rate == 1.0
            and again.vectors_per_second is None
        )
    check(tmp_path / "store", encoder)


def test_a_killed_worker_costs_nothing(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    columns, flag = rows_of(tmp_path / "rows"), tmp_path / "killed"
    with opened(tmp_path / "store", encoder) as store:
        report = encode_on_ray(
            columns, store, encoder, shards=tmp_path / "shards", workers=2, batch_texts=20,
            build=build_encoder_killed_once(flag), advance=lambda *_: None,
        )  # fmt: skip
        assert flag.exists() and report.encoded == len(TEXTS)
    check(tmp_path / "store", encoder)


def test_workers_that_fail_are_told_in_one_line(tmp_path: Path, encoder: BehaviourEncoder) -> None:
    columns, shards = rows_of(tmp_path / "rows"), tmp_path / "shards"
    with opened(tmp_path / "store", encoder) as store:
        with pytest.raises(RunFailed, match=r"^encoding ended early: no such word; the same call goes on$") as failed:
            encode_on_ray(
                columns, store, encoder, shards=shards, workers=1, batch_texts=20, build=build_encoder_failing,
                advance=lambda *_: None,
            )  # fmt: skip
        assert "\n" not in str(failed.value)
        assert len(store) == 0 and whole_shards(shards) == ([], [])


def test_bad_input_is_refused_before_anything_is_encoded(
    tmp_path: Path, encoder: BehaviourEncoder, backbone: Path, cli: Cli
) -> None:
    columns, shards = rows_of(tmp_path / "rows"), tmp_path / "shards"
    other = BehaviourEncoder.of(load_backbone(str(backbone)), layers=2, max_tokens=4)
    pd.DataFrame({"text": TEXTS}).to_csv(tmp_path / "rows.csv", index=False)
    with opened(tmp_path / "store", encoder) as store:
        with pytest.raises(InputError, match="3 workers asked for, a CPU each; Ray has 2"):
            encode_on_ray(columns, store, encoder, shards=shards, workers=3, advance=lambda *_: None)
        with pytest.raises(InputError, match=r"rows.csv: a cluster reads Parquet files, got .csv"):
            csv = TextColumns.of(tmp_path / "rows.csv")
            encode_on_ray(csv, store, encoder, shards=shards, advance=lambda *_: None)
        with pytest.raises(InputError, match="is a file; expected a folder for the shards"):
            encode_on_ray(columns, store, encoder, shards=tmp_path / "rows.csv", advance=lambda *_: None)
        assert len(store) == 0
    write_shard(shards / "1.parquet", TEXTS, other)
    with opened(tmp_path / "store", encoder) as store:
        with pytest.raises(InputError, match=f"holds vectors of encoder {other.fingerprint[:12]}; expected encoder"):
            encode_on_ray(columns, store, encoder, shards=shards, advance=lambda *_: None)
        pd.DataFrame({"text": TEXTS}).to_parquet(shards / "0.parquet")
        with pytest.raises(InputError, match=r"0\.parquet: no shard of vectors: column 'vector' holds None"):
            encode_on_ray(columns, store, encoder, shards=shards, advance=lambda *_: None)
    told = cli("encode", tmp_path / "rows", "--store", tmp_path / "s", "--address", "auto")
    assert told.status == 2 and "--address: is for a cluster; expected --shards" in told.err


def test_the_command_loads_what_an_interrupted_one_has_left(
    tmp_path: Path, backbone: Path, encoder: BehaviourEncoder, cli: Cli
) -> None:
    rows_of(tmp_path / "rows")
    shards, left = tmp_path / "shards", TEXTS[20:90]
    write_shard(shards / "left.parquet", left, encoder)
    whole = (shards / "left.parquet").read_bytes()
    (shards / "half.parquet").write_bytes(whole[: len(whole) // 2])
    options = ("--backbone", backbone, "--layers", 1, "--max-tokens", 4, "--store", tmp_path / "store")
    told = cli("encode", tmp_path / "rows", *options, "--column", "history", "--shards", shards, "--json")
    assert told.status == 0 and told.json["encoded"] == told.json["distinct"] == len(TEXTS), told.err
    assert told.json["recovered"] == len(left) and told.json["damaged_shards"] == ["half.parquet"]
    assert sum(pq.read_metadata(file).num_rows for file in whole_shards(shards)[0]) == len(TEXTS), "none twice"
    check(tmp_path / "store", encoder)
