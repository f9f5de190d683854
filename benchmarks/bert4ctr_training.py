"""What features cost in training: seconds of a pass over the same rows, against the text alone, in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from common import Target

from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.numbert import NumBert
from sparsefront.models.rows import TokenRows
from sparsefront.models.training import TrainOptions, train

ROWS, QUICK_ROWS = 300, 40
ROUNDS, QUICK_ROUNDS = 5, 1
MOST = 1.25
"""Time of a pass with features over that of the text alone."""


def training_rows(
    rows: TokenRows, worded: TokenRows, text: CrossEncoder, branch: Any, wide: Any, quick: bool
) -> list[dict[str, Any]]:
    """A row per way of training; the first round warms up.

    Args:
        rows: training rows.
        worded: the same with features as words.
        text: a text model.
        branch: configuration of a Bert4Ctr.
        wide: that of a NumBert.
        quick: few rows, one round.
    """
    count = QUICK_ROWS if quick else ROWS
    options = TrainOptions(epochs=1.0, learning_rate=1e-5, tokens_per_batch=1024)
    chosen = np.random.default_rng(0).choice(len(rows), size=min(count, len(rows)), replace=False)
    ways: dict[str, Callable[[], object]] = {
        "text only": lambda: train(text, rows.subset(chosen), options),
        "BERT4CTR": lambda: train(with_branch, rows.subset(chosen), options),
        "BERT4CTR, branch alone": lambda: train(
            with_branch, rows.subset(chosen), options, rates={"encoder": 0.0, "head": 0.0}
        ),
        "NumBERT, tokens": lambda: train(with_tokens, rows.subset(chosen), options),
        "NumBERT, words": lambda: train(text, worded.subset(chosen), options),
    }
    with_branch, with_tokens = Bert4Ctr.of(text, branch), NumBert.of(text, wide)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range((QUICK_ROUNDS if quick else ROUNDS) + 1):
        for name, run in ways.items():
            started = time.perf_counter()
            run()
            if number:
                seconds[name].append(time.perf_counter() - started)
    base = np.array(seconds["text only"])
    return [
        {
            "trained": name,
            "rows": len(chosen),
            "seconds": float(np.median(found)),
            "over_text_only": float(np.median(np.array(found) / base)),
        }
        for name, found in seconds.items()
    ]


def training_targets(rows: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of the cost of training."""
    for row in rows:
        if row.get("trained") == "BERT4CTR":
            yield Target("time of a training pass with features over the text alone", "<=", MOST, row["over_text_only"])
