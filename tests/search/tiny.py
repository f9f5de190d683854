"""A tiny task and a tiny backbone: a whole search of them takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

WORDS = "red blue green shoe hat lamp desk chair wool steel oak glass small large cheap fine".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_backbone(folder: Path, *, seed: int = 0, layers: int = 2) -> Path:
    """A random BERT checkpoint whose WordPiece vocabulary holds the words of the data."""
    unused = [f"[unused{number}]" for number in range(100)]  # latency is measured on random ids below 100
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS, *unused])}
    tokenizer = BertTokenizer(vocab=vocabulary)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder


def write_task(folder: Path, *, rows: int = 600, **changes: Any) -> Path:
    """A task file with its rows: an ad is clicked when it shares a word with the query, but for one row in ten."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    queries = [" ".join(rng.choice(WORDS, 2, replace=False)) for _ in range(60)]
    query = [queries[rng.integers(len(queries))] for _ in range(rows)]
    title = [" ".join(rng.choice(WORDS, rng.integers(2, 7), replace=False)) for _ in range(rows)]
    matches = np.array([bool(set(q.split()) & set(t.split())) for q, t in zip(query, title, strict=True)])
    clicks = np.where(rng.random(rows) < 0.1, ~matches, matches).astype(int)
    pd.DataFrame({"query": query, "title": title, "click": clicks}).to_parquet(folder / "rows.parquet")
    content = {
        "name": "tiny",
        "data": "rows.parquet",
        "text": ["query", "title"],
        "label": {"column": "click", "kind": "binary"},
        "split": {"group": "query", "valid": 0.2, "test": 0.2},
        "max_length": 16,
        **changes,
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path
