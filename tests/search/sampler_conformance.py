"""What every sampler of this project must do: subclass, give the fixtures, inherit the tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from tests.search.landscape import Landscape

from sparsefront.search.feasible import FeasibleSpace, SpaceExhausted
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome

MakeSampler = Callable[[Landscape, int], BaseSampler]
DIRECTIONS = [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]


def proposed(study: optuna.Study, landscape: Landscape) -> list[Genome]:
    return [landscape.space.from_params(trial.params) for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def evaluate(study: optuna.Study, landscape: Landscape, count: int) -> None:
    for _ in range(count):
        trial = study.ask(dict(landscape.space.distributions()))
        genome = landscape.space.from_params(trial.params)
        study.tell(trial, [landscape.quality(genome), float(landscape.predict_many([genome])[0])])


class SamplerConformance:
    """Subclasses define the fixtures ``make_sampler`` and ``landscape`` (with at least 60 feasible genomes)."""

    @pytest.fixture
    def make_sampler(self) -> MakeSampler:
        raise NotImplementedError

    @pytest.fixture
    def landscape(self) -> Landscape:
        return Landscape()

    @pytest.fixture
    def small(self) -> Landscape:
        """A space that can be exhausted."""
        return Landscape(preset="uniform", budget=0.15)

    def study(self, sampler: BaseSampler) -> optuna.Study:
        return optuna.create_study(directions=DIRECTIONS, sampler=sampler)

    def test_proposals_are_in_the_space_within_the_budget_and_never_repeated(
        self, make_sampler: MakeSampler, landscape: Landscape
    ) -> None:
        study = self.study(make_sampler(landscape, 0))
        evaluate(study, landscape, 60)
        genomes = proposed(study, landscape)
        assert len(genomes) == len(set(genomes)) == 60
        assert all(landscape.space.contains(genome) for genome in genomes)
        assert landscape.predict_many(genomes).max() <= landscape.budget_us

    def test_asks_in_flight_are_never_repeated(self, make_sampler: MakeSampler, landscape: Landscape) -> None:
        study = self.study(make_sampler(landscape, 0))
        trials = [study.ask(dict(landscape.space.distributions())) for _ in range(50)]
        assert len({landscape.space.from_params(trial.params) for trial in trials}) == 50

    def test_same_seed_same_proposals(self, make_sampler: MakeSampler, landscape: Landscape) -> None:
        studies = [self.study(make_sampler(landscape, 3)) for _ in range(2)]
        for study in studies:
            evaluate(study, landscape, 40)
        assert proposed(studies[0], landscape) == proposed(studies[1], landscape)

    def test_a_resumed_study_proposes_what_an_uninterrupted_one_does(
        self, make_sampler: MakeSampler, landscape: Landscape, tmp_path: Path
    ) -> None:
        through = self.study(make_sampler(landscape, 1))
        evaluate(through, landscape, 40)
        for count in (28, 12):
            study = open_study(tmp_path / "study.db", name="search", sampler=make_sampler(landscape, 1))
            evaluate(study, landscape, count)
        assert proposed(study, landscape) == proposed(through, landscape)

    def test_enqueued_trials_come_first_and_are_not_proposed_again(
        self, make_sampler: MakeSampler, landscape: Landscape
    ) -> None:
        feasible = FeasibleSpace(
            space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us
        )
        study = self.study(make_sampler(landscape, 0))
        smallest = feasible.space.smallest
        study.enqueue_trial(dict(feasible.space.to_params(smallest)))
        evaluate(study, landscape, 40)
        assert proposed(study, landscape)[0] == smallest
        assert proposed(study, landscape).count(smallest) == 1

    def test_plain_optimize_with_a_parameter_of_its_own(self, make_sampler: MakeSampler, landscape: Landscape) -> None:
        def objective(trial: optuna.Trial) -> tuple[float, float]:
            params = {
                name: trial.suggest_int(name, 0, distribution.high)
                for name, distribution in landscape.space.distributions().items()
            }
            extra = trial.suggest_float("extra", 0, 1)
            genome = landscape.space.from_params(params)
            return landscape.quality(genome) + 0 * extra, float(landscape.predict_many([genome])[0])

        study = self.study(make_sampler(landscape, 0))
        study.optimize(objective, n_trials=20)
        genomes = proposed(study, landscape)
        assert len(set(genomes)) == 20
        assert landscape.predict_many(genomes).max() <= landscape.budget_us

    def test_the_whole_space_once_then_stop(self, make_sampler: MakeSampler, small: Landscape) -> None:
        def objective(trial: optuna.Trial) -> tuple[float, float]:
            params = {
                name: trial.suggest_int(name, 0, distribution.high)
                for name, distribution in small.space.distributions().items()
            }
            genome = small.space.from_params(params)
            return small.quality(genome), float(small.predict_many([genome])[0])

        latencies = small.predict_many(list(small.space))
        feasible = {g for g, us in zip(small.space, latencies, strict=True) if us <= small.budget_us}
        assert 10 < len(feasible) < 200
        study = self.study(make_sampler(small, 0))
        stopped: list[FrozenTrial] = []
        study.optimize(objective, n_trials=400, callbacks=[lambda _, trial: stopped.append(trial)])
        assert set(proposed(study, small)) == feasible
        assert len(stopped) == len(feasible)
        with pytest.raises(SpaceExhausted):
            study.ask(dict(small.space.distributions()))
        assert not study.get_trials(states=(TrialState.RUNNING,))
