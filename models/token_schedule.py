"""Learning a token schedule: the share of tokens that every layer keeps, for a cost, by gradients through the gates.

The cost of a schedule is whatever the caller can state of a genome, microseconds from a latency table or multiply-adds;
the constraint is an augmented Lagrangian on it, as in ToP (arXiv 2306.14393) and CoFi, whose target rises step by step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsefront.models.batching import Precision, autocast, best_device, pad_to, to_tensors
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.loss import label_loss
from sparsefront.models.rows import Batch, TokenRows
from sparsefront.models.token_gates import Shape, TokenGates
from sparsefront.models.training import Progress, mix_targets
from sparsefront.spaces import Genome, InputError

CostOf = Callable[[Sequence[Genome]], NDArray[np.float64]]
"""Genomes -> (genomes,) cost, in any unit."""
_STEP = 10
"""Percentage points to either side over which the slope of the cost is taken: a count of tokens is a staircase."""


@dataclass(frozen=True, kw_only=True)
class ScheduleOptions:
    """How to learn a schedule.

    Attributes:
        steps: of the optimiser.
        tokens_per_batch: padded tokens in one batch.
        gate_rate: Adam's learning rate of the gates.
        multiplier_rate: Adam's, of the two multipliers of the constraint.
        ramp_share: share of the steps over which the target rises from nothing.
        shape: of the fine gates, see :class:`sparsefront.models.token_gates.TokenGates`.
        bins: per layer.
        first_layer: the first that may prune.
        distil_share: weight of the teacher's probabilities in the target; the rest is the label.
        precision: ``auto`` takes bf16 autocast where the hardware is fast at it.
        seed: of row order and gates.
    """

    steps: int = 300
    tokens_per_batch: int = 1024
    gate_rate: float = 0.05
    multiplier_rate: float = 0.05
    ramp_share: float = 0.5
    shape: Shape = "prefix"
    bins: int = 100
    first_layer: int = 0
    distil_share: float = 0.8
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, got {self.shape!r}")
        for name in ("steps", "tokens_per_batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("gate_rate", "multiplier_rate"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("ramp_share", "distil_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class TokenSchedule:
    """What was learned.

    Attributes:
        genome: the widths that it was learned for, with the shares of tokens that their layers keep.
        cost_share: its cost over that of the same widths with all tokens; at most the target.
        losses: (steps,) of the task, in nats.
    """

    genome: Genome
    cost_share: float
    losses: tuple[float, ...]

    @property
    def keep_percents(self) -> tuple[int, ...]:
        """Of each layer."""
        return self.genome.column("keep_percent")


def learn_schedule(
    model: CrossEncoder,
    rows: TokenRows,
    cost_of: CostOf,
    target_share: float,
    options: ScheduleOptions,
    *,
    genome: Genome | None = None,
    teacher_logits: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
) -> TokenSchedule:
    """The shares of tokens to keep within ``target_share`` of the cost of keeping all.

    The model's weights stay as they are: a supernet that has seen schedules of all kinds serves every target, and is
    then tuned for the schedule that was chosen.

    Args:
        model: a supernet, or any model that can bear to lose tokens.
        rows: training rows.
        cost_of: see :data:`CostOf`.
        target_share: cost that is allowed, as a share.
        options: see :class:`ScheduleOptions`.
        genome: widths; the model's own by default. Its keep shares are ignored.
        teacher_logits: ``(rows,)``; needed when ``distil_share`` is positive.
        progress: called with (steps done, steps in all).

    Raises:
        InputError: if even a single token beside [CLS] after every layer costs more than the target.
        ValueError: if the model has one layer only, there are no rows, or teacher logits are missing.
    """
    if not 0 < target_share < 1:
        raise ValueError(f"target_share must be between 0 and 1, got {target_share}")
    if not len(rows):
        raise ValueError("rows must not be empty, got none")
    if options.distil_share and teacher_logits is None:
        raise ValueError("distil_share is positive, but there are no teacher logits")
    whole = (model.genome if genome is None else model.encoder.check(genome)).keeping()
    layers = len(whole) - 1 - options.first_layer
    if layers < 1:
        raise ValueError(f"no layer may prune: {len(whole)} layers, the first that may is {options.first_layer}")
    costs = _Costs(cost_of, whole, options.first_layer)
    if (least := costs.shares([(1,) * layers])[0]) > target_share:
        raise InputError(
            f"target {target_share:g}: even one token in a hundred after every layer costs {least:.3f} of keeping all"
        )
    gates = TokenGates(layers=layers, first_layer=options.first_layer, shape=options.shape, bins=options.bins)
    losses = _fit(model, rows, costs, target_share, options, gates, teacher_logits, progress)
    percents = _within(costs, gates, target_share)
    return TokenSchedule(costs.genome(percents), float(costs.shares([percents])[0]), tuple(losses))


class _Costs:
    """Cost of schedules of one set of widths, as shares of that of keeping all tokens."""

    def __init__(self, cost_of: CostOf, whole: Genome, first_layer: int) -> None:
        self._cost_of, self._whole, self._first = cost_of, whole, first_layer
        self._most = float(cost_of([whole])[0])

    def genome(self, percents: Sequence[int]) -> Genome:
        return self._whole.keeping(percents, self._first)

    def shares(self, schedules: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """(schedules,)."""
        return np.asarray(self._cost_of([self.genome(one) for one in schedules]), np.float64) / self._most

    def expected(self, shares: Tensor) -> Tensor:
        """The cost share of (layers,) real-valued keep shares: exact at whole percents, with the slope around."""
        at = (100 * shares.detach()).round().clamp(1, 100).to(torch.int64).tolist()
        around = [list(at)]
        widths = []
        for layer, percent in enumerate(at):
            low, high = max(1, percent - _STEP), min(100, percent + _STEP)
            widths.append((high - low) / 100)
            around += [[*at[:layer], one, *at[layer + 1 :]] for one in (low, high)]
        value, *sides = self.shares(around)
        low, high = np.array(sides).reshape(-1, 2).T
        slope = torch.tensor((high - low) / np.array(widths), dtype=shares.dtype)
        change: Tensor = (slope * (shares - torch.tensor(at) / 100)).sum()
        return change + float(value)


def _fit(
    model: CrossEncoder,
    rows: TokenRows,
    costs: _Costs,
    target_share: float,
    options: ScheduleOptions,
    gates: TokenGates,
    teacher_logits: NDArray[np.float32] | None,
    progress: Progress | None,
) -> list[float]:
    """Move the gates; the loss of the task at every step."""
    device, whole = best_device(), costs.genome(())
    target = torch.from_numpy(mix_targets(rows.target, teacher_logits, options.distil_share))
    generator = torch.Generator().manual_seed(options.seed)
    multipliers = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam(gates.parameters(), lr=options.gate_rate)
    ascent = torch.optim.Adam([multipliers], lr=options.multiplier_rate, maximize=True)
    losses = list[float]()
    with _frozen(model.to(device)):
        for batch in itertools.islice(_endless(rows, options), options.steps):
            tensors = to_tensors(batch, device)
            sample = gates.sample(generator)
            drawn = replace(sample, prunes=sample.prunes.to(device), keeps=sample.keeps.to(device))
            with autocast(device, options.precision):
                encoded = model.encode(tensors, gates=drawn, genome=whole)
            task = label_loss(model.logits_of(encoded), target[tensors.index.cpu()].to(device))
            ramp = min(1.0, (len(losses) + 1) / max(1.0, options.ramp_share * options.steps))
            short = 1 - costs.expected(gates.expected_shares()) - (1 - target_share) * ramp
            adam.zero_grad()
            ascent.zero_grad()
            (task.cpu() + multipliers[0] * short + multipliers[1] * short**2).backward()
            adam.step()
            ascent.step()
            gates.clamp()
            losses.append(float(task.detach()))
            if progress is not None:
                progress(len(losses), options.steps)
    return losses


@contextmanager
def _frozen(model: CrossEncoder) -> Iterator[None]:
    """The model in evaluation mode and without gradients of its own; undone also after an error."""
    was_training, asks = model.training, [parameter.requires_grad for parameter in model.parameters()]
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        for parameter, ask in zip(model.parameters(), asks, strict=True):
            parameter.requires_grad_(ask)
        model.train(was_training)


def _endless(rows: TokenRows, options: ScheduleOptions) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from rows.batches(
            tokens_per_batch=options.tokens_per_batch,
            shuffle_seed=options.seed * 1000 + epoch,
            pad_to_multiple_of=pad_to(best_device(), options.precision),
        )


def _within(costs: _Costs, gates: TokenGates, target_share: float) -> tuple[int, ...]:
    """The schedule of the learned shape that fills the target: all that the layers drop, scaled by one factor.

    What they drop is what their gates decide. Where no factor is enough for that, the cost that the gates expected is
    that of layers which they have not decided on; then it is what all layers drop in the mean over draws.
    """
    decided = 100.0 - np.array(gates.keep_percents())
    if decided.any():
        path = _path(decided, np.linspace(0, 100 / decided.max(), 1001))
        fits = np.flatnonzero(costs.shares(path) <= target_share)
        if len(fits):
            return path[int(fits[0])]
    with torch.no_grad():
        expected = 100 * (1 - gates.expected_shares().double().numpy())
    path = _path(expected, np.geomspace(0.5 / expected.max(), 100 / expected.min(), 2001))
    return path[int(np.flatnonzero(costs.shares(path) <= target_share)[0])]


def _path(dropped: NDArray[np.float64], factors: NDArray[np.float64]) -> list[tuple[int, ...]]:
    """Schedules that drop these percentages times each factor; every layer keeps one in a hundred."""
    return [tuple(row) for row in np.clip(np.round(100 - factors[:, None] * dropped), 1, 100).astype(int).tolist()]
