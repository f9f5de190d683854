"""Measured: what the dense model takes where it will be served, and the table that predicts it of any other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparsefront.latency.drift import Reference, measure_session
from sparsefront.latency.meter import with_few_words
from sparsefront.latency.profile import profile
from sparsefront.latency.runtime import Runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.table import LatencyTable
from sparsefront.models.backbone import Backbone
from sparsefront.search.progress import Reporter
from sparsefront.search.settings import PrepareSettings
from sparsefront.search.steps import run_step
from sparsefront.spaces import Genome, InputError

TABLES, DENSE = "latency", "dense"


@dataclass(frozen=True)
class Anchor:
    """What is known of a latency budget (:mod:`sparsefront.search.anchor`).

    Attributes:
        budget_us: the budget.
        table: refitted to models of about that cost.
        reference: one of them, that is run beside whatever is measured for this budget.
        reference_us: its usual value.
    """

    budget_us: float
    table: LatencyTable
    reference: Genome
    reference_us: float


@dataclass(frozen=True)
class Measured:
    """The latency side: what the dense model takes, and what the table predicts for any genome.

    Attributes:
        table: as profiled, for models of any size.
        statistic: what a latency means here: which calls, and what of their time.
        dense_us: latency of the dense model, measured.
        dense_p95_us: its 95th percentile.
        anchors: per budget, the smallest first; none before they are measured.
    """

    table: LatencyTable
    statistic: Statistic
    dense_us: float
    dense_p95_us: float
    anchors: tuple[Anchor, ...] = ()

    def predict_many(self, genomes: Sequence[Genome]) -> NDArray[np.float64]:
        """Microseconds of the genomes, as right as can be around the budgets: ``(genomes,)``.

        Between two budgets the words of their tables are mixed, by the logarithm of what the table as profiled says.
        """
        if not self.anchors:
            return self.predict_roughly(genomes)
        words = np.stack([self.statistic.predict_many(one.table, genomes) for one in self.anchors])
        if len(words) == 1:
            return np.asarray(words[0], np.float64)
        budgets_us = [one.budget_us for one in self.anchors]
        place = np.interp(np.log(self.predict_roughly(genomes)), np.log(budgets_us), np.arange(len(words)))
        below = np.minimum(place.astype(np.int64), len(words) - 2)
        share, every = place - below, np.arange(len(genomes))
        return np.asarray((1 - share) * words[below, every] + share * words[below + 1, every], np.float64)

    def at(self, budget_us: float) -> Measured:
        """The same for one of the budgets."""
        return replace(self, anchors=tuple(one for one in self.anchors if one.budget_us == budget_us))

    def predict_roughly(self, genomes: Sequence[Genome]) -> NDArray[np.float64]:
        """The same for models of any size, by the table as it was profiled: ``(genomes,)``."""
        return self.statistic.predict_many(self.table, genomes)

    def reference_in(self, serving: Runtime, backbone: Backbone) -> Reference:
        """What is run beside whatever is measured: the reference of the only budget, else the dense model."""
        config, usual_us = with_few_words(backbone.config), self.dense_us
        if len(self.anchors) == 1:
            config, usual_us = config.with_genome(self.anchors[0].reference), self.anchors[0].reference_us
        return Reference(serving.load(config), statistic=self.statistic, usual_us=usual_us)


def check_length(backbone: Backbone, length_tokens: int) -> None:
    """Refuse rows that are longer than the backbone's positions."""
    least, upper = 2 if backbone.below else 3, backbone.config.max_position_embeddings  # a behaviour behind [CLS]
    if not least <= length_tokens <= upper:
        raise InputError(
            f"max_length must be between {least} and {upper} for backbone {backbone.name}, got {length_tokens}"
        )


def measure(
    folder: Path,
    own_folder: Path,
    backbone: Backbone,
    length_tokens: int,
    statistic: Statistic,
    settings: PrepareSettings,
    reporter: Reporter,
) -> Measured:
    """Step 1: profile the serving runtime for rows up to a length, and measure the dense model itself.

    The table stands in ``folder`` beside those of other runtimes, precisions, threads and batches, and serves any
    statistic of its batch; the dense model's latency, in ``own_folder``, is of one statistic.
    """
    serving = settings.serving()
    expected = serving.fingerprint(length_tokens=length_tokens, batch=statistic.batch)
    path = folder / TABLES / settings.table_name
    check_length(backbone, length_tokens)
    inputs = {
        "backbone": backbone.fingerprint,
        "runtime": settings.runtime,
        "threads": settings.threads,
        "precision": settings.precision,
        "shapes": settings.shapes,
        "length_tokens": length_tokens,
        "batch": statistic.batch,
        **({"features": backbone.branch} if backbone.branch else {}),
        "effort": settings.effort,
        **({"outputs": backbone.config.outputs} if backbone.config.outputs > 1 else {}),
        **({"per_token": True} if backbone.config.per_token else {}),
        **({"histories": backbone.config.histories} if backbone.below else {}),
        **({"layers": backbone.config.num_hidden_layers} if backbone.below else {}),
    }

    def build(target: Path) -> dict[str, Any]:
        with reporter.step("measuring latency blocks") as advance:
            table = profile(
                backbone.config,
                runtime=serving,
                length_tokens=length_tokens,
                batch=statistic.batch,
                effort=settings.effort,
                seed=settings.seed,
                progress=advance,
                say=reporter.say,
                log=path.with_name(f".{path.name}.passes.jsonl"),
            )
        table.save(target / "table")
        return {}

    def build_dense(_: Path) -> dict[str, Any]:
        dense = measure_session(serving.load(backbone.config), statistic=statistic)
        return {"dense_us": statistic.value_us(dense), "dense_p95_us": dense.p95_us}

    run_step(path, inputs, build)
    table = LatencyTable.load(path / "table", expect=expected)
    result = run_step(own_folder / DENSE, {**inputs, "statistic": statistic.to_json()}, build_dense)
    return Measured(table, statistic, float(result["dense_us"]), float(result["dense_p95_us"]))
