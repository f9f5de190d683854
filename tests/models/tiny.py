"""Tiny random models and rows, and a BERT checkpoint on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import BertConfig, BertModel, BertTokenizer

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.parameters import random_arrays
from sparsefront.models.rows import TokenRows
from sparsefront.models.spans import span_index
from sparsefront.spaces import Genome

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij", "red", "blue", "sofa", "lamp", "##s")
VOCABULARY = 100
LONGEST = 24


def make_config(genome: Genome, **changes: Any) -> CrossEncoderConfig:
    """A configuration of this genome, 32 wide, with heads of 4."""
    return CrossEncoderConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "head_size": 4,
            "layer_heads": genome.column("heads"),
            "layer_ffn_units": genome.column("ffn_units"),
            "layer_keep_percent": genome.column("keep_percent"),
            "max_position_embeddings": LONGEST,
            **changes,
        }
    )


def make_model(genome: Genome, *, seed: int = 0, scale: float = 0.4, **changes: Any) -> CrossEncoder:
    """A model in evaluation mode whose every tensor, biases included, is random and large enough to matter."""
    config = make_config(genome, **changes)
    model = CrossEncoder(config)
    arrays = random_arrays(config, seed, scale=scale)
    model.load_state_dict({name: torch.from_numpy(value) for name, value in arrays.items()})
    model.train(False)
    return model


def config_of(model: CrossEncoder) -> CrossEncoderConfig:
    """The model's configuration, by its own type."""
    config: Any = model.config
    assert isinstance(config, CrossEncoderConfig)
    return config


def state_arrays(model: CrossEncoder) -> dict[str, NDArray[Any]]:
    """The model's tensors by name."""
    return {name: value.detach().numpy() for name, value in model.state_dict().items()}


def make_feeds(lengths: list[int], seed: int, *, tokens: int | None = None) -> dict[str, NDArray[np.int64]]:
    """A padded batch; what stands at padding is random too, because no logit may depend on it."""
    rng = np.random.default_rng(seed)
    shape = (len(lengths), tokens or max(lengths))
    mask = (np.arange(shape[1])[None, :] < np.array(lengths)[:, None]).astype(np.int64)
    return {
        "input_ids": rng.integers(0, VOCABULARY, shape),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, shape),
    }


def to_torch(feeds: dict[str, NDArray[np.int64]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in feeds.items()}


def make_rows(lengths: list[int], *, seed: int = 0, classes: int = 0) -> TokenRows:
    """Random tokens with random soft targets, or of random classes."""
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    target = rng.random(len(lengths)).astype(np.float32)
    if classes:
        target = np.floor(target * classes)
    return TokenRows(
        input_ids=rng.integers(5, VOCABULARY, total).astype(np.int32),
        token_type_ids=rng.integers(0, 2, total).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=target,
        positive=(target >= 0.5) & (classes == 0),
        classes=classes,
    )


def make_bert(*, seed: int = 0, **changes: Any) -> Any:
    """A ``transformers.BertModel`` whose every tensor is random, in evaluation mode."""
    config = BertConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": LONGEST,
            **changes,
        }
    )
    model: Any = BertModel(config, add_pooling_layer=False)
    model.train(False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.3, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1.0)
    return model


def write_checkpoint(folder: Path, *, seed: int = 0, **changes: Any) -> Any:
    """A BERT checkpoint with its tokenizer, as ``save_pretrained`` leaves it; returns the model."""
    model = make_bert(seed=seed, **changes)
    model.save_pretrained(folder)
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    return model


def make_span_rows(lengths: list[int], *, seed: int = 0, marked: bool = False) -> TokenRows:
    """Random pairs whose second half is the second text, with a random span in it; ``marked``: words tell the ends."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(7, VOCABULARY, length) for length in lengths]
    first = np.array([int(rng.integers(length // 2, length)) for length in lengths])
    last = np.array([int(rng.integers(one, min(one + 3, length))) for one, length in zip(first, lengths, strict=True)])
    for row, one, other in zip(ids if marked else [], first, last, strict=False):
        row[one], row[other] = 5, 6
    return TokenRows(
        input_ids=np.concatenate(ids).astype(np.int32),
        token_type_ids=np.concatenate([np.arange(one) >= one // 2 for one in lengths]).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=span_index(first, last),
        positive=np.zeros(len(lengths), bool),
        spans=True,
    )
