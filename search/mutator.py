"""Mutator: the policy P(layer, field, value | parent, budget) that replaces random mutation.

SwiftPruner (arXiv 2209.00625) says that its mutator predicts which layer to change and to which sparsity; network,
features and training are our own: a softmax over every single move, REINFORCE with a learned baseline and an entropy
bonus (Williams 1992).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.search.axes import Axes, Floats, Indices
from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.feasible import PredictMany
from sparsefront.search.policy import PolicyNet
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genome import FIELDS

_MOVE_FEATURES = 18
_STATE_FEATURES = 9
_SHAPE_FEATURES = 4
_CACHED_BASES = 256


@dataclass(frozen=True)
class Move:
    """One step of a mutation; ``filling`` moves may only make the genome slower, to use up the budget."""

    axis: int
    index: int
    filling: bool


@dataclass(frozen=True)
class Child:
    """(axes,) grid indices of a mutated genome and the moves that led to it from the base."""

    indices: Indices
    moves: tuple[Move, ...]


@dataclass(frozen=True)
class Situation:
    """What the policy decides on: a base genome, a latency target and the shape of the front.

    Attributes:
        base: (axes,) grid indices.
        latency_us: predicted latency of the base.
        change_us: (axes, most values) change in latency by each single move, exact at the base.
        target_us: no child may be slower.
        shape: (4,) see :func:`front_shape`.
    """

    base: Indices
    latency_us: float
    change_us: Floats
    target_us: float
    shape: Floats


@dataclass(frozen=True, kw_only=True)
class MutatorOptions:
    """Settings of the mutator.

    Attributes:
        more_moves: probability of one more free move after each (geometric), up to ``most_moves``.
        most_moves: free moves per child.
        fill: probability that a child is filled up to its target after its free moves.
        most_fills: filling moves per child.
        exploration: share of the uniform distribution mixed into the policy.
        learning_rate: of Adam.
        entropy: weight of the entropy bonus.
        hidden: width of the network.
        learn: False keeps the policy uniform over the allowed moves.
        shares: False hides from the policy what each unit costs and what importance it carries.
    """

    more_moves: float = 0.5
    most_moves: int = 3
    fill: float = 0.9
    most_fills: int = 6
    exploration: float = 0.1
    learning_rate: float = 0.01
    entropy: float = 0.01
    hidden: int = 32
    learn: bool = True
    shares: bool = True

    def __post_init__(self) -> None:
        for name in ("more_moves", "fill", "exploration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.most_moves < 1 or self.most_fills < 0 or self.hidden < 1:
            raise ValueError(
                f"most_moves and hidden must be at least 1 and most_fills at least 0, got {self.most_moves}, "
                f"{self.hidden} and {self.most_fills}"
            )


class Mutator:
    """Proposes children of a genome and learns from what they earned.

    Between the moves of one child all features are recomputed; latency is exact for the first move and additive over
    the base's single moves after it, so that a whole batch of children costs one table look-up per base. Whoever
    uses a child predicts its latency exactly.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        predict_many: PredictMany,
        importance: ImportanceCurves | None = None,
        seed: int = 0,
        options: MutatorOptions | None = None,
    ) -> None:
        self.axes = Axes(space=space, importance=importance)
        self.options = options or MutatorOptions()
        self._predict_many = predict_many
        self._largest_us = float(predict_many([space.largest])[0])
        generator = torch.Generator().manual_seed(seed)
        self.net = PolicyNet(
            move_features=_MOVE_FEATURES,
            state_features=_STATE_FEATURES,
            axes=len(self.axes.names),
            hidden=self.options.hidden,
            generator=generator,
        )
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=self.options.learning_rate)
        self._axis = torch.from_numpy(self.axes.axis)
        self._bases: OrderedDict[Genome, tuple[float, Floats]] = OrderedDict()
        self.entropy_share = 1.0
        """Of the latest moves' distributions, over that of a uniform choice: 1 before anything is learned."""

    # -- proposing ---------------------------------------------------------------------------------------------------

    def situation(self, base: Genome, *, target_us: float, shape: Floats) -> Situation:
        """The situation of a base genome; the latencies of its single moves are kept for the latest bases."""
        known = self._bases.pop(base, None)
        if known is None:
            space = self.axes.space
            moved = [space.replace(base, *move) for move in self.axes.moves]
            latency = np.asarray(self._predict_many([base, *moved]), dtype=np.float64)
            change = np.zeros(self.axes.values.shape)
            change[self.axes.axis, self.axes.index] = latency[1:] - latency[0]
            known = float(latency[0]), change
        self._bases[base] = known
        if len(self._bases) > _CACHED_BASES:
            self._bases.popitem(last=False)
        return Situation(self.axes.indices(base), known[0], known[1], target_us, shape)

    def propose(self, situation: Situation, count: int, rng: np.random.Generator, *, free: bool = True) -> list[Child]:
        """``count`` children of the base, estimated within the target. Without ``free`` moves they are only filled."""
        options = self.options
        wanted = np.minimum(rng.geometric(1 - min(options.more_moves, 0.99), size=count), options.most_moves)
        wanted = wanted if free else np.zeros(count, dtype=np.int64)
        fills = np.where(rng.random(count) < options.fill, options.most_fills, 0)
        indices = np.repeat(situation.base[None], count, axis=0)
        taken: list[list[Move]] = [[] for _ in range(count)]
        for step in range(options.most_moves + options.most_fills):
            filling = step >= wanted
            active = np.flatnonzero(step < wanted + fills)
            if not len(active):
                break
            features = self._features(situation, indices[active], filling[active])
            allowed = features[3]
            movable = allowed.any(axis=1)
            active, features = active[movable], tuple(part[movable] for part in features)
            if not len(active):
                break
            chosen = self._draw(features, rng)
            for child, candidate in zip(active, chosen, strict=True):
                axis, index = int(self.axes.axis[candidate]), int(self.axes.index[candidate])
                taken[child].append(Move(axis, index, bool(filling[child])))
                indices[child, axis] = index
        return [Child(indices[child].copy(), tuple(moves)) for child, moves in enumerate(taken)]

    def _draw(self, features: tuple[NDArray[np.float64], ...], rng: np.random.Generator) -> Indices:
        """(rows,) candidates drawn from the policy, with the uniform share mixed in."""
        probabilities = np.exp(self._log_probs(features).detach().numpy().astype(np.float64))
        allowed = features[3].astype(np.float64)
        choices = allowed.sum(axis=1, keepdims=True)
        uniform = allowed / choices
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
        self.entropy_share = float(np.mean(entropy / np.log(np.maximum(choices[:, 0], 2))))
        mixed = (1 - self.options.exploration) * probabilities + self.options.exploration * uniform
        cumulative = np.cumsum(mixed, axis=1)
        drawn = rng.random((len(mixed), 1)) * cumulative[:, -1:]
        chosen = (cumulative <= drawn).sum(axis=1)
        return np.asarray(np.minimum(chosen, mixed.shape[1] - 1), dtype=np.int64)

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, situation: Situation, moves: Sequence[Move], reward: float) -> None:
        """One REINFORCE step on the moves that led from the base to a child that earned ``reward``."""
        if not moves or not self.options.learn:
            return
        steps, filling, chosen = [], [], []
        indices = situation.base.copy()
        for move in moves:
            steps.append(indices.copy())
            filling.append(move.filling)
            chosen.append(self._candidate(move))
            indices[move.axis] = move.index
        features = self._features(situation, np.stack(steps), np.array(filling))
        features[3][np.arange(len(chosen)), chosen] = True  # a table measured again may disagree about the margin
        log_probs = self._log_probs(features)
        taken = log_probs[torch.arange(len(chosen)), torch.tensor(chosen)].sum()
        entropy = -(log_probs.exp() * log_probs.masked_fill(torch.isinf(log_probs), 0.0)).sum(-1).mean()
        expected = self.net.baseline(torch.from_numpy(self._state(situation)).float()[None])[0]
        advantage = reward - expected
        loss = -advantage.detach() * taken - self.options.entropy * entropy + advantage.square()
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()

    def probabilities(self, situation: Situation) -> Floats:
        """(axes, most values) probability of each first move from the base, without the uniform share."""
        features = self._features(situation, situation.base[None], np.array([False]))
        table = np.zeros(self.axes.values.shape)
        if features[3].any():
            table[self.axes.axis, self.axes.index] = np.exp(self._log_probs(features).detach().numpy()[0])
        return table

    def _candidate(self, move: Move) -> int:
        found = np.flatnonzero((self.axes.axis == move.axis) & (self.axes.index == move.index))
        if not len(found):
            raise ValueError(f"not a move of this space: {move}")
        return int(found[0])

    # -- features ----------------------------------------------------------------------------------------------------

    def _log_probs(self, features: tuple[NDArray[np.float64], ...]) -> torch.Tensor:
        moves, delta, _, allowed = features
        return self.net.log_probs(
            torch.from_numpy(moves).float(), self._axis, torch.from_numpy(delta).float(), torch.from_numpy(allowed)
        )

    def _features(
        self, situation: Situation, indices: Indices, filling: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float64], ...]:
        """Features, change, new latency and mask of every move from (rows, axes) genomes; all (rows, candidates, ...).

        Masked: moves to the present value, moves of an axis that this child has already changed (they would undo a
        decision), moves beyond the target and, when filling, moves that add no latency.
        """
        axes, target = self.axes, situation.target_us
        rows = np.arange(len(axes.names))
        lost = situation.change_us[rows, indices]  # (rows, axes)
        present_us = situation.latency_us + lost.sum(axis=1)
        new_us = present_us[:, None] + situation.change_us[axes.axis, axes.index] - lost[:, axes.axis]
        change_us = new_us - present_us[:, None]
        touched = (indices != situation.base)[:, axes.axis]
        allowed = (indices[:, axes.axis] != axes.index) & ~touched & (new_us <= target)
        allowed &= ~filling[:, None] | (change_us > 1e-9)

        old = axes.shares[rows, indices][:, axes.axis]
        new = np.broadcast_to(axes.shares[axes.axis, axes.index], old.shape)
        kept = axes.kept[axes.axis, axes.index] - axes.kept[rows, indices][:, axes.axis]
        layers = axes.space.widths.layers
        share = -situation.change_us[rows, 0] / max(situation.latency_us, 1e-9)  # what dropping the unit would save
        per_candidate = np.stack(
            [
                axes.layer[axes.axis] / max(layers - 1, 1),
                *(axes.field[axes.axis] == one for one in range(len(FIELDS))),
                share[axes.axis] * layers,
            ]
        )
        per_row = np.concatenate(
            [
                ((target - present_us) / target)[:, None],
                filling[:, None].astype(np.float64),
                np.full((len(indices), 1), target / self._largest_us),
                np.broadcast_to(situation.shape, (len(indices), _SHAPE_FEATURES)),
            ],
            axis=1,
        )
        if not self.options.shares:
            per_candidate[-1], kept = 0.0, np.zeros_like(kept)
        shape = old.shape
        columns = [np.broadcast_to(one, shape) for one in per_candidate]
        columns += [old, new, new - old, 10 * change_us / target, layers * kept, np.abs(new - old)]
        columns += [np.broadcast_to(one[:, None], shape) for one in per_row.T]
        return np.stack(columns, axis=-1), new - old, new_us, allowed

    def _state(self, situation: Situation) -> Floats:
        """(state features,) of the base, for the baseline."""
        axes, rows = self.axes, np.arange(len(self.axes.names))
        shares = axes.shares[rows, situation.base]
        means = [float(shares[axes.field == one].mean()) if (axes.field == one).any() else 1.0 for one in range(3)]
        slack = (situation.target_us - situation.latency_us) / situation.target_us
        return np.array([slack, situation.target_us / self._largest_us, *means, *situation.shape])


def front_shape(quality: Sequence[float], latency_us: Sequence[float], *, budget_us: float) -> Floats:
    """(4,) shape of a front within the budget: size, span in latency, and quality lost at 3/4 and 1/2 of the budget.

    ``quality`` and ``latency_us`` are the front's points, the cheapest first. Losses are shares of the front's own
    quality range; all zeros for an empty front.
    """
    inside = [(q, us) for q, us in zip(quality, latency_us, strict=True) if us <= budget_us]
    if not inside:
        return np.zeros(_SHAPE_FEATURES)
    qualities, latencies = np.array(inside).T
    spread = max(float(qualities.max() - qualities.min()), 1e-12)

    def lost(share: float) -> float:
        cheap = qualities[latencies <= share * budget_us]
        return 1.0 if not len(cheap) else float(qualities.max() - cheap.max()) / spread

    span = float(latencies.max() - latencies.min()) / budget_us
    return np.array([min(len(inside), 50) / 50, span, lost(0.75), lost(0.5)])
