from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.search.conftest import Finished
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from sparsefront.search.export import SPARSE_CONFIG, SparseConfig, publish
from sparsefront.spaces import InputError


@pytest.fixture
def config(finished: Finished) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((finished.folder / "export" / SPARSE_CONFIG).read_text())
    return values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "finalist"
    folder.mkdir()
    (folder / "model.onnx").write_text("graph")
    (folder / "step.json").write_text("{}")
    return folder


def test_an_export_replaces_only_an_export(tmp_path: Path, source: Path, config: dict[str, Any]) -> None:
    out = tmp_path / "deep" / "served"
    publish(source, out, config, overwrite=False)
    assert sorted(path.name for path in out.iterdir()) == ["model.onnx", SPARSE_CONFIG]
    (out / "own-notes").touch()
    with pytest.raises(InputError, match="exists already; choose another --out or add --overwrite"):
        publish(source, out, config, overwrite=False)
    assert (out / "own-notes").exists()
    publish(source, out, config, overwrite=True)
    assert not (out / "own-notes").exists() and [path.name for path in out.parent.iterdir()] == ["served"]

    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    file = tmp_path / "file"
    file.write_text("text")
    for target in (precious, file):
        with pytest.raises(InputError, match=r"is not an export .* so it is not overwritten"):
            publish(source, target, config, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "years" and file.read_text() == "text"


def test_a_failing_copy_leaves_the_old_export(tmp_path: Path, source: Path, config: dict[str, Any]) -> None:
    out = tmp_path / "served"
    publish(source, out, config, overwrite=False)
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "gone", out, config, overwrite=True)
    assert (out / "model.onnx").read_text() == "graph"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"budget_us": "fast"}, "budget_us: Input should be a valid number"),
        ({"budget_us": -1.0}, "budget_us: Input should be greater than 0"),
        ({"genome": "h1"}, "h1"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"task": {"name": "x"}}, "task.source: Field required"),
        ({"fingerprint": []}, "fingerprint: Input should be"),
    ],
)
def test_a_damaged_configuration_names_the_key(
    tmp_path: Path, config: dict[str, Any], change: dict[str, Any], line: str
) -> None:
    (tmp_path / SPARSE_CONFIG).write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError, match=line):
        SparseConfig.read(tmp_path)


def test_hugging_face_loads_the_export(finished: Finished) -> None:
    folder = finished.folder / "export"
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = AutoTokenizer.from_pretrained(folder)("red shoe", "cheap red shoe", return_tensors="pt")
    assert model(**tokens).logits.shape == (1, 1)
    assert model.genome.key() == SparseConfig.read(folder).genome
