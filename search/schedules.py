"""Token schedules learned for a task, kept beside the supernet: a search that uses it begins with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.multiply_adds import multiply_adds
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_schedule import CostOf, ScheduleOptions, learn_schedule
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.steps import read_record, run_step
from sparsefront.spaces import Genome, InputError

By = Literal["latency", "multiply-adds"]
SCHEDULES = "schedules"


@dataclass(frozen=True)
class LearnedSchedule:
    """A token schedule and what it is worth before any fine-tuning for it.

    Attributes:
        key: of its genome.
        by: what was to be saved.
        target_share: of the dense model's.
        latency_share: predicted latency over that with all tokens.
        multiply_adds_share: the same of multiply-adds, on the validation rows without padding.
        predicted_us: by the latency table.
        quality: of the supernet, on all validation rows.
        dense_quality: of the same supernet with all tokens.
        tokens: mean tokens of a row that each layer's attention sees; the last layer's are all that is left.
    """

    key: str
    by: By
    target_share: float
    latency_share: float
    multiply_adds_share: float
    predicted_us: float
    quality: float
    dense_quality: float
    tokens: tuple[float, ...]

    @property
    def genome(self) -> Genome:
        """All heads and units, and the schedule."""
        return Genome.parse(self.key)


def adds_of_rows(lengths: NDArray[np.int64], config: CrossEncoderConfig) -> CostOf:
    """What gives the multiply-adds of a mean row of genomes, for rows of these lengths."""
    each, counts = np.unique(lengths, return_counts=True)

    def adds_of(genomes: Sequence[Genome]) -> NDArray[np.float64]:
        return np.asarray(multiply_adds(genomes, each, config) @ (counts / counts.sum()), np.float64)

    return adds_of


def learn(
    folder: Path, prepared: Prepared, target_share: float, options: ScheduleOptions, *, by: By, reporter: Reporter
) -> LearnedSchedule:
    """The schedule within a share of the dense model's latency or multiply-adds; learned once per target and table."""
    rows, valid, config = prepared.rows["train"], prepared.rows["valid"], prepared.backbone.config
    adds_of = adds_of_rows(valid.lengths, config)

    def build(_: Path) -> dict[str, Any]:
        supernet = prepared.supernet
        with reporter.step("learning a token schedule") as advance:
            found = learn_schedule(
                supernet,
                rows,
                adds_of if by == "multiply-adds" else prepared.measured.predict_roughly,
                target_share,
                options,
                teacher_logits=prepared.teacher_logits,
                progress=advance,
            )
        whole = supernet.genome
        pair = [found.genome, whole]
        us, adds = prepared.measured.predict_roughly(pair), adds_of(pair)
        metric = prepared.task.spec.metric
        scored = [quality(metric, valid.positive, valid.target, score_rows(supernet, valid, genome=g)) for g in pair]
        learned = LearnedSchedule(
            key=found.genome.key(),
            by=by,
            target_share=target_share,
            latency_share=float(us[0] / us[1]),
            multiply_adds_share=float(adds[0] / adds[1]),
            predicted_us=float(us[0]),
            quality=scored[0],
            dense_quality=scored[1],
            tokens=mean_tokens(found.genome, valid),
        )
        return asdict(learned)

    dense_us = float(prepared.measured.predict_roughly([config.genome.keeping()])[0])  # another table, another schedule
    inputs = {"target_share": target_share, "by": by, "options": vars(options), "dense_us": dense_us}
    name = f"{'' if by == 'latency' else by + '-'}{target_share:.4g}-of-{dense_us:.1f}us"
    return _read(run_step(folder / SCHEDULES / name, inputs, build), folder)


def mean_tokens(genome: Genome, rows: TokenRows) -> tuple[float, ...]:
    """Tokens of a mean row that each layer's attention sees; the last layer's are all that is left."""
    counted = np.array([(length, *genome.lengths(int(length))[:-1]) for length in rows.lengths])
    return tuple(float(one) for one in counted.mean(0))


def schedules_in(folder: Path) -> list[LearnedSchedule]:
    """What was learned beside a supernet, in the order of the targets' names."""
    return [_read(read_record(path).get("result"), path) for path in sorted((folder / SCHEDULES).glob("[!.]*"))]


def _read(result: Any, path: Path) -> LearnedSchedule:
    try:
        learned = LearnedSchedule(**{**result, "tokens": tuple(result["tokens"])})
        learned.genome  # noqa: B018 - a damaged key shows here
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a learned token schedule: {error}") from error
    return learned


@torch.inference_mode()
def survivors(model: CrossEncoder, rows: TokenRows, row: int, genome: Genome) -> list[list[int]]:
    """Positions of the tokens of one row that each layer's attention sees, the first layer's being all.

    Args:
        model: a supernet or the genome's own model.
        rows: tokenised rows.
        row: which of them.
        genome: the schedule.
    """
    (batch,) = rows.subset([row]).batches(batch_size=1)
    model.eval()
    encoded = model.encoder(
        torch.from_numpy(batch.input_ids),
        torch.from_numpy(batch.attention_mask),
        torch.from_numpy(batch.token_type_ids),
        genome=genome,
    )
    tokens = batch.input_ids.shape[1]
    return [[one for one in places[0].tolist() if one < tokens] for places in encoded.positions]
