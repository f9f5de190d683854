"""Fitness: the quality of a genome, read off the supernet on validation rows."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.batching import Precision, TensorBatch, best_device, uses_bf16
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import OF_EVERY_KIND, quality
from sparsefront.models.ranker import ranker_from
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import chosen_of, no_logits, score_batches, scoring_batches
from sparsefront.models.task_file import Metric
from sparsefront.models.uncertainty import paired_error, standard_error
from sparsefront.spaces import Genome

ERRORS_BELOW = 2.0
"""An evaluation ends early when its estimate is so many standard errors below the bar."""

SLICE_SHARE, MOST_SLICE_SHARE = 0.25, 0.5
"""Of the rows are scored first; where the slice would have to be more than the second, there is one rung only."""

LEAST_SLICE_ROWS, LEAST_OF_A_KIND = 300, 30
"""Rows of a slice, and those of each kind where the metric depends on every kind: errors of fewer are little known."""

REFERENCES = 24
"""Genomes that the next ones are compared with, those that were useful last."""

CACHED_TOKENS = 2**22
"""Batches of up to so many tokens, about 100 MB, are kept; those of more are made again for every evaluation."""


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


@dataclass(frozen=True)
class _Estimate:
    """Quality on all rows as a slice of them tells it, and the standard error of that."""

    quality: float
    error: float


@dataclass(frozen=True)
class _Reference:
    """A genome that was scored on all rows: its quality on them, and its logits on the slice, ``(slice rows,)`` or
    ``(slice rows, classes)``."""

    logits: NDArray[np.float32]
    quality: float


class Fitness:
    """Genome -> ``{"quality", "standard_error", "estimate_error", "forward_seconds", "rows"}``.

    Without a bar it is a plain function of (supernet, rows). With one, a genome that a slice of the rows shows to be
    below the bar is scored on no more than that; ``rows`` says how many it were. ``standard_error`` is always that of
    ``quality`` over the draw of validation rows from all there could be, and ``estimate_error`` that of ``quality`` as
    an estimate of the quality on all rows of this fitness: 0 where those were scored.

    A slice has easier or harder rows than the rest, for all genomes alike. So what is estimated from it is only the
    difference to a reference, a genome whose quality on all rows is known (a control variate with coefficient 1). Of
    the genomes that were scored before, the one whose logits differ least is taken: genomes of a search resemble each
    other far more than they resemble the dense model, which would cost as much as many of them besides. As long as
    there is no reference all rows are scored. An estimate therefore depends on what was scored before. The quality on
    all rows never does; whether they were scored at once or the slice first, it is the same but for rounding.
    """

    def __init__(self, data: FitnessData) -> None:
        self.rows = TokenRows.from_arrays(data.rows)
        self.metric = data.metric
        self.model = ranker_from(data.config)
        self.model.load_state_dict({name: torch.tensor(array) for name, array in data.weights.items()})
        device = best_device()
        self.model.to(device).eval()
        # The whole encoder in bf16 where autocast would use bf16 for the products anyway: it spares the casts around
        # them, which cost more than the products in a pruned model.
        if uses_bf16(device, data.precision):
            self.model.encoder.to(torch.bfloat16)
        self._cached = list(scoring_batches(self.rows, device)) if len(self.rows.input_ids) <= CACHED_TOKENS else None
        self._every = np.ones(len(self.rows), np.bool_)
        self._slice = slice_of(self.rows.kinds, of_each=self.metric in OF_EVERY_KIND)
        self._references: dict[Genome, _Reference] = {}  # the most recently useful one last

    def __call__(self, genome: Genome, bar: float | None = None) -> dict[str, float]:
        """Evaluate one genome.

        Args:
            genome: what to score.
            bar: quality that the genome has to reach to be worth its score on all rows; None: it is, however low.
        """
        if bar is not None and math.isnan(bar):
            raise ValueError("bar must be a number, got nan")
        logits = no_logits(self.model, self.rows)
        if bar is None or self._slice is None or not self._references:
            seconds = self._score(genome, self._batches(), logits)
        else:
            seconds = self._score(genome, self._batches(self._slice), logits)
            found = self._estimate(logits, self._slice)
            if found.quality + ERRORS_BELOW * found.error < bar:
                return self._metrics(logits, self._slice, found, seconds)
            seconds += self._score(genome, self._batches(~self._slice), logits)
        exact = _Estimate(quality(self.metric, self.rows.positive, self.rows.target, logits), 0.0)
        if self._slice is not None:
            self._remember(genome, _Reference(logits[self._slice], exact.quality))
        return self._metrics(logits, self._every, exact, seconds)

    def _batches(self, chosen: NDArray[np.bool_] | None = None) -> Iterator[TensorBatch]:
        """Batches of all rows, or of the chosen ones ``(rows,)``."""
        kept = self._cached
        for batch in scoring_batches(self.rows, self.model.device) if kept is None else kept:
            part = batch if chosen is None else chosen_of(batch, chosen)
            if len(part.index):
                yield part

    def _score(self, genome: Genome, batches: Iterable[TensorBatch], logits: NDArray[np.float32]) -> float:
        """Write the batches' logits into those of all rows. Returns the seconds it took."""
        started = time.perf_counter()
        score_batches(self.model, batches, logits, genome=genome, precision="fp32")
        return time.perf_counter() - started

    def _estimate(self, logits: NDArray[np.float32], chosen: NDArray[np.bool_]) -> _Estimate:
        """Quality on all rows, from the logits of those that are chosen ``(rows,)``."""
        ours, known = logits[chosen], self._references
        closest = min(known, key=lambda genome: _unlikeness(ours, known[genome].logits))
        reference = known[closest]
        self._remember(closest, reference)
        on = self.metric, self.rows.positive[chosen], self.rows.target[chosen]
        value = reference.quality + quality(*on, ours) - quality(*on, reference.logits)
        error = paired_error(*on, ours, reference.logits)
        # The slice is a part of all rows: what it says of them is surer than what it says of rows never seen.
        return _Estimate(value, error * math.sqrt(1 - chosen.mean()))

    def _remember(self, genome: Genome, reference: _Reference) -> None:
        """Keep a reference as the most recently useful one."""
        self._references.pop(genome, None)
        self._references[genome] = reference
        if len(self._references) > REFERENCES:
            del self._references[next(iter(self._references))]

    def _metrics(
        self, logits: NDArray[np.float32], scored: NDArray[np.bool_], found: _Estimate, forward_seconds: float
    ) -> dict[str, float]:
        """What an evaluation returns.

        The error of the quality on all rows and that of its estimate are uncorrelated: the second comes from the draw
        of the slice alone.
        """
        rows = int(scored.sum())
        error = standard_error(self.metric, self.rows.positive[scored], self.rows.target[scored], logits[scored])
        error *= math.sqrt(rows / len(self.rows))  # of the quality on all rows
        return {
            "quality": found.quality,
            "standard_error": math.hypot(error, found.error),
            "estimate_error": found.error,
            "forward_seconds": forward_seconds,
            "rows": float(rows),
        }


