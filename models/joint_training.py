"""Two-step joint training of a Bert4Ctr (after arXiv 2308.11527, whose steps are not public)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.bert4ctr import FRESH_RATE, Bert4Ctr
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.rows import TokenRows
from sparsefront.models.training import Progress, TrainOptions, TrainReport, train

TEXT_PARTS = ("encoder", "head")
BRANCH_RATE = 1e-3
"""Learning rate of a branch alone, which begins at nothing."""


@dataclass(frozen=True)
class JointOptions:
    """How to train text and features together, beginning at a model of the text.

    Attributes:
        branch: the first step: the feature branch alone, beside a text that stays as it is.
        joint: the second step: everything.
        branch_factor: of the second step's learning rate for the branch, which has less to forget than the text.
    """

    branch: TrainOptions = field(default_factory=lambda: TrainOptions(epochs=1.0, learning_rate=BRANCH_RATE))
    joint: TrainOptions = field(default_factory=lambda: TrainOptions(epochs=1.0, learning_rate=2e-5))
    branch_factor: float = FRESH_RATE


def train_jointly(
    model: Bert4Ctr,
    rows: TokenRows,
    options: JointOptions,
    *,
    teacher_logits: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainReport:
    """Train in place: the branch first, then branch and text. The model's text is expected to be trained already.

    Returns the report of the second step. ``teacher_logits`` as for :func:`train`, for the steps that distil;
    ``checkpoints`` likewise, with a file of its own for each step.
    """
    steps = (
        ("branch", options.branch, dict.fromkeys(TEXT_PARTS, 0.0)),
        ("joint", options.joint, {"branch": options.branch_factor}),
    )
    for name, step, rates in steps:
        kept = None if checkpoints is None else checkpoints.of_part(name)
        report = train(
            model, rows, step, teacher_logits=teacher_logits, rates=rates, progress=progress, checkpoints=kept
        )
    return report
