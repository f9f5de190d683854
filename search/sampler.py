"""ReinforcedEvolutionSampler: evolution whose mutations are drawn from a learned policy, as an Optuna sampler."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.feasible import ENUMERABLE, FeasibleSpace, PredictMany, SpaceExhausted
from sparsefront.search.front import LINEAGE_ATTR, Archive, Evaluated, nondominated, require_directions
from sparsefront.search.history import History, genome_in
from sparsefront.search.judge import FIRST_FIT, Aim, Judge
from sparsefront.search.mutator import Children, Lesson, Move, Mutator, MutatorOptions, Opinion, Situation, front_shape
from sparsefront.search.reward import Reward, rank_reward
from sparsefront.search.seeds import seed_genomes
from sparsefront.search.trials import Proposal
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genome import FIELDS
from sparsefront.spaces.genomes import Genomes

_RETRIES = 4
_LESSONS = 16
_OF_ONE_BASE = 2
"""Children of one base that are proposed together, when several are asked."""
KEEP = FIELDS.index("keep_percent")


@dataclass(frozen=True, kw_only=True)
class EvolutionOptions:
    """Settings of the evolution.

    Attributes:
        bases: parents (or crossovers of two) that each proposal draws children from.
        children: children per base; the critic picks one of all of them.
        focus: share of the proposals that aim at the best within the budget; the others aim at the front below it, at
            a latency that is drawn.
        crossover: probability that a base is a crossover of two parents.
        tournament: parents that compete to become a base.
        whole: share of the proposals that stay among the genomes that keep all tokens, as long as some are known. A
            space that prunes tokens contains one that does not; without this, chance hardly ever finds back to it.
        critic_from: evaluations after which the critic picks; before, and with 0 ``children`` to spare, chance does.
        critic: False lets chance pick always.
        learn_every: evaluations after which the policy learns from what they earned and from imagined ones; one in 16
            of those known once that is more, so that learning does not outgrow the rest.
        imagined: bases then, whose children the critic judges for the policy to learn from.
        judged: children of each of these.
    """

    bases: int = 4
    children: int = 32
    focus: float = 0.5
    crossover: float = 0.3
    tournament: int = 6
    whole: float = 0.25
    critic_from: int = 24
    critic: bool = True
    learn_every: int = 4
    imagined: int = 4
    judged: int = 32

    def __post_init__(self) -> None:
        for name in ("bases", "children", "judged", "tournament", "learn_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.imagined < 0 or self.critic_from < FIRST_FIT:
            raise ValueError(
                f"imagined must be at least 0 and critic_from at least {FIRST_FIT}, got {self.imagined} and "
                f"{self.critic_from}"
            )
        for name in ("focus", "crossover", "whole"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


class Family(NamedTuple):
    """Children of one base.

    Attributes:
        situation: the base's.
        children: as the policy drew them.
        parents: the evaluated genome that is the base, or the two that it is a crossover of.
        whole: whether only children that keep all tokens count.
    """

    situation: Situation
    children: Children
    parents: list[Evaluated]
    whole: bool


class ReinforcedEvolutionSampler(BaseSampler):
    """Searches the best quality within one or several latency budgets, and the front below them.

    For studies with the directions ``["maximize", "minimize"]`` and the values (quality, latency in microseconds);
    parameters are those of ``space.distributions()``. The population is read from the study, so that parallel asks and
    resuming need nothing else. The policy's weights are a function of the finished trials in the order in which they
    finished: a new sampler object on an old study replays them and ends with the same weights. Proposals depend on
    ``seed`` and the trial's number only, beside the study's content.

    With several budgets the proposals take turns between them; there is one population, one policy (which sees the
    budget that it proposes for) and one critic, so that what is learned at one budget serves the others.

    No genome beyond the largest budget and none that is complete, running or waiting in the study is ever proposed;
    when nothing is left, ``study.optimize`` is stopped and ``study.ask`` raises :class:`SpaceExhausted`.

    Args:
        space: what to search.
        predict_many: genomes -> (genomes,) latency in microseconds; cheap and exact, called thousands of times.
        budget_us: latency budget, or several.
        importance: Fisher importance per unit; without it every unit counts the same.
        population_size: parents kept beside the front, the best by MnasNet score.
        designs: genomes to begin with, before its own seeds; those beyond the budget or outside the space are left out.
        seed: None draws one.
        reward: what children earn.
        mutator: settings of the policy.
        evolution: settings of the evolution.
    """

    def __init__(
        self,
        *,
        space: SearchSpace,
        predict_many: PredictMany,
        budget_us: float | Sequence[float],
        importance: ImportanceCurves | None = None,
        population_size: int = 16,
        designs: Sequence[Genome] = (),
        seed: int | None = None,
        reward: Reward | None = None,
        mutator: MutatorOptions | None = None,
        evolution: EvolutionOptions | None = None,
    ) -> None:
        if population_size < 2:
            raise ValueError(f"population_size must be at least 2, got {population_size}")
        self._space, self._importance = space, importance
        self._budgets = tuple(sorted({budget_us} if isinstance(budget_us, int | float) else set(budget_us)))
        if not self._budgets:
            raise ValueError("budget_us must hold at least one budget, got none")
        within = [FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget) for budget in self._budgets]
        self._feasible = within[-1]
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._population_size = population_size
        self._reward = reward or Reward()
        self._options = evolution or EvolutionOptions()
        self.mutator = Mutator(
            space=space, predict_many=predict_many, importance=importance, seed=self._seed, options=mutator
        )
        fitting = [one for one in designs if space.contains(one) and self._feasible.fits([one])[0]]
        self._seeds = tuple(dict.fromkeys([*fitting, *_in_turn([seed_genomes(one, importance) for one in within])]))
        self._history = History(space)
        self._lessons: list[tuple[tuple[Genome, float, np.ndarray], list[Move], float]] = []
        self._next_lesson = self._options.learn_every
        self._judge = Judge(space=space, importance=importance, first=self._options.critic_from)
        self._independent = optuna.samplers.RandomSampler(seed=self._seed)

    def proposals(self, study: optuna.Study, count: int) -> list[Proposal]:
        """Up to ``count`` genomes to evaluate next, all different; none when nothing within the budgets is left.

        For loops that need several at a time; ``study.ask`` gives one.
        """
        require_directions(study)
        self._absorb(study)
        rng = np.random.default_rng([self._seed, len(study.get_trials(deepcopy=False))])
        try:
            lineages = self._propose(rng, self._history.taken(study), count)
        except SpaceExhausted:
            return []
        return [Proposal(Genome.parse(one["genome"]), {LINEAGE_ATTR: one}) for one in lineages]

    # -- Optuna's side -----------------------------------------------------------------------------------------------

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return dict(self._space.distributions())

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        require_directions(study)
        self._absorb(study)
        if genome_in(trial, self._space) is not None:  # enqueued by somebody: nothing to propose
            return {}
        rng = np.random.default_rng([self._seed, trial.number])
        try:
            (lineage,) = self._propose(rng, self._history.taken(study, but=trial.number), 1)
        except SpaceExhausted:
            study.tell(trial.number, state=TrialState.FAIL)  # ask() fails, and would leave the trial running for ever
            raise
        study._storage.set_trial_user_attr(trial._trial_id, LINEAGE_ATTR, lineage)
        params = self._space.to_params(Genome.parse(lineage["genome"]))
        return {name: params[name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._independent.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        listable = self._space.size <= ENUMERABLE
        if state == TrialState.COMPLETE and listable and self._feasible.exhausted(self._history.taken(study)):
            stop_quietly(study)

    # -- learning ----------------------------------------------------------------------------------------------------

    def _absorb(self, study: optuna.Study) -> None:
        """Learn from every trial that has finished since the last time, in the order in which they finished."""
        for one, lineage in self._history.news(study):
            archive = self._history.feasible(self._feasible.budget_us)
            if lineage.get("moves") and self.mutator.options.learn:
                target = float(lineage["target_us"])
                parents = [parent for key in lineage["parents"] if (parent := self._history.find(key))]
                inside = archive.within(target)
                reward = self._reward.of(one, parents, inside, budget_us=target)
                base = Genome.parse(lineage["base"]), target, _shape(inside, target)
                self._lessons.append((base, [Move(*move) for move in lineage["moves"]], reward))
            self._history.add(one)
            known = len(self._history)
            if known == self._next_lesson and self.mutator.options.learn:
                self._next_lesson += max(self._options.learn_every, known // _LESSONS)
                self._learn()
                self._imagine(one.number)

    def _learn(self) -> None:
        """Let the policy learn from what its children have earned since the last time."""
        opinion = self._opinion(self._history.feasible(self._feasible.budget_us))
        lessons, self._lessons = self._lessons, []
        if lessons:
            situations = self.mutator.situations([base for base, *_ in lessons], opinion=opinion)
            pairs = zip(situations, lessons, strict=True)
            self.mutator.learn([Lesson(situation, moves, reward) for situation, (_, moves, reward) in pairs])

    def _imagine(self, number: int) -> None:
        """Let the policy learn from the critic's opinion of children that are never evaluated."""
        archive = self._history.feasible(self._feasible.budget_us)
        if not (self._options.critic and self._options.imagined and self._judge.knows_enough(archive)):
            return
        rng = np.random.default_rng([self._seed, number, 1])
        budget_us = self._budget(rng)
        if not self._history.feasible(budget_us):
            return
        aim = self._aim(rng, archive, budget_us)
        families = self._families(rng, archive, aim, self._options.imagined, self._options.judged)
        indices = np.concatenate([one.children.indices for one in families])
        genomes = self.mutator.axes.genomes(indices)
        latency_us = np.asarray(self._feasible.predict_many(genomes))
        improvement = self._judge.improvement(genomes, latency_us, archive, aim)
        rewards = [rank_reward(part) for part in np.split(improvement, len(families))]
        self.mutator.imagine([one.situation for one in families], [one.children for one in families], rewards)

    # -- proposing ---------------------------------------------------------------------------------------------------

    def _propose(self, rng: np.random.Generator, taken: set[str], count: int) -> list[dict[str, Any]]:
        """Lineages of the next genomes: seeds, else children, else random ones."""
        found: list[dict[str, Any]] = []
        for seed in self._seeds:
            if seed.key() not in taken and len(found) < count:
                found.append({"genome": seed.key(), "how": "seed"})
        tries = 0
        while len(found) < count and tries < _RETRIES:
            budget, tries = self._budget(rng), tries + 1
            if self._history.feasible(budget):
                new = self._children(rng, {*taken, *(one["genome"] for one in found)}, budget, count - len(found))
                tries = 0 if new else tries
                found += new
        least = 1 if self._history.feasible(self._feasible.budget_us) else count
        while len(found) < least:
            try:
                genome = self._feasible.random(rng, {*taken, *(one["genome"] for one in found)})
            except SpaceExhausted:
                if not found:
                    raise
                break
            found.append({"genome": genome.key(), "how": "random"})
        return found

    def _budget(self, rng: np.random.Generator) -> float:
        """One of the budgets."""
        return self._budgets[int(rng.integers(len(self._budgets)))] if len(self._budgets) > 1 else self._budgets[0]

    def _aim(self, rng: np.random.Generator, archive: Archive, budget_us: float) -> Aim:
        """At the best within the budget, or at the front below it."""
        if rng.random() < self._options.focus:
            return Aim(budget_us, budget_us)
        return Aim(budget_us, float(rng.uniform(archive.latency_us.min(), budget_us)))

    def _children(
        self, rng: np.random.Generator, taken: set[str], budget_us: float, count: int
    ) -> list[dict[str, Any]]:
        """The critic's choice among the new children of a few bases, no more than two of a base when several are asked.

        Empty when no child is new and fits.
        """
        options, axes = self._options, self.mutator.axes
        archive = self._history.feasible(self._feasible.budget_us)
        aim = self._aim(rng, archive, budget_us)
        bases = max(options.bases, -(-count // _OF_ONE_BASE))
        families = self._families(rng, archive, aim, bases, max(8, options.bases * options.children // bases))
        born = [(family, child) for family in families for child in range(len(family.children))]
        indices = np.concatenate([one.children.indices for one in families])
        new = np.sort(np.unique(indices, axis=0, return_index=True)[1])
        if families[0].whole:
            new = new[(axes.genomes(indices[new]).columns[:, :, KEEP] == 100).all(axis=1)]
        if not len(new):
            return []
        genomes = axes.genomes(indices[new])
        latency_us = np.asarray(self._feasible.predict_many(genomes))
        fits = np.flatnonzero(latency_us <= aim.target_us)
        if options.critic and self._judge.knows_enough(archive) and len(fits):
            order = np.argsort(-self._judge.improvement(Genomes(genomes.columns[fits]), latency_us[fits], archive, aim))
        else:
            order = rng.permutation(len(fits))
        found: list[dict[str, Any]] = []
        used: Counter[int] = Counter()
        for at in fits[order].tolist():
            family, child = born[new[at]]
            key = genomes[at].key()
            if key in taken or used[id(family)] == _OF_ONE_BASE:
                continue
            used[id(family)] += 1
            found.append(
                {
                    "genome": key,
                    "how": "crossover" if len(family.parents) > 1 else "mutation",
                    "parents": [one.genome.key() for one in family.parents],
                    "base": axes.genome(family.situation.base).key(),
                    "target_us": aim.target_us,
                    "moves": [
                        [move.axis, move.index, move.filling] for move in self.mutator.moves(family.children, child)
                    ],
                }
            )
            if len(found) == count:
                break
        return found

    def _families(
        self, rng: np.random.Generator, archive: Archive, aim: Aim, count: int, children: int
    ) -> list[Family]:
        """So many bases with so many children of each, as the policy draws them."""
        inside = archive.within(aim.target_us)
        whole = [one for one in inside if one.genome.keeps_all_tokens]
        among_whole = rng.random() < self._options.whole and bool(whole)
        shape, parents = _shape(inside, aim.target_us), self._population(Archive(whole) if among_whole else inside, aim)
        bases = self._bases(rng, parents, aim.target_us, count)
        situations = self.mutator.situations(
            [(base, aim.target_us, shape) for base, _ in bases], opinion=self._opinion(archive)
        )
        free = [len(origin) == 1 or rng.random() < 0.5 for _, origin in bases]
        drawn = self.mutator.propose(situations, children, rng, free=free)
        origins = [origin for _, origin in bases]
        return [Family(*one, among_whole) for one in zip(situations, drawn, origins, strict=True)]

    def _opinion(self, archive: Sequence[Evaluated]) -> Opinion | None:
        """What the critic expects of genomes; None before it knows enough."""
        if not (self._options.critic and self._judge.knows_enough(archive)):
            return None
        return lambda genomes: self._judge.standing(genomes, archive)

    def _population(self, inside: Archive, aim: Aim) -> list[Evaluated]:
        """Parents among those within the target, the best by score first: the top ones and the whole front."""
        scores = self._reward.scores(inside, budget_us=aim.target_us)
        on_front = nondominated(inside.quality, inside.latency_us)
        order = np.argsort(-scores, kind="stable")
        return [inside[at] for rank, at in enumerate(order) if rank < self._population_size or on_front[at]]

    def _bases(
        self, rng: np.random.Generator, parents: Sequence[Evaluated], target_us: float, count: int
    ) -> list[tuple[Genome, list[Evaluated]]]:
        """Parents by tournament, or crossovers of two within the target; each with those it comes from.

        Crossover is uniform, repaired toward the cheaper parent until it fits: the genes taken from the dearer parent
        are laid on the cheaper one in random order, and the longest feasible beginning is the crossover, so that one
        call to the predictor repairs all. One that equals a parent is that parent.
        """
        found: list[tuple[Genome, list[Evaluated]]] = []
        paths: dict[int, NDArray[np.int64]] = {}
        for at in range(count):
            first = parents[self._winner(rng, len(parents))]
            found.append((first.genome, [first]))
            if len(parents) > 1 and rng.random() < self._options.crossover:
                second = parents[self._winner(rng, len(parents))]
                path = self._crossing(rng, *sorted((first, second), key=lambda one: one.latency_us))
                if len(path):
                    paths[at] = path
                    found[at] = first.genome, [first, second]
        if not paths:
            return found
        genomes = self.mutator.axes.genomes(np.concatenate(list(paths.values())))
        ends = np.cumsum([len(path) for path in paths.values()])
        fits = np.split(self._feasible.fits(genomes, limit_us=target_us), ends[:-1])
        for at, end, fitting in zip(paths, ends, fits, strict=True):
            base, origin = found[at]
            last = np.flatnonzero(fitting)
            crossed = genomes[int(end - len(fitting) + last[-1])] if len(last) else None
            if crossed is None or any(crossed == one.genome for one in origin):
                found[at] = base, origin[:1]
            else:
                found[at] = crossed, origin
        return found

    def _winner(self, rng: np.random.Generator, count: int) -> int:
        """Position of the best of a tournament; parents are sorted, so the lowest position wins."""
        return int(rng.integers(count, size=self._options.tournament).min())

    def _crossing(self, rng: np.random.Generator, cheap: Evaluated, dear: Evaluated) -> NDArray[np.int64]:
        """(steps, axes) grid indices on the way from the cheaper parent to the crossover."""
        axes = self.mutator.axes
        indices, other = axes.indices(cheap.genome), axes.indices(dear.genome)
        differing = np.flatnonzero(indices != other)
        chosen = rng.permutation(differing[rng.random(len(differing)) < 0.5])
        path = np.repeat(indices[None], len(chosen), axis=0)
        for step, axis in enumerate(chosen):
            path[step:, axis] = other[axis]
        return path


def _shape(inside: Archive, budget_us: float) -> np.ndarray:
    """Of the front of what lies within a budget."""
    return front_shape(inside.front.quality, inside.front.latency_us, budget_us=budget_us)


def _in_turn(seeds: Sequence[Sequence[Genome]]) -> tuple[Genome, ...]:
    """One of each, again and again, so that a short search has some of all."""
    turns = itertools.zip_longest(*seeds)
    return tuple(dict.fromkeys(genome for turn in turns for genome in turn if genome is not None))


def stop_quietly(study: optuna.Study) -> None:
    """Stop ``study.optimize``; outside of it there is nothing to stop, and the next ask says so."""
    try:
        study.stop()
    except RuntimeError:
        return
