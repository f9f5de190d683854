"""Fitness: the quality of a genome, read off the supernet on validation rows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.batching import Precision, best_device, uses_bf16
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality, standard_error
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task_file import Metric
from sparsefront.spaces import Genome


@dataclass(frozen=True)
class FitnessData:
    """All that an evaluation needs, as flat arrays: put once in an object store, read by every worker.

    Attributes:
        config: the supernet's configuration.
        weights: its tensors as numpy arrays, by name.
        rows: validation rows, as :meth:`TokenRows.to_arrays` gives them.
        metric: the task's.
        precision: ``auto`` evaluates in bf16 where the hardware is fast at it.
    """

    config: dict[str, Any]
    weights: dict[str, NDArray[np.generic]]
    rows: dict[str, NDArray[Any]]
    metric: Metric
    precision: Precision = "auto"

    @classmethod
    def of(cls, supernet: CrossEncoder, rows: TokenRows, metric: Metric, precision: Precision = "auto") -> FitnessData:
        """Of a supernet in memory."""
        weights = {name: value.detach().cpu().numpy() for name, value in supernet.state_dict().items()}
        return cls(supernet.config.to_dict(), weights, rows.to_arrays(), metric, precision)


class Fitness:
    """Genome -> ``{"quality", "standard_error", "forward_seconds"}``; a plain function of (supernet, rows)."""

    def __init__(self, data: FitnessData) -> None:
        self.rows = TokenRows.from_arrays(data.rows)
        self.metric = data.metric
        self.model = CrossEncoder(CrossEncoderConfig.from_dict(dict(data.config)))
        self.model.load_state_dict({name: torch.tensor(array) for name, array in data.weights.items()})
        device = best_device()
        self.model.to(device).eval()
        # The whole encoder in bf16 where autocast would use bf16 for the products anyway: it spares the casts around
        # them, which cost more than the products in a pruned model.
        if uses_bf16(device, data.precision):
            self.model.encoder.to(torch.bfloat16)

    def __call__(self, genome: Genome) -> dict[str, float]:
        """Evaluate one genome."""
        started = time.perf_counter()
        logits = score_rows(self.model, self.rows, genome=genome, precision="fp32")
        forward_seconds = time.perf_counter() - started
        value = quality(self.metric, self.rows.positive, self.rows.target, logits)
        error = standard_error(self.metric, self.rows.positive, self.rows.target, logits)
        return {"quality": value, "standard_error": error, "forward_seconds": forward_seconds}
