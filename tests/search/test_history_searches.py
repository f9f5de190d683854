"""A search over histories, from the task file to texts that are scored."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.models.test_bahe import make_bahe
from tests.search.conftest import Cli, Outcome
from tests.search.tiny import write_backbone, write_history_task, write_task

from sparsefront.latency.statistic import Statistic
from sparsefront.models.backbone import load_backbone
from sparsefront.models.bahe import Bahe
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.encoder_folder import load_encoder
from sparsefront.models.ranker import load_ranker
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.search.export import SparseConfig
from sparsefront.search.history_scorer import HistoryScorer
from sparsefront.search.lookup import lookup_us
from sparsefront.search.measured import check_length
from sparsefront.search.progress import Silent
from sparsefront.search.rows import vectors_of
from sparsefront.search.verify import random_rows
from sparsefront.spaces import InputError

OPTIONS = "--budget-share 0.8 --evaluations 6 --workers 1 --finalists 1 --uniform none --frozen-layers 1".split()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of histories and a backbone of three layers."""
    folder = tmp_path_factory.mktemp("histories")
    write_history_task(folder / "task")
    write_backbone(folder / "backbone", layers=3)
    return folder


def searched(cli: Cli, made: Path, *more: str | Path, out: Path) -> Outcome:
    """What a small search says."""
    return cli("search", made / "task" / "task.yaml", "--backbone", made / "backbone", "--out", out, *OPTIONS, *more)


@pytest.fixture
def run(cli: Cli, made: Path) -> Path:
    """A finished run, made once."""
    out = made / "run"
    if not (out / "result.json").exists():
        told = searched(cli, made, out=out)
        assert told.status == 0, told.err
    return out


def test_a_search_ends_with_upper_layers_an_encoder_and_a_store(cli: Cli, made: Path, run: Path) -> None:
    told = searched(cli, made, "--json", out=run)
    assert told.status == 0, told.err
    report: dict[str, Any] = told.json
    (at,) = report["budgets"]
    assert report["lookup_us"] > 0 and at["winner"]["measured_us"] <= at["budget_us"]
    dense_us = report["dense"]["measured_us"]
    assert at["budget_us"] + report["lookup_us"] == pytest.approx(0.8 * (dense_us + report["lookup_us"]))
    assert report["task"]["histories"]["texts"] == 18
    export = run / "export"
    model, config = load_ranker(export), SparseConfig.read(export)
    assert isinstance(model, Bahe) and len(model.genome) == 2 and config.lookup_us == report["lookup_us"]
    assert config.behaviours == model.genome.behaviours == model.config.max_position_embeddings - 1 <= 5
    assert load_encoder(export / "encoder").fingerprint == model.config.encoder_fingerprint
    with BehaviourStore.open(export / "behaviours") as store:
        assert len(store) == 18


def test_a_teacher_begins_with_what_tells_texts_apart(made: Path, run: Path) -> None:
    task = Task.from_file(made / "task" / "task.yaml")
    assert task.histories is not None
    with BehaviourStore.open(run / "behaviours") as store:
        train = task.history_rows(store.get(task.histories.texts))["train"]
    assert train.vectors is not None
    mean = train.vectors[np.unique(train.input_ids)].mean(axis=0, dtype=np.float32)
    learnt = load_ranker(run / "teacher").state_dict()["encoder.embeddings.item"].numpy()
    assert np.linalg.norm(learnt + mean) < 0.1 * np.linalg.norm(mean)


def test_an_export_keeps_its_promises_with_its_rows_and_without(cli: Cli, made: Path, run: Path) -> None:
    promised = json.loads((run / "result.json").read_text())["budgets"][0]["winner"]["test_quality"]
    found = cli("verify", run / "export", "--tolerance", "9", "--json")
    assert found.status == 0, found
    assert found.json["parity_holds"] and found.json["test_quality"] == pytest.approx(promised, abs=1e-3)
    stated = SparseConfig.read(run / "export")
    assert stated.lookup_us is not None and found.json["budget_us"] == stated.budget_us + stated.lookup_us
    assert 0 < found.json["lookup_us"] != stated.lookup_us
    alone = made / "alone"
    shutil.copytree(run / "export", alone)
    config = json.loads((alone / "sparse_config.json").read_text())
    config["task"]["source"] = None
    (alone / "sparse_config.json").write_text(json.dumps(config))
    found = cli("verify", alone, "--tolerance", "9", "--json")
    assert found.status == 0 and found.json["parity_holds"] and found.json["test_quality"] is None
    assert found.json["lookup_us"] == stated.lookup_us
    bench = cli("bench", run / "export", "--seconds", "0.1", "--json")
    assert bench.status == 0, bench.err
    assert bench.json["dense"], bench.json
    for name, line in (("behaviours/vectors.f16", "truncated"), ("encoder/model.safetensors", "damaged")):
        (alone / name).write_bytes(b"junk")
        found = cli("verify", alone, "--tolerance", "9")
        assert found.status == 2 and name.split("/")[0] in found.err and line in " ".join(found.err.split())


