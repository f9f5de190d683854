"""The cross-encoder on disk and back, its loss and its logits' precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.tiny import make_config, make_feeds, make_model, to_torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded
from sparsefront.spaces import Genome, InputError, Widths

GENOME = Genome.parse("h3.f10.k0.50-h0.f0.k1.00-h1.f7.k0.80-h2.f0.k1.00")
Loader = Callable[[Path], Any]
loaders = pytest.mark.parametrize(
    "load", [CrossEncoder.from_pretrained, AutoModelForSequenceClassification.from_pretrained], ids=["own", "auto"]
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_model(GENOME).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(load: Loader, folder: Path) -> str:
    """The one line that says why a folder is not loaded."""
    with pytest.raises(InputError) as refusal:
        load(folder)
    line = str(refusal.value)
    assert line.startswith(f"{folder}: ")
    assert "\n" not in line
    return line


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# -- round trip ------------------------------------------------------------------------------------------------------


@loaders
def test_saved_and_loaded(folder: Path, load: Loader) -> None:
    model, loaded = make_model(GENOME), load(folder)
    assert type(loaded) is CrossEncoder
    assert loaded.genome == loaded.config.genome == GENOME
    assert not loaded.training
    own, other = model.state_dict(), loaded.state_dict()
    assert list(own) == list(other)
    assert all(torch.equal(own[name], other[name]) for name in own)
    batch = to_torch(make_feeds([9, 4], 0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_auto_config(folder: Path) -> None:
    config = AutoConfig.from_pretrained(folder)
    assert type(config) is CrossEncoderConfig
    assert config.genome == GENOME
    assert config.num_hidden_layers == 4
    assert config.widths == Widths(layers=4, heads=3, ffn_units=10)


def test_config_with_another_genome_changes_nothing_else() -> None:
    config = make_config(GENOME, hidden_act="relu", hidden_dropout_prob=0.3, type_vocab_size=3)
    other = Genome.uniform(2, heads=1, ffn_units=4, keep_percent=30)
    changed = config.with_genome(other)
    assert (config.genome, changed.genome) == (GENOME, other)
    assert changed.with_genome(GENOME).to_dict() == config.to_dict()


@pytest.mark.parametrize("names", [(), ("no", "yes"), (3, 1, 2)])
def test_config_for_classes_changes_the_head_and_nothing_else(names: tuple[int | str, ...]) -> None:
    config = make_config(GENOME, hidden_dropout_prob=0.3)
    changed = config.with_classes(names)
    assert changed.outputs == (len(names) or 1) and changed.genome == GENOME
    if names:
        assert changed.id2label == {index: str(name) for index, name in enumerate(names)}
        assert changed.label2id == {str(name): index for index, name in enumerate(names)}
    assert changed.with_classes(()).to_dict() == config.to_dict()
    assert changed.with_genome(GENOME).to_dict() == changed.to_dict()


@loaders
def test_a_model_of_classes_saved_and_loaded(tmp_path: Path, load: Loader) -> None:
    model = make_model(GENOME, outputs=3, id2label={0: "a", 1: "b", 2: "c"})
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert loaded.config.outputs == loaded.config.num_labels == 3
    assert loaded.config.id2label == {0: "a", 1: "b", 2: "c"}
    batch = to_torch(make_feeds([9, 4], 0))
    with torch.no_grad():
        assert loaded(**batch).logits.shape == (2, 3)
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, atol=1e-6, rtol=0)


@loaders
def test_a_checkpoint_from_before_there_were_classes_has_one_output(folder: Path, load: Loader) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    assert content.pop("outputs") == 1
    path.write_text(json.dumps(content))
    batch = to_torch(make_feeds([9, 4], 0))
    with torch.no_grad():
        torch.testing.assert_close(load(folder)(**batch).logits, make_model(GENOME)(**batch).logits, atol=1e-6, rtol=0)


def test_config_keeps_all_tokens_by_default() -> None:
    config = CrossEncoderConfig(layer_heads=(1, 2), layer_ffn_units=(3, 4))
    assert config.genome == Genome.parse("h1.f3.k1.00-h2.f4.k1.00")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"layer_heads": (1,)}, "must have one entry per layer, got [1, 6, 1] entries"),
        ({"layer_heads": (), "layer_ffn_units": ()}, "must have one entry per layer, got [0, 0, 0] entries"),
        ({"layer_keep_percent": (50,)}, "must have one entry per layer, got [6, 6, 1] entries"),
        ({"hidden_act": "silu"}, "hidden_act must be one of gelu, relu, got 'silu'"),
        ({"outputs": 0}, "outputs must be a whole number of at least 1, got 0"),
        ({"outputs": 3, "id2label": {0: "a", 1: "b"}}, "id2label must name 3 classes, got 2"),
    ],
)
def test_config_refuses(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as refusal:
        CrossEncoderConfig(**arguments)
    assert str(refusal.value).endswith(line)


# -- refusals --------------------------------------------------------------------------------------------------------


@loaders
@pytest.mark.parametrize(
    "changes",
    [
        {"layer_heads": [2, 0, 1, 2]},
        {"layer_heads": [3, 1, 1, 2]},
        {"layer_ffn_units": [10, 0, 8, 0]},
        {"layer_ffn_units": [10, 0, 0, 0]},
        {"hidden_size": 36},
        {"vocab_size": 101},
        {"vocab_size": 99},
        {"max_position_embeddings": 12},
        {"head_size": 8},
        {"outputs": 2},
    ],
    ids=str,
)
def test_shapes_that_differ_from_the_config_are_refused(folder: Path, load: Loader, changes: dict[str, Any]) -> None:
    edit_config(folder, **changes)
    assert "cannot load a CrossEncoder" in refused(load, folder)


@loaders
def test_a_deeper_or_shallower_config_is_refused(folder: Path, load: Loader) -> None:
    columns = {"layer_heads": [3, 0, 1], "layer_ffn_units": [10, 0, 7], "layer_keep_percent": [50, 100, 80]}
    edit_config(folder, **columns)
    assert "unexpected keys: encoder.layers.3." in refused(load, folder)
    edit_config(folder, **{name: [*values, values[-1], values[-1]] for name, values in columns.items()})
    refused(load, folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layer_heads": [3]}, "must have one entry per layer, got [1, 4, 4] entries"),
        ({"layer_heads": 7}, "'int' object is not iterable"),
        ({"layer_heads": [-1, 0, 1, 2]}, "heads must be an integer of at least 0, got -1"),
        ({"layer_keep_percent": [50, 100, 101, 100]}, "keep_percent must be between 0 and 100, got 101"),
        ({"hidden_act": "silu"}, "hidden_act must be one of gelu, relu, got 'silu'"),
    ],
)
def test_a_config_that_makes_no_model_is_refused(folder: Path, changes: dict[str, Any], line: str) -> None:
    edit_config(folder, **changes)
    assert refused(CrossEncoder.from_pretrained, folder).endswith(line)


@loaders
@pytest.mark.parametrize("name", ["head.weight", "encoder.layers.0.query.bias", "encoder.embeddings.norm.weight"])
def test_missing_tensors_are_named(folder: Path, load: Loader, name: str) -> None:
    edit_tensors(folder, lambda tensors: tensors.pop(name))
    assert refused(load, folder) == f"{folder}: missing keys: {name}"


@loaders
def test_tensors_too_many_are_named(folder: Path, load: Loader) -> None:
    edit_tensors(folder, lambda tensors: tensors.update({"pooler.weight": torch.ones(2)}))
    assert refused(load, folder) == f"{folder}: unexpected keys: pooler.weight"


@loaders
@pytest.mark.parametrize("left", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_refused(folder: Path, load: Loader, left: float) -> None:
    path = folder / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[: int(len(good) * left) if isinstance(left, float) else left])
    assert "cannot load a CrossEncoder" in refused(load, folder)


@loaders
def test_pickled_weights_are_never_read(folder: Path, load: Loader) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert "no file named model.safetensors" in refused(load, folder)
    with pytest.raises(InputError, match=r"no file named model\.safetensors"):
        CrossEncoder.from_pretrained(folder, use_safetensors=False)


def test_mismatched_sizes_cannot_be_ignored(folder: Path) -> None:
    edit_config(folder, vocab_size=101)
    with pytest.raises(InputError):
        CrossEncoder.from_pretrained(folder, ignore_mismatched_sizes=True)


@pytest.mark.parametrize("damage", ["no folder", "no config", "no JSON"])
def test_folders_that_hold_no_model(folder: Path, damage: str) -> None:
    if damage == "no folder":
        folder = folder / "none"
    elif damage == "no config":
        (folder / "config.json").unlink()
    else:
        (folder / "config.json").write_text("{")
    assert "cannot load a CrossEncoder" in refused(CrossEncoder.from_pretrained, folder)


# -- loss and logits -------------------------------------------------------------------------------------------------


def test_loss_of_soft_labels_is_the_cross_entropy() -> None:
    model = make_model(GENOME)
    labels = torch.tensor([0.0, 0.3, 0.9, 1.0])
    with torch.no_grad():
        output = model(**to_torch(make_feeds([9, 4, 6, 1], 0)), labels=labels)
    probability = 1 / (1 + np.exp(-output.logits[:, 0].double().numpy()))
    target = labels.double().numpy()
    entropy = -(target * np.log(probability) + (1 - target) * np.log(1 - probability)).mean()
    assert output.loss.item() == pytest.approx(entropy, rel=1e-5)
    assert output.logits.shape == (4, 1)


def test_loss_of_classes_is_the_cross_entropy() -> None:
    model = make_model(GENOME, outputs=3)
    batch = to_torch(make_feeds([9, 4, 6, 1], 0))
    certain, soft = torch.tensor([2, 0, 1, 1]), torch.tensor([[0.2, 0.5, 0.3]] * 4)
    with torch.no_grad():
        logits, *losses = model(**batch).logits, *(model(**batch, labels=labels).loss for labels in (certain, soft))
    log_probability = torch.log_softmax(logits.double(), dim=1)
    assert losses[0].item() == pytest.approx(-log_probability[range(4), certain].mean().item(), rel=1e-5)
    assert losses[1].item() == pytest.approx(-(log_probability * soft).sum(1).mean().item(), rel=1e-5)


def test_mask_and_types_default_to_all_real_and_zero() -> None:
    model = make_model(GENOME)
    ids = torch.from_numpy(make_feeds([9, 9], 0)["input_ids"])
    with torch.no_grad():
        output = model(ids)
        explicit = model(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert output.loss is None
    assert torch.equal(output.logits, explicit.logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_fp32_under_bf16_autocast(dtype: torch.dtype) -> None:
    model = make_model(GENOME)
    hidden = torch.randn(500, 1, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model.logits_of(Encoded(hidden, torch.ones(500, 1, dtype=torch.bool), [], []))
        spoiled = functional.linear(hidden[:, 0], model.head.weight, model.head.bias)[:, 0]
    assert logits.dtype == torch.float32
    expected = hidden[:, 0].double() @ model.head.weight[0].double() + model.head.bias.double()
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=0)
    assert len(set(logits.tolist())) == 500 > len(set(spoiled.tolist())), "bf16 logits would tie"


def test_logits_of_the_whole_model_are_fp32_under_bf16_autocast() -> None:
    model = make_model(GENOME)
    batch = to_torch(make_feeds([9, 4, 6, 1], 0))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(**batch).logits.dtype == torch.float32


def test_a_fresh_model_is_small_random_and_without_bias() -> None:
    model = CrossEncoder(make_config(GENOME, vocab_size=1000))
    words = model.state_dict()["encoder.embeddings.word.weight"]
    assert float(words.std()) == pytest.approx(model.config.initializer_range, rel=0.1)
    for name, value in model.state_dict().items():
        if name.endswith("norm.weight"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
        elif value.numel():
            assert value.abs().max() > 0, name
