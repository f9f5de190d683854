"""Mutator: the policy P(layer, field, value | parent, budget) that replaces random mutation.

SwiftPruner (arXiv 2209.00625) says that its mutator predicts which layer to change and to which sparsity; network,
features and training are our own: a softmax over every single move, REINFORCE with a learned baseline and an entropy
bonus (Williams 1992).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from sparsefront.search.axes import Axes, Floats, Indices
from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.feasible import PredictMany
from sparsefront.search.policy import PolicyNet
from sparsefront.spaces import Genome, SearchSpace

Opinion = Callable[[Sequence[Genome]], Floats]
"""Genomes -> (genomes,) expected quality, in its standard deviations."""

_MOVE_FEATURES = 20
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
class Children:
    """Mutated genomes of one base, and the steps that led to each.

    Attributes:
        indices: (children, axes) grid indices.
        chosen: (children, steps) candidate that each step took; -1: none.
        filling: (children, steps) whether it was to fill up.
    """

    indices: Indices
    chosen: Indices
    filling: NDArray[np.bool_]

    def __len__(self) -> int:
        """How many."""
        return len(self.indices)


@dataclass(frozen=True)
class Situation:
    """What the policy decides on: a base genome, a latency target and the shape of the front.

    Attributes:
        base: (axes,) grid indices.
        latency_us: predicted latency of the base.
        change_us: (candidates,) change in latency by each single move, exact at the base.
        gain: (candidates,) change in quality that is expected of each single move; 0 where nobody knows.
        target_us: no child may be slower.
        shape: (4,) see :func:`front_shape`.
    """

    base: Indices
    latency_us: float
    change_us: Floats
    gain: Floats
    target_us: float
    shape: Floats


class Lesson(NamedTuple):
    """What an evaluated child has earned.

    Attributes:
        situation: of its base.
        moves: that led to it.
        reward: see :mod:`sparsefront.search.reward`.
    """

    situation: Situation
    moves: Sequence[Move]
    reward: float


@dataclass(frozen=True, kw_only=True)
class MutatorOptions:
    """Settings of the mutator.

    Attributes:
        more_moves: probability of one more free move after each (geometric), up to ``most_moves``.
        most_moves: free moves per child.
        fill: probability that a child is filled up to its target after its free moves.
        most_fills: filling moves per child.
        exploration: share of the uniform distribution mixed into the policy.
        learning_rate: of Adam; where no critic judges children, rewards alone are few and noisy, and want less.
        entropy: weight of the entropy bonus.
        hidden: width of the network.
        learn: False keeps the policy uniform over the allowed moves.
        shares: False hides from the policy what each unit costs and what importance it carries.
        hints: False hides from it what the critic expects of every single move.
    """

    more_moves: float = 0.6
    most_moves: int = 5
    fill: float = 0.5
    most_fills: int = 6
    exploration: float = 0.1
    learning_rate: float = 0.1
    entropy: float = 0.01
    hidden: int = 32
    learn: bool = True
    shares: bool = True
    hints: bool = True

    def __post_init__(self) -> None:
        for name in ("more_moves", "fill", "exploration"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")
        if self.most_moves < 1 or self.most_fills < 0 or self.hidden < 1:
            raise ValueError(
                f"most_moves and hidden must be at least 1 and most_fills at least 0, got {self.most_moves}, "
                f"{self.hidden} and {self.most_fills}"
            )


@dataclass(frozen=True)
class _Weighed:
    """All moves from some bases; the first dimension is the bases, filling moves are the second row of ``logits``.

    Attributes:
        base: (bases, axes) grid indices.
        logits: (bases, 2, candidates).
        change_us: (bases, candidates).
        room_us: (bases,) from the base to its target.
    """

    base: Indices
    logits: torch.Tensor
    change_us: Floats
    room_us: Floats


class Mutator:
    """Proposes children of a genome and learns from what they earned.

    All moves from a base are weighed once; a child's moves are drawn one after the other from those weights, without
    its earlier axes and what no longer fits. Latency is exact for the first move and additive over the base's single
    moves after it. Whoever uses a child predicts its latency exactly.
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
            candidates=len(self.axes.axis),
            hidden=self.options.hidden,
            generator=generator,
        )
        self._optimizer = torch.optim.Adam(self.net.parameters(), lr=self.options.learning_rate)
        self._axis = torch.from_numpy(self.axes.axis)
        places = zip(self.axes.axis.tolist(), self.axes.index.tolist(), strict=True)
        self._candidates = {place: candidate for candidate, place in enumerate(places)}
        self._first = np.concatenate([[0], np.cumsum(self.axes.sizes)])[:-1]  # each axis's smallest value
        self._bases: OrderedDict[Genome, tuple[float, Floats]] = OrderedDict()
        self.entropy_share = 1.0
        """Of the latest first moves' distributions, over that of a uniform choice: 1 before anything is learned."""

    # -- proposing ---------------------------------------------------------------------------------------------------

    def situations(
        self, bases: Sequence[tuple[Genome, float, Floats]], *, opinion: Opinion | None = None
    ) -> list[Situation]:
        """The situations of base genomes; the latencies of their single moves are kept for the latest bases.

        Args:
            bases: genomes of the space, each with the latency that no child of it may exceed, in microseconds, and the
                (4,) shape of the front there (:func:`front_shape`).
            opinion: says what quality to expect; the policy sees it of every single move.
        """
        axes = self.axes
        indices = {base: axes.indices(base) for base, *_ in bases}
        if new := [base for base in indices if base not in self._bases]:
            genomes = axes.genomes(self._moved([indices[base] for base in new]))
            latency = np.asarray(self._predict_many(genomes), dtype=np.float64).reshape(len(new), -1)
            for base, row in zip(new, latency, strict=True):
                self._bases[base] = float(row[-1]), row[:-1] - row[-1]
        gains = dict.fromkeys(indices, np.zeros(len(axes.axis)))
        if opinion is not None and self.options.learn and self.options.hints:
            expected = opinion(axes.genomes(self._moved(list(indices.values())))).reshape(len(indices), -1)
            gains = dict(zip(indices, expected[:, :-1] - expected[:, -1:], strict=True))
        found = [
            Situation(indices[base], *self._bases[base], gains[base], target_us, shape)
            for base, target_us, shape in bases
        ]
        for base in indices:
            self._bases.move_to_end(base)
        while len(self._bases) > _CACHED_BASES:
            self._bases.popitem(last=False)
        return found

    def _moved(self, bases: Sequence[Indices]) -> Indices:
        """(bases x (candidates + 1), axes) grid indices after every single move from each base, and of the base."""
        axes = self.axes
        moved = np.stack(bases)[:, None].repeat(len(axes.axis) + 1, axis=1)
        moved[:, np.arange(len(axes.axis)), axes.axis] = axes.index
        return moved.reshape(-1, moved.shape[-1])

    def propose(
        self,
        situations: Sequence[Situation],
        count: int,
        rng: np.random.Generator,
        *,
        free: Sequence[bool] | None = None,
    ) -> list[Children]:
        """``count`` children of each base, estimated within its target; those of a base that is not ``free`` are only
        filled."""
        options, rows = self.options, len(situations) * count
        of = np.repeat(np.arange(len(situations)), count)
        wanted = np.minimum(rng.geometric(1 - min(options.more_moves, 0.99), size=rows), options.most_moves)
        if free is not None:
            wanted[~np.array(free)[of]] = 0
        fills = np.where(rng.random(rows) < options.fill, options.most_fills, 0)
        with torch.no_grad():
            weighed = self._weighed(situations)
        weights = np.exp(weighed.logits.numpy().astype(np.float64))
        indices, room_us = weighed.base[of], weighed.room_us[of]
        steps = options.most_moves + options.most_fills
        taken = np.full((rows, steps), -1)
        for step in range(steps):
            filling = step >= wanted
            active = np.flatnonzero(step < wanted + fills)
            allowed = self._allowed(weighed, of[active], indices[active], room_us[active], filling[active])
            movable = allowed.any(axis=1)
            active, allowed = active[movable], allowed[movable]
            if not len(active):
                continue
            row_weights = weights[of[active], filling[active].astype(np.int64)] * allowed
            if step == 0:
                self.entropy_share = self._entropy_share(row_weights, allowed)
            chosen = self._draw(row_weights, allowed, rng)
            taken[active, step] = chosen
            indices[active, self.axes.axis[chosen]] = self.axes.index[chosen]
            room_us[active] -= weighed.change_us[of[active], chosen]
        filled = np.arange(steps) >= wanted[:, None]
        parts = (np.split(one, len(situations)) for one in (indices, taken, filled))
        return [Children(*one) for one in zip(*parts, strict=True)]

    def moves(self, children: Children, child: int) -> list[Move]:
        """The steps that led to one of them."""
        steps = np.flatnonzero(children.chosen[child] >= 0)
        chosen = children.chosen[child, steps]
        columns = (self.axes.axis[chosen], self.axes.index[chosen], children.filling[child, steps])
        return [Move(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]

    def _draw(self, weights: Floats, allowed: NDArray[np.bool_], rng: np.random.Generator) -> Indices:
        """(rows,) candidates drawn from the policy's weights of what is allowed, some uniformly instead."""
        explored = np.flatnonzero(rng.random(len(weights)) < self.options.exploration)
        weights[explored] = allowed[explored]
        cumulative = np.cumsum(weights, axis=1, out=weights)
        drawn = rng.random((len(weights), 1)) * cumulative[:, -1:]
        return np.asarray(np.argmax(cumulative > drawn, axis=1), dtype=np.int64)

    def _entropy_share(self, weights: Floats, allowed: NDArray[np.bool_]) -> float:
        """Mean entropy of the rows that have a choice, over that of a uniform one; 1 where none has.

        ``weights`` of what is not allowed are 0.
        """
        weights, choices = weights[allowed.sum(axis=1) > 1], allowed.sum(axis=1)
        if not len(weights):
            return 1.0
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        entropy = -(probabilities * np.log(np.maximum(probabilities, 1e-300))).sum(axis=1)
        return float(np.mean(entropy / np.log(choices[choices > 1])))

    def _allowed(
        self, weighed: _Weighed, of: Indices, indices: Indices, room_us: Floats, filling: NDArray[np.bool_]
    ) -> NDArray[np.bool_]:
        """(rows, candidates) mask of the next move.

        Not: to the present value, of an axis that this child has already changed (it would undo a decision), beyond
        the target and, when filling, without more latency.
        """
        base, change_us = weighed.base[of], weighed.change_us[of]
        untouched = (indices == base)[:, self.axes.axis] & (base[:, self.axes.axis] != self.axes.index)
        return np.asarray(untouched & (change_us <= room_us[:, None]) & (~filling[:, None] | (change_us > 1e-9)))

    # -- learning ----------------------------------------------------------------------------------------------------

    def learn(self, lessons: Sequence[Lesson]) -> None:
        """One REINFORCE step on the moves that led from their bases to evaluated children."""
        lessons = [one for one in lessons if one.moves]
        if not lessons or not self.options.learn:
            return
        situations = [one.situation for one in lessons]
        steps = max(len(one.moves) for one in lessons)
        chosen, filling = np.full((len(lessons), steps), -1), np.zeros((len(lessons), steps), dtype=np.bool_)
        for row, lesson in enumerate(lessons):
            chosen[row, : len(lesson.moves)] = [self._candidate(move) for move in lesson.moves]
            filling[row, : len(lesson.moves)] = [move.filling for move in lesson.moves]
        taken, entropy = self._taken(situations, np.arange(len(lessons)), chosen, filling)
        states = np.stack([self._state(one) for one in situations])
        rewards = torch.tensor([one.reward for one in lessons])
        advantage = rewards - self.net.baseline(torch.from_numpy(states).float())
        self._step((-advantage.detach() * taken + advantage.square()).mean() - self.options.entropy * entropy)

    def imagine(self, situations: Sequence[Situation], children: Sequence[Children], rewards: Sequence[Floats]) -> None:
        """One policy-gradient step on children that were not evaluated but judged.

        Args:
            situations: of the bases.
            children: of each base.
            rewards: (children,) per base; the better ones of a base count against its worse ones.
        """
        if not self.options.learn:
            return
        of = np.repeat(np.arange(len(situations)), [len(one) for one in children])
        spread = np.array([max(float(np.std(one)), 1e-12) for one in rewards])
        advantages = np.concatenate([one - np.mean(one) for one in rewards]) / spread[of]
        chosen = np.concatenate([one.chosen for one in children])
        useful = (chosen >= 0).any(axis=1) & (spread[of] > 1e-12)
        if useful.any():
            filling = np.concatenate([one.filling for one in children])
            taken, entropy = self._taken(situations, of[useful], chosen[useful], filling[useful])
            advantage = torch.from_numpy(advantages[useful]).float()
            self._step(-(advantage * taken).mean() - self.options.entropy * entropy)

    def _taken(
        self, situations: Sequence[Situation], of: Indices, chosen: Indices, filling: NDArray[np.bool_]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(paths,) log-probability of the steps of each path, and the mean entropy along them.

        Path ``i`` leads from the base of ``situations[of[i]]`` over the candidates ``chosen[i]``, -1 for no step.
        """
        weighed = self._weighed(situations)
        indices, room_us = weighed.base[of], weighed.room_us[of]
        steps: list[tuple[Indices, NDArray[np.bool_], Indices, NDArray[np.bool_]]] = []
        for step in range(chosen.shape[1]):
            active = np.flatnonzero(chosen[:, step] >= 0)
            if not len(active):
                continue
            pick, fill = chosen[active, step], filling[active, step]
            allowed = self._allowed(weighed, of[active], indices[active], room_us[active], fill)
            allowed[np.arange(len(active)), pick] = True  # a table measured again may disagree about the margin
            steps.append((active, allowed, pick, fill))
            indices[active, self.axes.axis[pick]] = self.axes.index[pick]
            room_us[active] -= weighed.change_us[of[active], pick]
        path, mask, picks, fills = (np.concatenate(column) for column in zip(*steps, strict=True))
        logits = weighed.logits[torch.from_numpy(of[path]), torch.from_numpy(fills).long()]
        forbidden = ~torch.from_numpy(mask)
        log_probs = torch.log_softmax(logits.masked_fill(forbidden, float("-inf")), dim=-1)
        entropy = -(log_probs.exp() * log_probs.masked_fill(forbidden, 0.0)).sum(-1).mean()
        of_moves = log_probs.gather(1, torch.from_numpy(picks)[:, None])[:, 0]
        return torch.zeros(len(of)).index_add(0, torch.from_numpy(path), of_moves), entropy

    def _step(self, loss: torch.Tensor) -> None:
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()

    def probabilities(self, situation: Situation) -> Floats:
        """(axes, most values) probability of each first move from the base, without the uniform share."""
        with torch.no_grad():
            weighed = self._weighed([situation])
        first = np.zeros(1, dtype=np.int64)
        allowed = self._allowed(weighed, first, weighed.base, weighed.room_us, np.array([False]))[0]
        weights = np.exp(weighed.logits.numpy()[0, 0]) * allowed
        table = np.zeros(self.axes.values.shape)
        if allowed.any():
            table[self.axes.axis, self.axes.index] = weights / weights.sum()
        return table

    def _candidate(self, move: Move) -> int:
        candidate = self._candidates.get((move.axis, move.index))
        if candidate is None:
            raise ValueError(f"not a move of this space: {move}")
        return candidate

    # -- features ----------------------------------------------------------------------------------------------------

    def _weighed(self, situations: Sequence[Situation]) -> _Weighed:
        """The moves from these bases, scored by the policy."""
        base = np.stack([one.base for one in situations])
        change_us = np.stack([one.change_us for one in situations])
        room_us = np.array([one.target_us - one.latency_us for one in situations])
        features, delta = self._features(situations, base, change_us, room_us)
        moves, delta_of = torch.from_numpy(features).float(), torch.from_numpy(delta).float()[:, None]
        return _Weighed(base, self.net.scores(moves, self._axis, delta_of), change_us, room_us)

    def _features(
        self, situations: Sequence[Situation], base: Indices, change_us: Floats, room_us: Floats
    ) -> tuple[Floats, Floats]:
        """(bases, 2, candidates, move features), as free and as filling moves; (bases, candidates) change of value."""
        axes, layers = self.axes, self.axes.space.widths.layers
        target_us = np.array([one.target_us for one in situations])
        latency_us = np.maximum([one.latency_us for one in situations], 1e-9)
        rows = np.arange(len(axes.names))
        old = axes.shares[rows, base][:, axes.axis]
        new = np.broadcast_to(axes.shares[axes.axis, axes.index], old.shape)
        kept = layers * (axes.kept[axes.axis, axes.index] - axes.kept[rows, base][:, axes.axis])
        saved = -change_us[:, self._first[axes.axis]] / latency_us[:, None] * layers  # by dropping the whole unit
        if not self.options.shares:
            kept, saved = np.zeros_like(kept), np.zeros_like(saved)
        fixed = [axes.layer[axes.axis] / max(layers - 1, 1), *(axes.field[axes.axis] == one for one in range(3))]
        per_base = [room_us / target_us, target_us / self._largest_us, *np.array([one.shape for one in situations]).T]
        columns = [*fixed, saved, old, new, new - old, 10 * change_us / target_us[:, None], kept, np.abs(new - old)]
        gain = np.stack([one.gain for one in situations])
        columns += [np.tanh(gain), np.tanh(gain / (10 * np.abs(change_us) / target_us[:, None] + 0.1))]
        columns += [one[:, None] for one in per_base]
        both = np.zeros((len(base), 2, len(axes.axis), _MOVE_FEATURES))
        for at, column in enumerate(columns):
            both[..., at] = np.broadcast_to(column, old.shape)[:, None]
        both[:, 1, :, -1] = 1.0
        return both, np.asarray(new - old)

    def _state(self, situation: Situation) -> Floats:
        """(state features,) of the base, for the baseline."""
        axes, rows = self.axes, np.arange(len(self.axes.names))
        shares = axes.shares[rows, situation.base]
        means = [float(shares[axes.field == one].mean()) if (axes.field == one).any() else 1.0 for one in range(3)]
        slack = (situation.target_us - situation.latency_us) / situation.target_us
        return np.array([slack, situation.target_us / self._largest_us, *means, *situation.shape])


def front_shape(quality: ArrayLike, latency_us: ArrayLike, *, budget_us: float) -> Floats:
    """(4,) shape of a front within the budget: size, span in latency, and quality lost at 3/4 and 1/2 of the budget.

    ``quality`` and ``latency_us`` are the front's points, the cheapest first. Losses are shares of the front's own
    quality range; all zeros for an empty front.
    """
    inside = np.asarray(latency_us, np.float64) <= budget_us
    if not inside.any():
        return np.zeros(_SHAPE_FEATURES)
    qualities, latencies = np.asarray(quality, np.float64)[inside], np.asarray(latency_us, np.float64)[inside]
    spread = max(float(qualities.max() - qualities.min()), 1e-12)

    def lost(share: float) -> float:
        cheap = qualities[latencies <= share * budget_us]
        return 1.0 if not len(cheap) else float(qualities.max() - cheap.max()) / spread

    span = float(latencies.max() - latencies.min()) / budget_us
    return np.array([min(len(qualities), 50) / 50, span, lost(0.75), lost(0.5)])
