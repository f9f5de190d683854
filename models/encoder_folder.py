"""A behaviour encoder in a folder: sizes in JSON, weights as safetensors, and the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.spaces import InputError

CONFIG: Final = "config.json"
WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"


def save_encoder(encoder: BehaviourEncoder, folder: Path) -> None:
    """Write all that makes the same vectors again."""
    parts = encoder.parts()
    about = {
        "config": parts.config,
        "pooling": parts.pooling,
        "max_tokens": parts.max_tokens,
        "fingerprint": encoder.fingerprint,
    }
    save_file({name: tensor.cpu() for name, tensor in encoder.encoder.state_dict().items()}, folder / WEIGHTS)
    (folder / TOKENIZER).write_text(parts.tokenizer, encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(about, indent=2), encoding="utf-8")


def load_encoder(folder: Path) -> BehaviourEncoder:
    """What :func:`save_encoder` wrote; ``InputError`` where that is not there, damaged or has been changed."""
    if not (folder / CONFIG).is_file():
        raise InputError(f"{folder}: is no behaviour encoder (no {CONFIG})")
    try:
        about = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        encoder = BehaviourEncoder(
            about["config"],
            load_file(folder / WEIGHTS),
            Tokenizer.from_file(str(folder / TOKENIZER)),
            pooling=about["pooling"],
            max_tokens=about["max_tokens"],
        )
        stated = about["fingerprint"]
    except Exception as error:  # tokenizers raise nothing narrower
        line = " ".join(str(error).split())
        raise InputError(f"{folder}: damaged behaviour encoder: {type(error).__name__}: {line}") from error
    if encoder.fingerprint != stated:
        raise InputError(
            f"{folder}: has been changed: its fingerprint is {encoder.fingerprint[:12]}, {CONFIG} says "
            f"{str(stated)[:12]}"
        )
    return encoder
