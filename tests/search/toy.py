"""A task that a tiny model learns in a second: which of two tokens a row has. Who drops the tokens cannot."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tests.models.test_training import toy_rows

from sparsefront.models.training import TrainOptions
from sparsefront.search.contest import Contest, Outcome, hold
from sparsefront.search.front import Evaluated
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter, Silent
from sparsefront.search.run import Run
from sparsefront.spaces import Genome

BEST = Genome.uniform(2, heads=2, ffn_units=64)
MIDDLE = Genome.parse("h0.f64.k0.50-h2.f64.k1.00")
WORST, LAST = (Genome.parse(f"h0.f{units}.k0.10-h1.f16.k1.00") for units in (16, 0))
OPTIONS = TrainOptions(
    epochs=12, learning_rate=3e-3, tokens_per_batch=256, distil_share=0.5, dropout=0.0, precision="fp32"
)


def toy(prepared: Prepared) -> Prepared:
    """A prepared task with these rows and a model that knows nothing yet."""
    rows = {"train": toy_rows(300), "valid": toy_rows(200, seed=1), "test": toy_rows(50, seed=2)}
    logits = np.where(rows["train"].positive, 3, -3).astype(np.float32)
    return replace(prepared, supernet=prepared.backbone.cross_encoder(seed=0), rows=rows, teacher_logits=logits)


def contest(prepared: Prepared, genomes: list[Genome], title: str = "finalist") -> Contest:
    """Of these genomes, that any machine meets the budget with."""
    chosen = [Evaluated(genome, 1.0 - number / 10, 1.0, number) for number, genome in enumerate(genomes)]
    return Contest(title, prepared, 1e9, tuple(chosen))


def held(
    folder: Path,
    contests: list[Contest],
    options: TrainOptions = OPTIONS,
    *,
    workers: int = 0,
    reporter: Reporter | None = None,
) -> list[Outcome]:
    """What comes of them."""
    return hold(folder, contests, options, workers=workers, reporter=reporter or Silent())


if __name__ == "__main__":  # for a driver that is killed
    made_in, into, epochs = sys.argv[1:]
    run = Run.reopen(Path(made_in))
    own = toy(run.prepare(run.measure()))
    held(Path(into), [contest(own, [BEST, MIDDLE])], replace(OPTIONS, epochs=float(epochs)))
