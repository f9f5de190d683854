"""State distillation: what a student's head reads shall be what the teacher's head reads.

A logit tells one number of a row, the state behind it hundreds (TinyBERT, arXiv 1909.10351; CoFi, arXiv 2204.00408).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsefront.models.batching import Precision
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import encoded_batches


@dataclass(frozen=True)
class StateTeacher:
    """What the teacher's head reads of the training rows, and how much it weighs.

    Attributes:
        states: ``(rows, head_inputs)``.
        weight: of the loss.
    """

    states: NDArray[np.float32]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or not self.states.size or not np.isfinite(self.states).all():
            raise ValueError(f"states must be (rows, width) of finite numbers, got shape {self.states.shape}")
        if not self.weight > 0:
            raise ValueError(f"weight must be positive, got {self.weight}")

    @cached_property
    def variance(self) -> float:
        """Of a number of the state over the rows, mean of all."""
        return max(float(self.states.var(axis=0, dtype=np.float64).mean()), 1e-6)

    @property
    def identity(self) -> dict[str, Any]:
        """Ready for JSON; differs from that of any other teaching."""
        return {"states": hashlib.sha256(self.states.tobytes()).hexdigest(), "weight": self.weight}

    def loss(self, index: Tensor, read: Tensor) -> Tensor:
        """Weighted mean squared difference over the variance, which is 1 for a student that always says the mean.

        Args:
            index: ``(batch,)`` of the rows.
            read: ``(batch, head_inputs)`` by the student's head.
        """
        wanted = torch.from_numpy(self.states[index.cpu().numpy()]).to(read.device)
        return self.weight * (read - wanted).square().mean() / self.variance


@torch.inference_mode()
def teacher_states(
    teacher: CrossEncoder,
    rows: TokenRows,
    *,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """What the teacher's head reads of every row: ``(rows, head_inputs)``.

    Raises:
        ValueError: if its head reads every token.
    """
    if teacher.config.per_token:
        raise ValueError("a head that reads every token has no one state to teach")
    found = np.empty((len(rows), teacher.config.head_inputs), np.float32)
    for batch, encoded in encoded_batches(teacher, rows, teacher.encode, precision=precision, progress=progress):
        found[batch.index.cpu().numpy()] = teacher.read(encoded).cpu().numpy()
    return found
