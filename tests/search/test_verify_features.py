"""What an export with features ships besides its graph is verified too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.search.conftest import Cli
from tests.search.tiny import write_feature_task

from sparsefront.latency.runtime_onnxruntime import OnnxRuntime
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.two_sides import FEATURE_SIDE, TEXT_SIDE, export_sides
from sparsefront.models.backbone import load_backbone
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.features import CategoricalColumn, Features, NumericColumn
from sparsefront.models.task import Task
from sparsefront.search.export import FEATURES, SPARSE_CONFIG, export_model
from sparsefront.search.verify import random_rows, verify
from sparsefront.spaces import InputError


def make_model(text: Any, features: Features, *, seed: int) -> Bert4Ctr:
    """Random weights whose features say something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Bert4Ctr(Bert4CtrConfig.of(text, features))
        torch.nn.init.normal_(model.branch.head.weight)
    model.train(False)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, backbone: Path) -> Path:
    """An export of random weights with its task beside it."""
    folder = tmp_path_factory.mktemp("featured")
    source = write_feature_task(folder / "task")
    task, text = Task.from_file(source), load_backbone(str(backbone))
    model = make_model(text.config, task.features, seed=0)
    export = folder / "export"
    export.mkdir()
    export_model(export, model, text.tokenizer, features=task.features)
    genome = model.genome
    said = {
        "genome": genome.key(),
        **{name: list(genome.column(name)) for name in ("heads", "ffn_units", "keep_percent", "feature_heads")},
        "features": list(task.features.names),
        "parameters": 1,
        **dict.fromkeys(("supernet_quality", "valid_quality", "fp32_valid_quality", "test_quality"), 0.5),
        **dict.fromkeys(("predicted_us", "measured_us", "measured_p95_us"), 1e3),
        "budget_us": 1e9,
        "metric": "auc",
        "task": {"name": task.name, "source": str(source), "fingerprint": task.fingerprint, "metric": "auc"},
        "backbone": str(backbone),
        "statistic": vars(Statistic.of_length(16)),
        "fingerprint": OnnxRuntime().fingerprint(length_tokens=16).to_json(),
        "versions": {},
    }
    (export / SPARSE_CONFIG).write_text(json.dumps(said))
    return folder


@pytest.fixture
def export(made: Path, tmp_path: Path) -> Path:
    """A copy to be damaged, with its rows at hand."""
    return Path(shutil.copytree(made / "export", tmp_path / "export"))


@pytest.fixture
def alone(export: Path) -> Path:
    """A copy whose rows nobody has."""
    change(export, task={"name": "featured", "source": None, "fingerprint": "0", "metric": "auc"})
    return export


def change(export: Path, **values: Any) -> None:
    path = export / SPARSE_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def changed(export: Path, how: Callable[[Features], Features]) -> None:
    """Ship other features."""
    how(Features.load(export / FEATURES)).save(export / FEATURES)


def moved_edges(own: Features) -> Features:
    return Features(tuple(NumericColumn(one.name, one.edges + 1) for one in own.numeric), own.categorical)


def other_ids(own: Features) -> Features:
    shop, *others = own.categorical
    return Features(own.numeric, (CategoricalColumn(shop.name, shop.known[1:], shop.buckets - 1), *others))


def renamed(own: Features) -> Features:
    return Features(tuple(NumericColumn("prize", one.edges) for one in own.numeric), own.categorical)


def one_less(own: Features) -> Features:
    return Features((), own.categorical)


def strangers(own: Features) -> Features:
    shop, *others = own.categorical
    return Features(own.numeric, (CategoricalColumn(shop.name, shop.known + np.uint64(1), shop.buckets), *others))


def test_an_export_with_features_holds_with_its_rows_and_without(export: Path) -> None:
    found = verify(export)
    assert found.holds and found.test_quality is not None and found.feature_differences == []
    assert found.sides_parity is not None and found.sides_parity <= 1e-4
    change(export, task={"name": "featured", "source": None, "fingerprint": "0", "metric": "auc"})
    found = verify(export)
    assert found.holds and found.test_quality is None and found.sides_parity is not None
    change(export, features=None)  # an export from before they were said
    assert verify(export).holds


@pytest.mark.parametrize("name", [TEXT_SIDE, FEATURE_SIDE, FEATURES])
def test_a_file_that_is_missing_or_damaged_is_one_line(name: str, alone: Path, cli: Cli) -> None:
    (alone / name).write_bytes(b"junk")
    for _ in range(2):
        with pytest.raises(InputError, match=name):
            verify(alone)
        found = cli("verify", alone)
        assert found.status == 2 and name in found.err and len(found.err.strip().splitlines()) == 1
        (alone / name).unlink(missing_ok=True)


