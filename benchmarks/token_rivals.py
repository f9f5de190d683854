"""Other ways to choose the tokens that stay, to compare with: each is a rule for the gated encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.gated_encoding import Gates
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import scoring_batches
from sparsefront.models.token_gates import GateSample


@dataclass(frozen=True)
class FirstTokens:
    """A schedule that keeps the leading tokens whatever they are."""

    schedule: GateSample

    def covers(self, layer: int) -> bool:
        return self.schedule.covers(layer)

    def kept(self, layer: int, scores: Tensor, alive: Tensor) -> Tensor:
        places = torch.arange(scores.shape[1], device=scores.device, dtype=scores.dtype)
        return self.schedule.kept(layer, (-places).expand_as(scores), alive)


@dataclass(frozen=True)
class RandomTokens:
    """A schedule that keeps random tokens: by place alone, so that a row is treated alike every time."""

    schedule: GateSample
    seed: int = 0

    def covers(self, layer: int) -> bool:
        return self.schedule.covers(layer)

    def kept(self, layer: int, scores: Tensor, alive: Tensor) -> Tensor:
        drawn = np.random.default_rng([self.seed, layer]).random(512)[: scores.shape[1]]
        order = torch.from_numpy(drawn).to(scores.device, torch.float32)
        return self.schedule.kept(layer, order.expand_as(scores), alive)


@dataclass(frozen=True)
class Thresholds:
    """LTP (arXiv 2107.00910): tokens stay that receive more than a threshold, which rises from layer to layer.

    The threshold is a multiple of the attention that every token would receive were all alike, so that it means the
    same for rows of any length (there it is tied to the length that rows are padded to).

    Attributes:
        final: multiple in the last layer that prunes.
        layers: that prune, from the first.
    """

    final: float
    layers: int

    def covers(self, layer: int) -> bool:
        return layer < self.layers

    def kept(self, layer: int, scores: Tensor, alive: Tensor) -> Tensor:
        alike = 1 / alive.sum(1, keepdim=True).clamp_min(1)
        stays = scores >= self.final * (layer + 1) / self.layers * alike
        stays[:, 0] = True
        return stays.to(scores.dtype)


@torch.inference_mode()
def tokens_seen(model: CrossEncoder, rows: TokenRows, gates: Gates) -> NDArray[np.int64]:
    """(rows, layers) tokens that each layer's attention sees under a rule."""
    found = np.zeros((len(rows), len(model.genome)), dtype=np.int64)
    model.eval()
    for batch in scoring_batches(rows, next(model.parameters()).device):
        encoded = model.encode(batch, gates=gates)
        there = [(places < batch.input_ids.shape[1]).sum(1) for places in encoded.positions]
        found[batch.index.numpy()] = torch.stack(there, dim=1).numpy()
    return found


def bisect(cost_of: Callable[[float], float], target: float, low: float, high: float, steps: int = 12) -> float:
    """Where a falling cost meets the target, from the side that is within it."""
    for _ in range(steps):
        middle = (low + high) / 2
        if cost_of(middle) > target:
            low = middle
        else:
            high = middle
    return high
