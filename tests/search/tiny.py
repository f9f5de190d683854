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
    rng = np.random.default_rng(0)
    queries = [" ".join(rng.choice(WORDS, 2, replace=False)) for _ in range(60)]
    query = [queries[rng.integers(len(queries))] for _ in range(rows)]
    title = [" ".join(rng.choice(WORDS, rng.integers(2, 7), replace=False)) for _ in range(rows)]
    matches = np.array([bool(set(q.split()) & set(t.split())) for q, t in zip(query, title, strict=True)])
    clicks = np.where(rng.random(rows) < 0.1, ~matches, matches).astype(int)
    frame = pd.DataFrame({"query": query, "title": title, "click": clicks})
    content = {
        "name": "tiny",
        "text": ["query", "title"],
        "label": {"column": "click", "kind": "binary"},
        "split": {"group": "query", "valid": 0.2, "test": 0.2},
    }
    return _written(folder, frame, {**content, **changes})


def write_history_task(folder: Path, *, rows: int = 480, **changes: Any) -> Path:
    """An item is clicked when its colour is that of most of what the user has seen before, but for one row in ten."""
    rng = np.random.default_rng(0)
    colours, things = WORDS[:3], WORDS[3:9]
    seen, items, clicks = [], [], []
    for _ in range(rows):
        mine, item = rng.choice(colours), rng.choice(colours)
        seen.append([f"{mine} {rng.choice(things)}" for _ in range(rng.integers(0, 7))])
        items.append(f"{item} {rng.choice(things)}")
        liked = bool(seen[-1]) and item == mine
        clicks.append(int(liked != (rng.random() < 0.1)))
    frame = pd.DataFrame({"item": items, "seen": seen, "age": rng.integers(18, 80, rows), "click": clicks})
    content = {
        "name": "histories",
        "item": "item",
        "histories": [{"column": "seen", "max": 5}],
        "label": {"column": "click", "kind": "binary"},
        "split": {"valid": 0.25, "test": 0.25},
    }
    return _written(folder, frame, {**content, **changes})


def write_class_task(folder: Path, *, rows: int = 480, **changes: Any) -> Path:
    """Single sentences of three genres, which two words tell; the data says which rows are tested on."""
    rng = np.random.default_rng(0)
    genre = rng.integers(0, 3, rows)
    words = [list(rng.choice(WORDS[2:], rng.integers(2, 6), replace=False)) for _ in range(rows)]
    told = [["red"], ["blue"], []]
    sentences = [" ".join(rng.permutation([*told[one], *some])) for one, some in zip(genre, words, strict=True)]
    names = np.array(["warm", "cold", "neither"])[genre]
    fold = np.where(rng.random(rows) < 0.25, "test", "train")
    content = {
        "name": "genres",
        "text": "sentence",
        "label": {"column": "genre", "kind": "class"},
        "split": {"column": "fold", "valid": 0.25},
    }
    frame = pd.DataFrame({"sentence": sentences, "genre": names, "fold": fold})
    return _written(folder, frame, {**content, **changes})


def write_graded_task(folder: Path, *, rows: int = 480, **changes: Any) -> Path:
    """Pairs of sentences with a grade from 0 to 5: how many words they share."""
    rng = np.random.default_rng(0)
    first = [list(rng.choice(WORDS, 5, replace=False)) for _ in range(rows)]
    shared = rng.integers(0, 6, rows)
    second = [[*some[:count], *rng.choice(WORDS, 5 - count)] for some, count in zip(first, shared, strict=True)]
    grades = np.clip(shared + rng.choice([-0.2, 0.0, 0.4], rows), 0, 5)
    content = {
        "name": "grades",
        "text": ["first", "second"],
        "label": {"column": "grade", "kind": "graded", "range": [0, 5]},
        "split": {"valid": 0.2, "test": 0.2},
    }
    texts = {"first": [" ".join(one) for one in first], "second": [" ".join(rng.permutation(one)) for one in second]}
    return _written(folder, pd.DataFrame({**texts, "grade": grades}), {**content, **changes})


def write_span_task(folder: Path, *, rows: int = 480, **changes: Any) -> Path:
    """A word is asked for in a row of words; the answer is that word and the one behind it."""
    rng = np.random.default_rng(0)
    contexts = [list(rng.choice(WORDS, rng.integers(5, 9), replace=False)) for _ in range(rows)]
    asked = [int(rng.integers(len(words) - 1)) for words in contexts]
    texts = {
        "question": [words[at] for words, at in zip(contexts, asked, strict=True)],
        "context": [" ".join(words) for words in contexts],
        "answer": [" ".join(words[at : at + 2]) for words, at in zip(contexts, asked, strict=True)],
    }
    content = {
        "name": "answers",
        "text": ["question", "context"],
        "label": {"column": "answer", "kind": "span"},
        "split": {"valid": 0.2, "test": 0.2},
        "protect": "first",
    }
    return _written(folder, pd.DataFrame(texts), {**content, **changes})


def write_feature_task(folder: Path, *, rows: int = 600, **changes: Any) -> Path:
    """As :func:`write_task`, but cheap things in one of three shops are clicked whatever they are, and others never."""
    rng = np.random.default_rng(0)
    query = [" ".join(rng.choice(WORDS, 2, replace=False)) for _ in range(rows)]
    title = [" ".join(rng.choice(WORDS, rng.integers(2, 7), replace=False)) for _ in range(rows)]
    matches = np.array([bool(set(q.split()) & set(t.split())) for q, t in zip(query, title, strict=True)])
    price, shop = rng.gamma(2.0, 20.0, rows), rng.choice(["corner", "market", "depot"], rows)
    wanted = np.where(shop == "depot", price < 35, matches)
    clicks = np.where(rng.random(rows) < 0.05, ~wanted, wanted).astype(int)
    price[rng.random(rows) < 0.1] = np.nan
    user = [f"user {number}" for number in rng.integers(0, 40, rows)]
    columns = {"query": query, "title": title, "price": price, "shop": shop, "user": user, "click": clicks}
    content = {
        "name": "featured",
        "text": ["query", "title"],
        "label": {"column": "click", "kind": "binary"},
        "numeric": "price",
        "categorical": ["shop", "user"],
        "user": "user",
        "split": {"valid": 0.2, "test": 0.2},
    }
    return _written(folder, pd.DataFrame(columns), {**content, **changes})


def _written(folder: Path, frame: pd.DataFrame, content: dict[str, Any]) -> Path:
    """A task file of this content with its rows beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "rows.parquet")
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({"data": "rows.parquet", "max_length": 16, **content}), encoding="utf-8")
    return path