def test_sides_that_do_not_fit_each_other_or_the_rows_are_one_line(alone: Path, backbone: Path, tmp_path: Path) -> None:
    text, own = load_backbone(str(backbone)).config, Features.load(alone / FEATURES)
    kept = {name: (alone / name).read_bytes() for name in (TEXT_SIDE, FEATURE_SIDE)}
    (alone / TEXT_SIDE).write_bytes(kept[FEATURE_SIDE])
    with pytest.raises(InputError, match=f"{TEXT_SIDE}: is not the text's side: it takes .*categorical"):
        verify(alone)
    (alone / TEXT_SIDE).write_bytes(kept[TEXT_SIDE])
    (alone / FEATURE_SIDE).write_bytes(kept[TEXT_SIDE])
    with pytest.raises(InputError, match=f"{FEATURE_SIDE}: is not the features' side: it gives key_0"):
        verify(alone)
    narrow = tmp_path / "narrow"
    narrow.mkdir()
    export_sides(Bert4Ctr(Bert4CtrConfig.of(text, own, layer_feature_heads=[3, 1])), narrow)
    shutil.copy(narrow / FEATURE_SIDE, alone)
    with pytest.raises(InputError, match=rf"takes key_1 as tensor\(float\) \[16\], {TEXT_SIDE} gives .*\[48\]"):
        verify(alone)
    more = tmp_path / "more"
    more.mkdir()
    export_sides(make_model(text, Features(own.numeric * 2, own.categorical), seed=0), more)
    shutil.copy(more / FEATURE_SIDE, alone)
    with pytest.raises(InputError, match=f"{FEATURE_SIDE}: ONNX Runtime cannot run it: .*numeric"):
        verify(alone)


def test_sides_of_another_model_are_told(export: Path, made: Path, backbone: Path, cli: Cli) -> None:
    for name in (TEXT_SIDE, FEATURE_SIDE):
        (export / name).unlink()
    own = Features.load(export / FEATURES)
    export_sides(make_model(load_backbone(str(backbone)).config, own, seed=1), export)
    found = verify(export)
    assert found.parity_holds and not found.sides_hold and not found.holds
    told = cli("verify", export)
    assert told.status == 1 and "by its two sides NOT EQUAL to torch" in told.out


@pytest.mark.parametrize(
    ("how", "line"),
    [
        (moved_edges, "column 'price' has other edges than the model"),
        (other_ids, "column 'shop' has 4 ids, the model 5"),
        (renamed, "columns are prize, shop, user, the export's are price, shop, user"),
        (one_less, "has 0 numeric and 2 categorical columns, the model 1 and 2"),
    ],
)
def test_features_of_another_model_are_told_with_rows_and_without(
    how: Callable[[Features], Features], line: str, export: Path, cli: Cli
) -> None:
    changed(export, how)
    found = verify(export)
    assert found.feature_differences == [f"{FEATURES}: {line}"] and not found.holds
    assert found.parity_holds and found.sides_hold
    assert found.test_quality is None and found.rows_note == f"{FEATURES} is not what the model was trained on"
    change(export, task={"name": "featured", "source": None, "fingerprint": "0", "metric": "auc"})
    told = cli("verify", export)
    assert told.status == 1 and line in " ".join(told.out.split())


def test_rows_are_encoded_by_what_the_export_ships(export: Path) -> None:
    before = verify(export)
    changed(export, strangers)
    found = verify(export)
    (line,) = found.feature_differences
    assert "test rows otherwise than the training rows tell" in line and not found.holds
    assert found.test_quality != before.test_quality and found.parity_holds and found.sides_hold


def test_random_rows_have_features_of_every_kind(alone: Path, backbone: Path) -> None:
    text, own = load_backbone(str(backbone)).config, Features.load(alone / FEATURES)
    rows = random_rows(make_model(text, own, seed=0), 16).features
    assert rows is not None
    known = rows.numeric[~np.isnan(rows.numeric)]
    (price,), ids = own.numeric, [one.ids for one in own.categorical]
    assert 0 < np.isnan(rows.numeric).sum() < len(rows) / 2
    assert known.min() < price.edges[4] and known.max() > price.edges[-4]
    assert rows.categorical.min() == 0 and (rows.categorical.max(axis=0) < ids).all()
    assert rows.categorical[:, 0].max() == ids[0] - 1
    only = random_rows(make_model(text, one_less(own), seed=0), 16).features
    assert only is not None and only.numeric.shape == (len(rows), 0)
    numbers = random_rows(make_model(text, Features(own.numeric, ()), seed=0), 16).features
    assert numbers is not None and numbers.categorical.shape == (len(rows), 0)
