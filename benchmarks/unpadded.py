"""Scoring in torch: rows of one length together, where they are enough, against padded rows of similar length.

The same rows, the same model, alternately in one process on one thread: a ratio per pair, then the median of the pairs.
Also for as few rows as a search's first look takes, where most lengths have few rows. Logits of both agree.

    python benchmarks/unpadded.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Target, write_result
from home_depot import write_task
from movielens import task_of

from sparsefront.models.backbone import load_backbone
from sparsefront.models.batching import TensorBatch, to_tensors
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import UNPADDED_FROM, no_logits, score_batches
from sparsefront.models.task import Task
from sparsefront.spaces import Genome

REPOSITORY = Path(__file__).parent.parent
TOKENS_PER_BATCH = 4096
ROWS, FEW, QUICK_ROWS = 320, 100, 64
SEARCHED_ROWS = (375, 1500)
"""Rows that a search looks at first, and those that it scores."""
SMALL = Genome.parse("h1.f128.k1.00-h2.f128.k1.00-h1.f128.k1.00-h1.f0.k1.00-h2.f0.k1.00-h0.f0.k1.00")
"""About a twelfth of the dense model."""
PAIRS, QUICK_PAIRS = 5, 2
SLOWEST = 1.0
"""Time of batches without padding over that of padded ones."""
AGREE = 1e-3
"""Logits differ by rounding only."""


def traffics(data: Path, work: Path, quick: bool) -> Iterator[tuple[str, Task, int]]:
    """Name, task and rows that are scored."""
    count = QUICK_ROWS if quick else ROWS
    builtin = Task.builtin(rows=20 * count)
    yield "the ad log", builtin, count
    yield "the ad log", builtin, min(FEW, count)
    if data.exists() and not quick:
        yield "Home Depot", Task.from_file(write_task(work, data / "home_depot", quick)), count
        yield "MovieLens", task_of(data / "ml1m", quick), count // 5


def compare(name: str, rows: TokenRows, model: CrossEncoder, genome: Genome, pairs: int) -> dict[str, Any]:
    """Times of both kinds of batches, in turn."""
    batches: dict[bool, list[TensorBatch]] = {
        unpadded: [
            to_tensors(batch, torch.device("cpu"))
            for batch in rows.batches(
                tokens_per_batch=TOKENS_PER_BATCH, unpadded_from=UNPADDED_FROM if unpadded else None
            )
        ]
        for unpadded in (False, True)
    }
    seconds: dict[bool, list[float]] = {False: [], True: []}
    logits = {unpadded: no_logits(model, rows) for unpadded in batches}
    for pair in range(pairs + 1):
        for unpadded in (False, True) if pair % 2 else (True, False):
            start = time.perf_counter()
            score_batches(model, batches[unpadded], logits[unpadded], genome=genome, precision="fp32")
            if pair:  # the first one warms up
                seconds[unpadded].append(time.perf_counter() - start)
    places = sum(batch.attention_mask.numel() for batch in batches[False])
    ratios = np.array(seconds[True]) / np.array(seconds[False])
    return {
        "traffic": f"{len(rows)} of {name}",
        "genome": named(genome, model.genome),
        "tokens_mean": float(rows.lengths.mean()),
        "padding_share": 1 - float(rows.lengths.sum()) / places,
        "batches_similar": len(batches[False]),
        "batches_unpadded": len(batches[True]),
        "seconds_similar": float(np.median(seconds[False])),
        "seconds_unpadded": float(np.median(seconds[True])),
        "ratio": float(np.median(ratios)),
        "ratio_range": [float(ratios.min()), float(ratios.max())],
        "logits_differ": float(np.abs(logits[True] - logits[False]).max()),
    }


def named(genome: Genome, dense: Genome) -> str:
    """Which of the genomes it is."""
    size = "dense" if genome.column("heads") == dense.column("heads") else "small"
    return size if genome.keeps_all_tokens else f"{size}, half of the tokens behind layer 0"


def main() -> None:
    """Measure every traffic, dense and pruned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 rows of the ad log, two pairs")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    scratch = tempfile.TemporaryDirectory()
    for name, task, count in traffics(arguments.data, Path(scratch.name), arguments.quick):
        backbone = load_backbone("minilm").serving(task)
        valid = task.tokenise(backbone.tokenizer)["valid"]
        rows = valid.stratified(count, 0)
        model = CrossEncoder(backbone.config)
        pairs = QUICK_PAIRS if arguments.quick else PAIRS
        for genome in (model.genome, model.genome.keeping((50,))):
            found.append(compare(name, rows, model, genome, pairs))
        if name == "Home Depot":
            for searched in SEARCHED_ROWS:
                rows = valid.stratified(searched, 0)
                for genome in (SMALL, SMALL.keeping((50,))):
                    found.append(compare(name, rows, model, genome, pairs))
    targets = [
        Target(
            "time without padding over time with it, slowest case", "<=", SLOWEST, max(row["ratio"] for row in found)
        ),
        Target("greatest difference of a logit", "<=", AGREE, max(row["logits_differ"] for row in found)),
    ]
    write_result("unpadded", found, targets, [0], arguments.quick)


if __name__ == "__main__":
    main()
