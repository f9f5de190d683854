"""The rows of a task as a backbone wants them: tokens, or vectors that a store keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from sparsefront.models.backbone import Backbone
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import BehaviourStore, Halves
from sparsefront.models.rows import TokenRows
from sparsefront.models.task import Task
from sparsefront.search.progress import Reporter

STORE: Final = "behaviours"
"""Folder of a run's store, where none is named, and of an export's."""
ENCODER: Final = "encoder"
"""Folder of what makes vectors of new texts, in a run and in an export."""
CHUNK_TEXTS: Final = 8192
ALIKE_SHARE: Final = 1e-4
"""Vectors that tell texts apart by less than this share of their squares are worth a word; fp16 rounds by 1e-7."""
LOOKED_AT: Final = 1000


def rows_of(task: Task, backbone: Backbone, store: Path, reporter: Reporter) -> dict[str, TokenRows]:
    """The rows of each split; texts whose vectors the store lacks are encoded and put there.

    Raises:
        InputError: a store of another encoder, or one that another process is writing to while texts are missing.
    """
    if task.histories is None or backbone.below is None:
        with reporter.step("tokenising") as advance:
            rows = task.tokenise(backbone.tokenizer)
            advance(1, 1)
        return rows
    texts = task.histories.texts
    vectors = vectors_of(texts, backbone.below, store, reporter)
    if (line := alike_line(vectors)) is not None:
        reporter.say(line)
    return task.history_rows(vectors)


def alike_line(vectors: Halves) -> str | None:
    """What is said of vectors that hardly tell texts apart; nothing of others, and of a single one."""
    if len(vectors) < 2 or (share := spread_share(vectors)) >= ALIKE_SHARE:
        return None
    return (
        f"the vectors of all texts are alike: {share:.1g} of their squares is what tells texts apart. The state of "
        "[CLS] is like that after few layers of some models; --pooling mean takes the other tokens too"
    )


def spread_share(vectors: Halves) -> float:
    """Of their mean square, what vectors ``(texts, width)`` have about their mean; of some, where there are many."""
    some = vectors[:: max(1, len(vectors) // LOOKED_AT)].astype(np.float32)
    square = float(np.square(some).sum())
    return float(np.square(some - some.mean(axis=0)).sum()) / square if square else 0.0


def vectors_of(texts: Sequence[str], below: BehaviourEncoder, store: Path, reporter: Reporter) -> Halves:
    """``(texts, width)``, from the store, which is opened for writing only where texts are missing."""
    if BehaviourStore.is_made(store):
        with BehaviourStore.open(store, encoder_fingerprint=below.fingerprint, width=below.width) as opened:
            if (opened.rows(texts) >= 0).all():
                return opened.get(texts)
    found = []
    with (
        reporter.step("encoding behaviours") as advance,
        BehaviourStore.open(store, encoder_fingerprint=below.fingerprint, width=below.width, write=True) as opened,
    ):
        for start in range(0, len(texts), CHUNK_TEXTS):
            found.append(opened.get(texts[start : start + CHUNK_TEXTS], encode=below.encode))
            advance(min(start + CHUNK_TEXTS, len(texts)), len(texts))
    return np.concatenate(found)