def test_what_looking_up_takes_where_an_export_is_verified_counts(
    cli: Cli, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsefront.search.verify.lookup_us", lambda *_, **__: 1e6)
    monkeypatch.setattr("sparsefront.search.verify.PAUSE_SECONDS", 0.0)
    found = cli("verify", run / "export", "--tolerance", "9")
    told = " ".join(found.out.split())
    assert found.status == 1 and "OVER the budget" in told and "1000000 us of it to look behaviours up" in told


def test_a_random_row_of_one_token_is_an_item_alone() -> None:
    model = make_bahe(histories=2)
    rows = random_rows(model, 6)
    assert (rows.lengths == 1).any() and (rows.token_type_ids[rows.offsets[1:] - 1] == 2).all()
    assert set(rows.token_type_ids) == {0, 1, 2} and (rows.token_type_ids == 2).sum() == len(rows)
    assert np.isfinite(score_rows(model, random_rows(model, 1), precision="fp32")).all()


def test_texts_are_scored_as_rows_are(made: Path, run: Path) -> None:
    task = Task.from_file(made / "task" / "task.yaml")
    scorer = HistoryScorer.open(run / "export")
    assert task.histories is not None
    rows = task.history_rows(scorer.vectors(task.histories.texts))["test"]
    frame = task.frame.iloc[task.indices("test")]
    newest_first: list[list[list[str]]] = [[list(seen)[::-1]] for seen in frame["seen"]]
    told = scorer.score(newest_first, frame["item"].tolist())
    model = load_ranker(run / "export")
    assert told == pytest.approx(score_rows(model, rows, precision="fp32"), abs=1e-4)
    assert scorer.texts_encoded == 0
    assert scorer.behaviours_cut == sum(max(0, len(own[0]) - scorer.most) for own in newest_first) > 0


def test_blank_behaviours_push_no_real_ones_out(run: Path) -> None:
    scorer = HistoryScorer.open(run / "export")
    seen = ["red hat", "blue lamp", "red shoe", "green hat", "blue shoe"][: scorer.most]
    told = scorer.score([[seen]], ["red hat"])
    assert scorer.score([[["", " \t", *seen[:1], "\n", *seen[1:], ""]]], ["red hat"]).tolist() == told.tolist()
    assert scorer.behaviours_cut == scorer.texts_encoded == 0
    with pytest.raises(ValueError, match="a behaviour must be text, got NoneType"):
        scorer.score([[[None]]], ["red hat"])  # type: ignore[list-item]


def test_new_texts_cold_users_and_cold_items_are_scored_and_what_is_new_is_kept(run: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(run / "export", export)
    seen: list[list[list[str]]] = [[["a new lamp"]], [[]], [["red hat"]]]
    items = ["red shoe", "green hat", "an item that nobody knows"]
    scorer = HistoryScorer.open(export, write=True)
    told = scorer.score(seen, items)
    assert np.isfinite(told).all() and scorer.texts_encoded == 2
    assert scorer.score(seen, items) == pytest.approx(told, abs=1e-6)
    assert scorer.texts_encoded == 2
    scorer.close()
    again = HistoryScorer.open(export)
    assert again.score(seen, items) == pytest.approx(told, abs=1e-6)
    assert again.texts_encoded == 0
    shutil.rmtree(export / "behaviours")
    without = HistoryScorer.open(export)
    assert without.score(seen, items) == pytest.approx(told, abs=1e-3)
    assert without.texts_encoded == 5


def test_new_texts_are_scored_on_a_full_disk_and_kept_when_there_is_room(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = tmp_path / "export"
    shutil.copytree(run / "export", export)
    seen, items = [[["a new lamp", "red hat"]], [["blue lamp"]]], ["red shoe", "an item that nobody knows"]
    scorer = HistoryScorer.open(export, write=True)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        told = scorer.score(seen, items)
        assert (scorer.texts_encoded, scorer.texts_unsaved) == (2, 2)
        assert scorer.score(seen, items) == pytest.approx(told, abs=1e-6)
        assert (scorer.texts_encoded, scorer.texts_unsaved) == (4, 4)
    for _ in range(2):
        assert scorer.score(seen, items) == pytest.approx(told, abs=1e-6)
        assert (scorer.texts_encoded, scorer.texts_unsaved) == (6, 4)
    scorer.close()
    assert HistoryScorer.open(run / "export").score(seen, items) == pytest.approx(told, abs=1e-6)


def test_what_does_not_fit_is_said(cli: Cli, made: Path, run: Path, tmp_path: Path) -> None:
    scorer = HistoryScorer.open(run / "export")
    with pytest.raises(ValueError, match="2 items need as many rows of histories, got 1"):
        scorer.score([[["red hat"]]], ["red hat", "blue hat"])
    with pytest.raises(ValueError, match="row 0: the model reads 1 histories, got 2"):
        scorer.score([[["red hat"], []]], ["red hat"])
    other = tmp_path / "other"
    shutil.copytree(run / "export", other)
    about = json.loads((other / "encoder" / "config.json").read_text())
    (other / "encoder" / "config.json").write_text(json.dumps({**about, "pooling": "cls"}))
    with pytest.raises(InputError, match="has been changed: its fingerprint is"):
        HistoryScorer.open(other)
    (other / "encoder" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(InputError, match="damaged behaviour encoder"):
        HistoryScorer.open(other)
    shutil.rmtree(other / "encoder")
    with pytest.raises(InputError, match="is no behaviour encoder"):
        HistoryScorer.open(other)
    shutil.copytree(run / "export" / "encoder", other / "encoder")
    record = json.loads((other / "behaviours" / "store.json").read_text())
    record["encoder"] = "0" * 64
    (other / "behaviours" / "store.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="000000000000"):
        HistoryScorer.open(other)


def test_a_graph_that_cannot_be_loaded_leaves_the_store_to_others(run: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(run / "export", export)
    (export / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InputError, match="cannot load it"):
        HistoryScorer.open(export, write=True)
    BehaviourStore.open(export / "behaviours", write=True).close()


def test_a_shared_store_serves_runs_and_is_not_copied(cli: Cli, made: Path, run: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    told = searched(cli, made, "--prepared", run, "--store", store, out=tmp_path / "second")
    assert told.status == 0, told.err
    with BehaviourStore.open(store) as opened:
        assert len(opened) == 18
    again = searched(cli, made, "--prepared", run, "--store", store, "--json", out=tmp_path / "second")
    assert again.status == 0 and "encoding" not in again.err


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (("--frozen-layers", "3"), "backbone"),
        (("--frozen-layers", "0"), "--frozen-layers: must be at least 1, got 0"),
        (("--pooling", "max"), "--pooling: must be mean or cls, got 'max'"),
        (("--max-tokens", "2"), "max_tokens must be from 3 to the model's 32, got 2"),
        (("--rank-weight", "0.3"), "rank weight: must be 0 where a task has histories, got 0.3"),
        (("--budget-us", "1"), "give a budget"),
    ],
)
def test_settings_that_cannot_be_met_are_one_line(
    more: tuple[str, ...], line: str, cli: Cli, made: Path, tmp_path: Path
) -> None:
    found = searched(cli, made, *more, out=tmp_path / "run")
    assert found.status == 2 and line in " ".join(found.err.split())


def test_a_budget_that_lookups_spend_alone_is_refused(cli: Cli, made: Path, tmp_path: Path) -> None:
    words = [one if one != "0.8" else "1" for one in OPTIONS]
    words[words.index("--budget-share")] = "--budget-us"
    found = cli(
        "search", made / "task" / "task.yaml", "--backbone", made / "backbone", "--out", tmp_path / "run", *words
    )
    assert found.status == 2 and "to look the behaviours up alone takes" in " ".join(found.err.split())


def test_one_behaviour_is_enough_for_a_history(made: Path, tmp_path: Path) -> None:
    task = Task.from_file(write_history_task(tmp_path / "task", histories=[{"column": "seen", "max": 1}]))
    text = load_backbone(str(made / "backbone"))
    assert task.length_tokens == 2
    check_length(text.serving(task), task.length_tokens)
    with pytest.raises(InputError, match=f"max_length must be between 3 and 32 for backbone {text.name}, got 2"):
        check_length(text, 2)


def test_more_behaviours_than_places_are_refused(cli: Cli, made: Path, tmp_path: Path) -> None:
    task = write_history_task(tmp_path / "task", histories=[{"column": "seen", "max": 40}])
    found = cli("search", task, "--backbone", made / "backbone", "--out", tmp_path / "run", *OPTIONS)
    assert found.status == 2 and "behaviours must be between 1 and 31" in " ".join(found.err.split())


def test_a_store_that_encode_has_made_serves_a_search(cli: Cli, made: Path, tmp_path: Path) -> None:
    store, backbone = tmp_path / "store", made / "backbone"
    task = Task.from_file(made / "task" / "task.yaml")
    encoded = cli(
        *("encode", made / "task" / "rows.parquet", "--column", "seen", "--column", "item", "--max-tokens", "32"),
        *("--backbone", backbone, "--store", store, "--json"),
    )
    assert encoded.status == 0, encoded.err
    below = load_backbone(str(backbone)).serving(task).below
    assert below is not None and below.layers == 1, "half of three layers, rounded down"
    assert encoded.json["encoder"] == below.fingerprint
    assert task.histories is not None
    with BehaviourStore.open(store, encoder_fingerprint=below.fingerprint) as opened:
        assert (opened.rows(task.histories.texts) >= 0).all()


def test_a_search_may_cut_texts_as_encode_may_and_tells_how_many(cli: Cli, made: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    told = searched(cli, made, "--max-tokens", "3", "--store", store, out=tmp_path / "run")
    assert told.status == 0, told.err
    assert "18 texts were cut to 3 tokens" in told.err
    encoded = cli(
        *("encode", made / "task" / "rows.parquet", "--column", "seen", "--column", "item", "--max-tokens", "3"),
        *("--backbone", made / "backbone", "--store", store, "--json"),
    )
    assert encoded.status == 0 and encoded.json["encoded"] == 0 < encoded.json["texts"]


def test_schedules_of_words_are_not_learnt_of_histories(cli: Cli, made: Path, tmp_path: Path) -> None:
    task, out = made / "task" / "task.yaml", tmp_path / "run"
    found = cli("tokens", task, "--target", "0.5", "--backbone", made / "backbone", "--out", out)
    assert found.status == 2 and "this task has histories" in " ".join(found.err.split()) and not out.exists()


def test_a_model_of_text_is_no_scorer_of_histories(run: Path, tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(run / "export", export)
    config = json.loads((export / "config.json").read_text())
    (export / "config.json").write_text(json.dumps({**config, "model_type": "sparsefront_cross_encoder"}))
    with pytest.raises(InputError):
        HistoryScorer.open(export)
    with pytest.raises(InputError, match="no such folder"):
        HistoryScorer.open(tmp_path / "nothing")


def test_lookups_of_longer_histories_take_longer(made: Path, run: Path, tmp_path: Path) -> None:
    task = Task.from_file(made / "task" / "task.yaml")
    assert task.histories is not None
    export = load_encoder(run / "export" / "encoder")
    texts = task.histories.texts
    vectors = vectors_of(texts, export, tmp_path / "store", Silent())
    np.testing.assert_array_equal(vectors, vectors_of(texts, export, tmp_path / "store", Silent()))
    with BehaviourStore.open(tmp_path / "store") as store:
        short, long = (lookup_us(store, texts, Statistic.of_length(one), histories=2, calls=30) for one in (2, 400))
    assert 0 < short < long


def test_a_task_of_text_keeps_its_own_way(made: Path, cli: Cli, tmp_path: Path) -> None:
    found = cli(
        "search",
        write_task(tmp_path / "task"),
        "--backbone",
        made / "backbone",
        "--out",
        tmp_path / "run",
        "--budget-share",
        "1.5",
    )
    assert found.status == 2 and "nothing needs pruning" in found.err
