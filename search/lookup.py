"""What it takes to look the behaviours of a call up in a store."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sparsefront.latency.statistic import Statistic
from sparsefront.models.backbone import Backbone
from sparsefront.models.behaviour_store import REMEMBERED, BehaviourStore
from sparsefront.models.task import Task
from sparsefront.search.progress import Reporter
from sparsefront.search.rows import vectors_of
from sparsefront.search.steps import run_step

CALLS = 200
LOOKUP = "lookup"
"""Folder of the step in a run."""


def lookup_step(
    folder: Path, store: Path, task: Task, backbone: Backbone, statistic: Statistic, reporter: Reporter
) -> float:
    """:func:`lookup_us` of a task's behaviours, measured once; texts that the store lacks are encoded first.

    Args:
        folder: of the step.
        store: of the behaviours.
        task: 0 where it has no histories.
        backbone: that serves it.
        statistic: which calls count.
        reporter: told of the encoding.
    """
    histories, below = task.histories, backbone.below
    if histories is None or below is None:
        return 0.0

    def build(_: Path) -> dict[str, Any]:
        vectors_of(histories.texts, below, store, reporter)
        with BehaviourStore.open(store) as opened:
            return {"lookup_us": lookup_us(opened, histories.texts, statistic, histories=len(histories.behaviours))}

    inputs = {"behaviours": below.fingerprint, "task": task.fingerprint, "statistic": statistic.to_json()}
    return float(run_step(folder, inputs, build)["lookup_us"])


def lookup_us(
    store: BehaviourStore, texts: Sequence[str], statistic: Statistic, *, histories: int, calls: int = CALLS
) -> float:
    """Microseconds from the texts of a call, histories and item, to their vectors in fp32.

    The store is warm: it was asked before for as many of the texts as it remembers. A call's rows have histories of one
    length each, [CLS] counted; the percentile is the statistic's, averaged over its lengths.

    Args:
        store: that has all the texts.
        texts: that calls draw from.
        statistic: which calls count.
        histories: of a row.
        calls: timed of each length.
    """
    store.rows(texts[:REMEMBERED])
    rng = np.random.default_rng(0)
    each = []
    for length in statistic.lengths:
        wanted = statistic.batch * (histories * (length - 1) + 1)
        took = []
        for _ in range(calls + 1):
            numbers = rng.integers(0, len(texts), wanted).tolist()
            one = [texts[at].encode().decode() for at in numbers]  # as they arrive: nobody has hashed these objects
            started = time.perf_counter()
            torch.from_numpy(store.get(one)).float()  # as a batch does it; NumPy takes several times as long
            took.append(time.perf_counter() - started)
        each.append(float(np.percentile(took[1:], statistic.percentile)) * 1e6)
    return float(np.dot(statistic.weights, each))
