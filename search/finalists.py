"""Finalists: genomes of the front, slimmed, fine-tuned with distillation, exported, and measured where they serve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.scoring import score_rows
from sparsefront.models.training import TrainOptions
from sparsefront.search.export import export_model, served_quality
from sparsefront.search.fine_tuning import FineTuning
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.steps import run_step
from sparsefront.spaces import Genome


@dataclass(frozen=True)
class Finalist:
    """A fine-tuned, exported and measured genome.

    Attributes:
        genome: its key.
        supernet_quality: quality the search saw.
        valid_quality: after fine-tuning, on all validation rows, as served.
        fp32_valid_quality: the same before its numbers were rounded for serving.
        predicted_us: by the table.
        measured_us: in the serving runtime and in the statistic that the budget is meant in.
        measured_p95_us: 95th percentile.
        parameters: of the slim model.
    """

    genome: str
    supernet_quality: float
    valid_quality: float
    fp32_valid_quality: float
    predicted_us: float
    measured_us: float
    measured_p95_us: float
    parameters: int

    def standing(self, budget_us: float) -> tuple[bool, float]:
        """What finalists are ordered by: whether it was measured within the budget, then quality on validation rows."""
        return self.measured_us <= budget_us, self.valid_quality


def best_within(finalists: Sequence[Finalist], budget_us: float) -> Finalist:
    """The best on validation rows of those measured within the budget, or of all where none is; the first of equals."""
    return max(finalists, key=lambda one: one.standing(budget_us))


def finish(
    folder: Path,
    genome: Genome,
    prepared: Prepared,
    options: TrainOptions,
    *,
    tuning: FineTuning,
    budget_us: float,
    supernet_quality: float,
    reporter: Reporter,
    title: str,
) -> Finalist:
    """Make a finalist, or read it back when its folder is there. The folder is a complete export.

    What is trained of it goes on from where ``tuning`` stands, which may be the end.
    """
    inputs = {
        "genome": genome.key(),
        "task": prepared.task.fingerprint,
        "backbone": prepared.backbone.fingerprint,
        "options": vars(options),
    }

    def build(target: Path) -> dict[str, Any]:
        with reporter.step(title) as advance:
            small = tuning.train(
                prepared.supernet,
                prepared.rows["train"],
                options,
                teacher_logits=prepared.teacher_logits,
                progress=advance,
            )
        small.cpu()
        return judge(target, small, prepared, budget_us=budget_us, supernet_quality=supernet_quality)

    return Finalist(**run_step(folder, inputs, build))


def judge(
    target: Path, model: CrossEncoder, prepared: Prepared, *, budget_us: float, supernet_quality: float
) -> dict[str, Any]:
    """Export a trained model, measure it, score it on all validation rows; a :class:`Finalist` as a dictionary."""
    serving = prepared.settings.serving()
    statistic = prepared.measured.statistic
    static_shape = (statistic.batch, max(statistic.lengths)) if serving.shapes == "static" else None
    export_model(
        target,
        model,
        prepared.backbone.tokenizer,
        features=prepared.task.features,
        precision=serving.graph_precision,
        static_shape=static_shape,
    )
    reference = prepared.measured.reference_in(serving, prepared.backbone)
    reading = reference.read_within(serving.load_export(target), budget_us)
    metric, rows = prepared.task.spec.metric, prepared.rows["valid"]
    fp32_quality = quality(metric, rows.positive, rows.target, score_rows(model, rows, precision="fp32"))
    finalist = Finalist(
        genome=model.genome.key(),
        supernet_quality=supernet_quality,
        valid_quality=fp32_quality if serving.precision == "fp32" else served_quality(target, serving, rows, metric),
        fp32_valid_quality=fp32_quality,
        predicted_us=float(prepared.measured.predict_many([model.genome])[0]),
        measured_us=reading.value_us,
        measured_p95_us=reading.stats.p95_us,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
    )
    return asdict(finalist)
