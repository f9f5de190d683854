"""PolicyNet: the small network behind the mutator, shared by all candidate moves."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PolicyNet(nn.Module):
    """Scores candidate moves and estimates the reward of a situation.

    A move's score is an MLP of its features and a linear function of them, plus a learned slope per (layer, field)
    times the move's change, plus a number per (layer, field, value): the first two carry what holds for every layer,
    the slopes in which direction each should go, the numbers where to. All start at zero, so an untrained policy is
    uniform over the allowed moves.

    Args:
        move_features: features per candidate move.
        state_features: features per situation.
        axes: number of free (layer, field) pairs.
        candidates: number of (layer, field, value).
        hidden: width of both MLPs.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        *,
        move_features: int,
        state_features: int,
        axes: int,
        candidates: int,
        hidden: int,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.body = _linear(move_features, hidden)
        self.score = _linear(hidden, 1, bias=False)
        self.linear = _linear(move_features, 1, bias=False)
        self.slopes = nn.Parameter(torch.zeros(axes))
        self.places = nn.Parameter(torch.zeros(candidates))
        self.value_body = _linear(state_features, hidden)
        self.value_head = _linear(hidden, 1)
        with torch.no_grad():
            for layer in (self.body, self.value_body):
                layer.weight.normal_(0.0, layer.in_features**-0.5, generator=generator)
                layer.bias.zero_()
            self.score.weight.zero_()
            self.linear.weight.zero_()
            self.value_head.weight.zero_()
            self.value_head.bias.zero_()

    def scores(self, moves: Tensor, axis: Tensor, delta: Tensor) -> Tensor:
        """Score of each move; the policy is their softmax over what is allowed.

        Args:
            moves: (..., candidates, move features).
            axis: (candidates,) the candidate's (layer, field).
            delta: (..., candidates) change of the normalised value.

        Returns:
            (..., candidates).
        """
        shared: Tensor = (self.score(torch.tanh(self.body(moves))) + self.linear(moves)).squeeze(-1)
        return shared + self.slopes[axis] * delta + self.places

    def baseline(self, states: Tensor) -> Tensor:
        """(rows, state features) -> (rows,) expected reward."""
        expected: Tensor = self.value_head(torch.tanh(self.value_body(states))).squeeze(-1)
        return expected


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> nn.Linear:
    """Without torch's own initialisation, which would draw from the process's random state."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=bias)
    return layer
