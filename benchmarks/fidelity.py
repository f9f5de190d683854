"""How well the supernet's quality, which a search sees, ranks what genomes are worth after fine-tuning.

Random genomes of the joint space just within 1/3, 1/6 and 1/12 of the dense latency are scored on all validation rows
as they stand in the supernet, then fine-tuned exactly as finalists are and scored again. Genomes that are finished are
not made again, so a run that was cut off goes on. No test row is looked at.

    python benchmarks/fidelity.py [--quick] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from budget_search import FINETUNE, SHARES
from common import Target, save_picture, write_result
from record_landscape import REPOSITORY, home_depot, read_lines
from scipy.stats import kendalltau, spearmanr

from sparsefront.models.metrics import quality
from sparsefront.models.scoring import score_rows
from sparsefront.models.training import TrainOptions, train
from sparsefront.models.uncertainty import standard_error
from sparsefront.search.curriculum import random_shape
from sparsefront.search.explore import space_of
from sparsefront.search.prepare import Prepared
from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome

SEED = 0
PER_SHARE = 7
NEAR = 0.85
"""Genomes cost at least this share of their budget, as those that a search compares do."""


def drawn(prepared: Prepared, settings: SearchSettings, per_share: int) -> Iterator[tuple[str, Genome]]:
    """Share and genome, of shapes as different as they come."""
    rng = np.random.default_rng(SEED)
    space = space_of(prepared.backbone.widths, settings, "joint")
    for name, share in SHARES.items():
        budget_us = share * prepared.measured.dense_us
        found: dict[Genome, None] = {}
        while len(found) < per_share:
            batch = [random_shape(space, rng) for _ in range(256)]
            near = prepared.measured.predict_roughly(batch) / budget_us
            found |= dict.fromkeys(one for one, at in zip(batch, near, strict=True) if NEAR <= at <= 1)
        yield from ((name, genome) for genome in list(found)[:per_share])


def measure(prepared: Prepared, share: str, genome: Genome, options: TrainOptions) -> dict[str, Any]:
    """One genome before and after fine-tuning, on all validation rows."""
    rows, metric = prepared.rows["valid"], prepared.task.spec.metric
    before = score_rows(prepared.supernet, rows, genome=genome, precision="fp32")
    model = prepared.supernet.slim(genome)
    train(model, prepared.rows["train"], options, teacher_logits=prepared.teacher_logits)
    after = score_rows(model, rows, precision="fp32")
    return {
        "at": share,
        "genome": genome.key(),
        "supernet_quality": quality(metric, rows.positive, rows.target, before),
        "finetuned_quality": quality(metric, rows.positive, rows.target, after),
        "standard_error": standard_error(metric, rows.positive, rows.target, after),
    }


def correlations(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlations over all genomes, and over those of a budget."""
    rows = []
    for at in ("all", *SHARES):
        chosen = [one for one in found if at in ("all", one["at"])]
        before = np.array([one["supernet_quality"] for one in chosen])
        after = np.array([one["finetuned_quality"] for one in chosen])
        rows.append(
            {
                "at": at,
                "genomes": len(chosen),
                "spearman": float(spearmanr(before, after).statistic),
                "kendall_tau": float(kendalltau(before, after).statistic),
                "spread_before": float(before.std()),
                "spread_after": float(after.std()),
                "mean_gain": float((after - before).mean()),
            }
        )
    return rows


def draw(axes: Any, found: Sequence[dict[str, Any]]) -> None:
    """Quality after fine-tuning against that in the supernet."""
    for share in SHARES:
        points = [(one["supernet_quality"], one["finetuned_quality"]) for one in found if one["at"] == share]
        axes.scatter(*zip(*points, strict=True), label=f"at {share} of the dense latency")
    axes.set(xlabel="validation AUC in the supernet", ylabel="after fine-tuning")
    axes.legend(fontsize=8)


def main() -> None:
    """Measure what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three genomes a budget, little fine-tuning")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-landscapes")
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("home_depot" + ("-quick" if quick else ""))
    work.mkdir(parents=True, exist_ok=True)
    prepared, settings = home_depot(work, arguments.data, quick)
    options = replace(FINETUNE, epochs=0.05 if quick else FINETUNE.epochs)
    path = work / "fidelity.jsonl"
    done = {one["genome"] for one in read_lines(path)}
    for share, genome in drawn(prepared, settings, 3 if quick else PER_SHARE):
        if genome.key() not in done:
            one = measure(prepared, share, genome, options)
            print(one, flush=True)
            with path.open("a", encoding="utf-8") as stream:
                stream.write("\n" + json.dumps(one))
    found = list(read_lines(path))
    rows = correlations(found)
    claim = "rank correlation of supernet and fine-tuned quality, all genomes"
    write_result("fidelity", [*rows, *found], [Target(claim, ">=", 0.8, rows[0]["spearman"])], [SEED], quick)
    save_picture("fidelity", quick, lambda _, axes: draw(axes, found))


if __name__ == "__main__":
    main()
