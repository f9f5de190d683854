"""Why a schedule of tokens costs SQuAD so much, on its held-back rows: are the answers still there to be read?

Of the models of ``token_pruning.py``: what its supernet scores before any tuning with all tokens, where a single layer
drops seven in ten, under the schedules that were learned, and under others of about the high target's latency. Beside
that, for every layer, which share of the context's tokens its attention sees, and which of the right answer's; a
choice by chance keeps the same of both. Also the teacher's own ranking: how much of a row it puts above the answer.
Test rows are not looked at.

    python benchmarks/span_answers.py [--quick] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Target, write_result
from numpy.typing import NDArray
from token_pruning import KINDS, REPOSITORY, Bench, load, once
from token_summary import LEARNED
from torch import Tensor

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rank_distillation import teacher_token_scores
from sparsefront.models.rows import Batch, TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.spans import ends_of, overlaps
from sparsefront.spaces import Genome

NAME = "squad"
KEPT = 30
"""Percent of the tokens, where a single layer drops any."""
OTHERS = ((60, 60, 60, 100, 100), (100, 40, 50, 100, 60), (50, 80, 80, 80, 80))
"""Within a few hundredths of the high target's latency."""


def scored(bench: Bench, genome: Genome) -> dict[str, Any]:
    """F1 of tokens before any tuning, and what becomes of the context and of the right answers."""
    prepared = bench.prepared(True)
    model, valid = prepared.supernet, prepared.rows["valid"]
    logits = score_rows(model, valid, genome=genome, precision="fp32")
    dense_us, own_us = bench.measured.predict_roughly([bench.backbone.config.genome, genome])
    context, answer, whole = np.mean(list(seen_of(model, valid, genome)), axis=0)
    return {
        "latency_share": float(own_us / dense_us),
        "f1": float(overlaps(valid.target, logits).mean()),
        "context_seen": context.tolist(),
        "answer_seen": answer.tolist(),
        "whole_answers_seen": whole.tolist(),
    }


@torch.inference_mode()
def seen_of(model: CrossEncoder, rows: TokenRows, genome: Genome) -> Iterator[NDArray[np.float64]]:
    """Per row whose answer was not cut off ``(3, layers)``: the share of its context that each layer's attention sees,
    that of the right answer, and whether that is all of it."""
    first, last = ends_of(rows.target)
    for batch in rows.batches(tokens_per_batch=4096):
        inputs = (torch.from_numpy(one) for one in (batch.input_ids, batch.attention_mask, batch.token_type_ids))
        places = np.stack([there_of(one, batch) for one in model.encoder(*inputs, genome=genome).positions], axis=1)
        contexts = (batch.token_type_ids * batch.attention_mask) > 0
        for row, there, context in zip(batch.index, places, contexts, strict=True):
            if first[row]:
                answer = there[:, first[row] : last[row] + 1]
                yield np.stack([there[:, context].mean(axis=1), answer.mean(axis=1), answer.all(axis=1)])


def there_of(positions: Tensor, batch: Batch) -> NDArray[np.bool_]:
    """(rows, tokens) whether a token is among those at ``positions (rows, left)``."""
    rows, tokens = batch.input_ids.shape
    there = np.zeros((rows, tokens + 1), bool)
    np.put_along_axis(there, positions.numpy(), True, axis=1)
    return there[:, :-1]


def above_the_answer(bench: Bench) -> float:
    """Share of a row that the teacher's last layer attends to more than to its answer, mean of the answer's tokens."""
    prepared = bench.prepared(True)
    rows = prepared.rows["valid"]
    scores, shares = teacher_token_scores(prepared.teacher, rows), list[float]()
    for begin, end, first, last in zip(rows.offsets, rows.offsets[1:], *ends_of(rows.target), strict=False):
        if first:  # not cut off
            own = scores[begin:end]
            shares.append(float(np.mean(own > own[first : last + 1, None])))
    return float(np.mean(shares))


def asked(bench: Bench) -> dict[str, Genome]:
    """Names and schedules."""
    whole, layers = bench.backbone.config.genome, len(bench.backbone.config.genome) - 1
    found = {"all tokens": whole}
    for layer in range(layers):
        found[f"{KEPT} % behind layer {layer}"] = whole.keeping((KEPT,), layer)
    found |= {method: bench.schedule(True, method) for method in LEARNED}
    return found | {", ".join(map(str, percents)): whole.keeping(percents) for percents in OTHERS}


def main() -> None:
    """All schedules, and what they show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 rows and hardly any training")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-token-pruning")
    arguments = parser.parse_args()
    quick, work = arguments.quick, arguments.work / ("quick" if arguments.quick else "full")
    bench = Bench(work, NAME, load(NAME, KINDS[NAME], arguments.data, quick), 0, quick)
    folder = work / "span-answers"
    folder.mkdir(exist_ok=True)
    rows: list[dict[str, Any]] = []
    for name, genome in asked(bench).items():
        found = once(folder / f"{genome}.json", partial(scored, bench, genome))
        rows.append({"schedule": name, "keep_percents": list(genome.column("keep_percent")[:-1]), **found})
    above = once(folder / "teacher.json", lambda: {"above_the_answer": above_the_answer(bench)})["above_the_answer"]
    chance = [
        Target(
            f"tokens of the right answer behind layer {layer}, which keeps {KEPT} %: share that is left over that of "
            "the context's",
            ">",
            1.0,
            rows[1 + layer]["answer_seen"][layer + 1] / rows[1 + layer]["context_seen"][layer + 1],
        )
        for layer in range(len(bench.backbone.config.genome) - 1)
    ]
    targets = [*chance, Target("share of a row that the teacher's last layer ranks above the answer", "<", 0.3, above)]
    write_result("span_answers", rows, targets, [0], quick)


if __name__ == "__main__":
    main()
