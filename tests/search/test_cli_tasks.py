"""Searches for tasks of other kinds than binary pairs, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from tests.search.conftest import Cli, Outcome
from tests.search.tiny import write_class_task, write_feature_task, write_graded_task, write_span_task
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsefront.latency.two_sides import TwoSides
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.features import Features
from sparsefront.models.ranker import load_ranker
from sparsefront.models.task import Task
from sparsefront.search.export import SparseConfig

OPTIONS = "--budget-share 0.8 --evaluations 6 --workers 1 --finalists 1 --uniform none".split()


def searched(cli: Cli, task: Path, backbone: Path, out: Path, *more: str) -> tuple[dict[str, Any], Outcome]:
    """The report of a small search, and what the same command says again."""
    words = ("search", task, "--backbone", backbone, "--out", out, *OPTIONS, *more)
    told = cli(*words)
    assert told.status == 0, told.err
    again = cli(*words, "--json")
    assert again.status == 0, again.err
    report: dict[str, Any] = again.json
    (at,) = report["budgets"]
    assert at["winner"]["measured_us"] <= at["budget_us"] < report["dense"]["measured_us"]
    for row in (report["dense"], at["winner"]):
        assert -1 <= row["valid_quality"] <= 1 and -1 <= row["test_quality"] <= 1
    return report, told


def kept(cli: Cli, export: Path, promised: float) -> None:
    """Whether an export still does what it promises, by the command that says so."""
    found = cli("verify", export, "--tolerance", "9", "--json")
    assert found.status == 0, found
    assert found.json["parity_holds"] and found.json["test_quality"] == pytest.approx(promised, abs=1e-3)


def test_single_sentences_of_three_classes(cli: Cli, backbone: Path, tmp_path: Path) -> None:
    task, out = write_class_task(tmp_path / "task"), tmp_path / "run"
    report, told = searched(cli, task, backbone, out)
    assert report["metric"] == "accuracy" and "accuracy valid" in told.out
    assert report["task"]["classes"] == ["cold", "neither", "warm"]
    lines = " ".join(told.err.split())
    assert "3 classes (cold " in lines and "positive" not in lines
    rows = Task.from_file(task)
    assert report["task"]["splits"]["test"]["rows"] == (rows.frame["fold"] == "test").sum()

    export = out / "export"
    assert SparseConfig.read(export).classes == ["cold", "neither", "warm"]
    model = AutoModelForSequenceClassification.from_pretrained(export)
    assert model.config.id2label == {0: "cold", 1: "neither", 2: "warm"}
    tokens = AutoTokenizer.from_pretrained(export)("red shoe", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 3)
    feeds = {name: value.numpy() for name, value in tokens.items()}
    session = onnxruntime.InferenceSession(export / "model.onnx", providers=["CPUExecutionProvider"])
    (served,) = session.run(["logits"], feeds)
    np.testing.assert_allclose(served, model(**tokens).logits.detach().numpy(), atol=1e-4)
    kept(cli, export, report["budgets"][0]["winner"]["test_quality"])


def test_pairs_with_grades(cli: Cli, backbone: Path, tmp_path: Path) -> None:
    task, out = write_graded_task(tmp_path / "task"), tmp_path / "run"
    report, told = searched(cli, task, backbone, out)
    assert report["metric"] == "pearson_spearman" and "pearson_spearman" in told.out
    lines = " ".join(told.err.split())
    assert re.search(r"mean target 0\.\d+ of 1", lines) and "positive" not in lines
    assert "positive_rate" not in report["task"]
    config = json.loads((out / "export" / "sparse_config.json").read_text())
    assert config["metric"] == "pearson_spearman" and config["classes"] is None
    kept(cli, out / "export", report["budgets"][0]["winner"]["test_quality"])


def test_answers_in_a_text(cli: Cli, backbone: Path, tmp_path: Path) -> None:
    task, out = write_span_task(tmp_path / "task", max_length=9), tmp_path / "run"
    # In a model as small as this one the selection of tokens costs more than it saves.
    report, told = searched(cli, task, backbone, out, "--space", "weights")
    assert report["metric"] == "span_f1" and "span_f1 valid" in told.out
    lines = " ".join(told.err.split())
    assert "answers of " in lines and "without their answer" in lines and "positive" not in lines
    assert report["task"]["tokens"]["answers_cut_share"] > 0

    export = out / "export"
    config = SparseConfig.read(export)
    assert config.spans and config.classes is None
    model = CrossEncoder.from_pretrained(export)
    tokens = AutoTokenizer.from_pretrained(export)("red", "blue shoe red lamp", return_tensors="pt")
    with torch.no_grad():
        expected = model(**tokens).logits
    assert expected.shape == (1, 8, 2)
    session = onnxruntime.InferenceSession(export / "model.onnx", providers=["CPUExecutionProvider"])
    (served,) = session.run(["logits"], {name: value.numpy() for name, value in tokens.items()})
    np.testing.assert_allclose(served, expected.numpy(), atol=1e-4)
    kept(cli, export, report["budgets"][0]["winner"]["test_quality"])
    bench = cli("bench", export, "--seconds", "0.1", "--json")
    assert bench.status == 0, bench.err


def test_text_with_features(cli: Cli, backbone: Path, tmp_path: Path) -> None:
    task, out = write_feature_task(tmp_path / "task"), tmp_path / "run"
    report, _ = searched(cli, task, backbone, out, "--space", "weights")
    assert set(report["task"]["features"]) == {"price", "shop", "user"}
    export = out / "export"
    config = SparseConfig.read(export)
    assert config.feature_heads is not None and len(config.feature_heads) == len(config.heads)
    assert config.features == ["price", "shop", "user"]
    model = load_ranker(export)
    assert isinstance(model, Bert4Ctr) and list(model.genome.column("feature_heads")) == config.feature_heads

    features = Features.load(export / "features.safetensors")
    raw = pd.DataFrame({"price": [12.5, None], "shop": ["depot", "a new one"], "user": ["user 3", None]})
    encoded = features.encode(raw, "requests")
    given: dict[str, Any] = {"numeric": encoded.numeric, "categorical": encoded.categorical.astype(np.int64)}
    tokens = AutoTokenizer.from_pretrained(export)(["red shoe"] * 2, ["blue lamp"] * 2, return_tensors="pt")
    with torch.no_grad():
        asked = {name: torch.from_numpy(values) for name, values in given.items()}
        expected = model(**tokens, **asked).logits[:, 0].numpy()
    feeds = {name: value.numpy() for name, value in tokens.items()}
    session = onnxruntime.InferenceSession(export / "model.onnx", providers=["CPUExecutionProvider"])
    wanted = {one.name for one in session.get_inputs()}
    (served,) = session.run(["logits"], {name: value for name, value in {**feeds, **given}.items() if name in wanted})
    np.testing.assert_allclose(served, expected, atol=1e-4)
    sides = TwoSides(export)
    said = sides.read({name: value[:1] for name, value in feeds.items()})
    np.testing.assert_allclose(sides.score(said, given), expected, atol=1e-4)

    kept(cli, export, report["budgets"][0]["winner"]["test_quality"])
    bench = cli("bench", export, "--seconds", "0.1", "--json")
    assert bench.status == 0, bench.err
