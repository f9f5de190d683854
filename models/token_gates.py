"""TokenGates: which layers prune tokens, and how many, as random gates that gradients move.

ToP's (arXiv 2306.14393) coarse and fine masks: a gate per layer and one per rank bin, hard-concrete (Louizos et al.
2018, arXiv 1712.01312). Unlike there every gate is 0 or 1 in training too, and the gradient is that of the relaxed
sample (straight through), so that training sees what is served.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sparsefront.models.selection import ranks

Shape = Literal["prefix", "bins"]
TEMPERATURE = 2 / 3
STRETCH = (-0.1, 1.1)
MOST_SURE = math.log(100)
"""Logits stay within this of 0, so that no gate is ever beyond recall."""
PERCENTS = 100
_STEEPNESS = 30.0


def hard_concrete(logits: Tensor, uniform: Tensor) -> Tensor:
    """Gates of 0 or 1, open with probability ``sigmoid(logits)``; backward they are the relaxed, stretched sample.

    Args:
        logits: any shape.
        uniform: noise in [0, 1) of a shape that broadcasts with it.
    """
    noise = uniform.clamp(1e-6, 1 - 1e-6)
    relaxed = ((noise.log() - torch.log1p(-noise) + logits) / TEMPERATURE).sigmoid()
    low, high = STRETCH
    soft = (relaxed * (high - low) + low).clamp(0, 1)
    return (soft > 0.5).to(soft.dtype) + (soft - soft.detach())


@dataclass(frozen=True)
class GateSample:
    """One draw of all gates, or a schedule: the tokens of which rank stay.

    Attributes:
        prunes: (layers,) 0 or 1, whether a layer prunes at all.
        keeps: (layers, bins) 0 or 1, whether it then keeps the tokens whose rank lies in the bin.
        first_layer: layer of the first entry.
    """

    prunes: Tensor
    keeps: Tensor
    first_layer: int = 0

    @classmethod
    def of_schedule(cls, keep_percents: tuple[int, ...]) -> GateSample:
        """The gates that keep these shares, a layer each."""
        bins = torch.arange(PERCENTS)
        keeps = torch.stack([(bins < percent).float() for percent in keep_percents])
        return cls(torch.ones(len(keep_percents)), keeps)

    def covers(self, layer: int) -> bool:
        """Whether there are gates for a layer."""
        return self.first_layer <= layer < self.first_layer + len(self.prunes)

    def kept(self, layer: int, scores: Tensor, alive: Tensor) -> Tensor:
        """Multipliers ``(batch, tokens)`` of 0 or 1 after a layer's attention; [CLS] always stays.

        A token's bin is its rank over the number of tokens that are alive beside [CLS], so a bin is the same share of
        any sequence; with k of 100 bins kept, the first ones, ``ceil(k / 100 * others)`` tokens stay.

        Args:
            layer: of the encoder.
            scores: ``(batch, tokens)``, higher stays longer.
            alive: ``(batch, tokens)`` bool.
        """
        keeps = self.keeps[layer - self.first_layer]
        others = (alive.sum(1, keepdim=True) - 1).clamp_min(1)
        bins = (ranks(scores, alive) * len(keeps) // others).clamp_max(len(keeps) - 1)
        kept = 1 - (1 - keeps[bins]) * self.prunes[layer - self.first_layer]
        cls = torch.zeros_like(alive)
        cls[:, 0] = True
        return torch.where(cls, torch.ones_like(kept), kept)


class TokenGates(nn.Module):
    """Gates of the layers ``first_layer .. first_layer + layers - 1``.

    ``prefix`` gates have one number per layer, the share that is kept: a draw keeps all bins up to a rank, so top-k is
    exact. ``bins`` have one per layer and rank bin, as ToP's; what they learn is brought to a share by counting.

    Args:
        layers: that may prune.
        first_layer: the first of them.
        shape: of a layer's fine gates.
        bins: rank bins per layer; must divide 100.
        share: kept at first.
        opening: logit of a layer's gate at first.
    """

    def __init__(
        self,
        *,
        layers: int,
        first_layer: int = 0,
        shape: Shape = "prefix",
        bins: int = PERCENTS,
        share: float = 0.95,
        opening: float = 0.0,
    ) -> None:
        super().__init__()
        if layers < 1 or first_layer < 0:
            raise ValueError(f"layers must be at least 1 and first_layer at least 0, got {layers} and {first_layer}")
        if shape not in get_args(Shape):
            raise ValueError(f"shape must be one of {', '.join(get_args(Shape))}, got {shape!r}")
        if bins < 1 or PERCENTS % bins:
            raise ValueError(f"bins must divide {PERCENTS}, got {bins}")
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        self.shape, self.bins, self.first_layer = shape, bins, first_layer
        self.layer_logits = nn.Parameter(torch.full((layers,), opening))
        if shape == "prefix":
            low, high = STRETCH
            begin = (share - low) / (high - low)
            self.fine = nn.Parameter(torch.full((layers,), math.log(begin / (1 - begin))))
        else:
            self.fine = nn.Parameter(torch.full((layers, bins), math.log(share / (1 - share))))

    @property
    def bin_logits(self) -> Tensor:
        """(layers, bins); falling in the rank for ``prefix`` gates."""
        if self.shape == "bins":
            return self.fine
        low, high = STRETCH
        share = self.fine.sigmoid() * (high - low) + low
        middles = (torch.arange(self.bins, device=share.device) + 0.5) / self.bins
        return _STEEPNESS * (share[:, None] - middles)

    def sample(self, generator: torch.Generator) -> GateSample:
        """One draw; all bins of a ``prefix`` layer share their noise."""
        logits, layers = self.bin_logits, len(self.layer_logits)
        width = self.bins if self.shape == "bins" else 1
        prunes = hard_concrete(self.layer_logits, torch.rand(layers, generator=generator))
        keeps = hard_concrete(logits, torch.rand(layers, width, generator=generator))
        return GateSample(prunes, keeps, self.first_layer)

    def expected_shares(self) -> Tensor:
        """(layers,) share of the tokens beside [CLS] that a layer keeps, in the mean over draws."""
        return 1 - self.layer_logits.sigmoid() * (1 - self.bin_logits.sigmoid().mean(1))

    def keep_percents(self) -> tuple[int, ...]:
        """The schedule without chance: a layer whose gate is more likely closed keeps all."""
        with torch.no_grad():
            logits = self.bin_logits
            shares = (logits > 0).float().mean(1) if self.shape == "bins" else logits.sigmoid().mean(1)
            percents = (100 * shares).round().clamp(1, 100)
            percents = torch.where(self.layer_logits > 0, percents, torch.full_like(percents, 100))
        return tuple(int(one) for one in percents.tolist())

    @torch.no_grad()
    def clamp(self) -> None:
        """Bring logits back to where gradients still move them; after every step."""
        self.layer_logits.clamp_(-MOST_SURE, MOST_SURE)
        self.fine.clamp_(-MOST_SURE, MOST_SURE)