def _unlikeness(logits: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """How much two models differ on the same rows, but for what is the same for all rows, or for all classes of one."""
    apart = logits - others
    return float(np.var(apart if apart.ndim == 1 else apart - apart.mean(axis=1, keepdims=True)))


def slice_of(kinds: Sequence[NDArray[np.int64]], *, of_each: bool) -> NDArray[np.bool_] | None:
    """Which rows to score first: random ones, as many of each kind by share.

    Args:
        kinds: places of the rows of each kind; positive and negative ones, or those of each class.
        of_each: whether the metric depends on every kind, however rare it is, and so needs enough of each.

    Returns:
        (rows,) mask; None where so many would be needed that a second rung saves little.
    """
    rows, fewest = sum(len(kind) for kind in kinds), min(len(kind) for kind in kinds)
    if rows * MOST_SLICE_SHARE < LEAST_SLICE_ROWS or (of_each and fewest * MOST_SLICE_SHARE < LEAST_OF_A_KIND):
        return None
    share = max(SLICE_SHARE, LEAST_SLICE_ROWS / rows, LEAST_OF_A_KIND / fewest if of_each else 0.0)
    rng = np.random.default_rng(0)
    chosen = np.zeros(rows, np.bool_)
    for kind in kinds:
        chosen[rng.choice(kind, size=math.ceil(share * len(kind)), replace=False)] = True
    return chosen
