"""Spans: answers that stand in a text, from their first token to their last.

A row's target is one number, the index of its span among all spans of ``MOST_TOKENS`` tokens, so that rows with spans
are flat arrays like any others. Logits are ``(rows, tokens, 2)``, of each token as the first and as the last one;
``NO_TOKEN`` stands at tokens that no answer may begin or end at.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

MOST_TOKENS: Final = 512
"""Of a row: any span of one is a whole number that float32 holds exactly."""
MOST_ANSWER_TOKENS: Final = 30
"""Of an answer that is told, as in BERT's own evaluation on SQuAD."""
NO_TOKEN: Final = -8192.0
"""A logit without a chance; a power of two, which is the same number in bf16."""
NO_ANSWER: Final = 0
"""Target of a row whose answer was cut off with the end of its text: the span of [CLS] alone."""

Ints = NDArray[np.int64]


def span_index(first: Ints, last: Ints) -> NDArray[np.float32]:
    """Targets ``(rows,)`` of spans from their first to their last token."""
    return (first * MOST_TOKENS + last).astype(np.float32)


def ends_of(target: NDArray[Any]) -> tuple[Ints, Ints]:
    """First and last tokens, each ``(rows,)``, of targets ``(rows,)``."""
    first, last = np.divmod(target.astype(np.int64), MOST_TOKENS)
    return first, last


def told_spans(logits: NDArray[np.floating[Any]]) -> tuple[Ints, Ints]:
    """First and last tokens, each ``(rows,)``, of the likeliest answers: the first of equal ones, never [CLS].

    Args:
        logits: ``(rows, tokens, 2)``.
    """
    rows, tokens = logits.shape[:2]
    best = np.full(rows, -np.inf)
    first, last = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
    for longer in range(min(MOST_ANSWER_TOKENS, tokens - 1)):
        together = logits[:, 1 : tokens - longer, 0] + logits[:, 1 + longer :, 1]
        at = together.argmax(axis=1)
        value = np.take_along_axis(together, at[:, None], axis=1)[:, 0]
        better = value > best
        best = np.where(better, value, best)
        first, last = np.where(better, at + 1, first), np.where(better, at + 1 + longer, last)
    return first, last


def exact_matches(target: NDArray[Any], logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(rows,) 1 where the span that is told is the right one; 0 where the answer was cut off."""
    wanted, told = ends_of(target), told_spans(logits)
    return np.asarray((wanted[0] == told[0]) & (wanted[1] == told[1]), np.float64)


def overlaps(target: NDArray[Any], logits: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """(rows,) F1 of the tokens that are told to those that are right; 0 where the answer was cut off."""
    wanted, told = ends_of(target), told_spans(logits)
    common = np.minimum(wanted[1], told[1]) - np.maximum(wanted[0], told[0]) + 1
    sizes = (wanted[1] - wanted[0] + 1) + (told[1] - told[0] + 1)
    return np.asarray(2 * np.maximum(common, 0) / sizes, np.float64)
