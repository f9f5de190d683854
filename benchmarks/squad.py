"""SQuAD v1.1: its rows, and its official scores, which compare words instead of places (arXiv 1606.05250)."""

from __future__ import annotations

import json
import re
import string
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.spans import told_spans
from sparsefront.models.task import Task
from sparsefront.models.tokens import plain_backend

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(data: Path, part: str) -> pd.DataFrame:
    """Questions with their contexts and answers; ``part``: ``train`` or ``dev``."""
    questions, contexts = (pd.read_parquet(data / f"{part}_{kind}.parquet") for kind in ("questions", "contexts"))
    return questions.merge(contexts[["context_id", "context"]], on="context_id", how="left", validate="many_to_one")


def told_answers(task: Task, tokenizer: Any, logits: NDArray[np.float32]) -> list[str]:
    """The words of the likeliest answers to the test rows, as they stand in the context."""
    backend = plain_backend(tokenizer)
    backend.enable_truncation(task.spec.max_length, strategy="longest_first")
    frame = task.frame.iloc[task.indices("test")]
    pairs = list(zip(*(frame[name].tolist() for name in task.spec.text), strict=True))
    told = []
    for encoding, (_, context), first, last in zip(
        backend.encode_batch(pairs), pairs, *told_spans(logits), strict=True
    ):
        told.append(context[encoding.offsets[first][0] : encoding.offsets[last][1]])
    return told


def scores(told: Sequence[str], answers: Sequence[str]) -> dict[str, float]:
    """Exact match and F1, the best over the answers that people gave: JSON lists, one per row."""
    pairs = [
        (words(one), [words(right) for right in json.loads(given)]) for one, given in zip(told, answers, strict=True)
    ]
    return {
        "exact_match": float(np.mean([any(one == right for right in given) for one, given in pairs])),
        "f1": float(np.mean([max(overlap(one, right) for right in given) for one, given in pairs])),
    }


def words(text: str) -> list[str]:
    """In lower case, without punctuation and articles."""
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def overlap(told: list[str], right: list[str]) -> float:
    """F1 of the words of two answers; of two without a word, whether both are."""
    if not told or not right:
        return float(told == right)
    common = sum((Counter(told) & Counter(right)).values())
    return 2 * common / (len(told) + len(right))
