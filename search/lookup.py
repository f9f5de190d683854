"""What it takes to look the behaviours of a call up in a store."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from sparsefront.latency.statistic import Statistic
from sparsefront.models.behaviour_store import BehaviourStore

CALLS = 200


def lookup_us(
    store: BehaviourStore, texts: Sequence[str], statistic: Statistic, *, histories: int, calls: int = CALLS
) -> float:
    """Microseconds from the texts of a call, histories and item, to their vectors in fp32; of a warm store.

    A call's rows have histories of one length each, [CLS] counted; the percentile is the statistic's, averaged over
    its lengths.

    Args:
        store: that has all the texts.
        texts: that calls draw from.
        statistic: which calls count.
        histories: of a row.
        calls: timed of each length.
    """
    rng = np.random.default_rng(0)
    each = []
    for length in statistic.lengths:
        wanted = statistic.batch * (histories * (length - 1) + 1)
        drawn = [[texts[at] for at in rng.integers(0, len(texts), wanted)] for _ in range(calls + 1)]
        took = []
        for one in drawn:
            started = time.perf_counter()
            store.get(one).astype(np.float32)
            took.append(time.perf_counter() - started)
        each.append(float(np.percentile(took[1:], statistic.percentile)) * 1e6)
    return float(np.dot(statistic.weights, each))
