from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from numpy.typing import NDArray
from optuna.trial import TrialState
from tests.search.landscape import Landscape
from tests.search.test_loop import ShuffledPool, search, study_of

from sparsefront.search.baselines import RandomSampler
from sparsefront.search.front import GENOME_ATTR
from sparsefront.search.loop import LoopReport, search_loop
from sparsefront.search.pool import SerialPool
from sparsefront.search.trials import Proposal, Running, end_trial, is_running, start_trial
from sparsefront.spaces import Genome, InputError, SearchSpace, Widths


@pytest.fixture
def landscape() -> Landscape:
    return Landscape()


class Proposing(optuna.samplers.RandomSampler):
    """Proposes what it is given, however wrong."""

    def __init__(self, genomes: list[Genome]) -> None:
        super().__init__(seed=0)
        self.genomes, self.counts = genomes, list[int]()

    def proposals(self, study: optuna.Study, count: int) -> list[Proposal]:
        self.counts.append(count)
        taken, self.genomes = self.genomes[:count], self.genomes[count:]
        return [Proposal(genome, {"from": "a list"}) for genome in taken]


def test_genomes_are_asked_several_at_a_time(landscape: Landscape) -> None:
    small = list(landscape.space.neighbours(landscape.space.smallest))
    sampler = Proposing([*small[:8], small[0], landscape.space.largest, *small[8:11]])
    study = study_of(sampler)
    pool = ShuffledPool(landscape.fitness)
    report = search_loop(
        study, landscape.space, pool, predict_many=landscape.predict_many, budget_us=landscape.budget_us,
        evaluations=11, ahead=4,
    )  # fmt: skip
    assert sampler.counts[0] == 7 and pool.most == 3
    assert (report.complete, report.duplicates_avoided, report.rejected_infeasible) == (11, 1, 1)
    done = study.get_trials(states=(TrialState.COMPLETE,))
    assert {trial.user_attrs[GENOME_ATTR] for trial in done} == {one.key() for one in small[:11]}
    assert all(landscape.space.from_params(trial.params).key() == trial.user_attrs[GENOME_ATTR] for trial in done)
    assert all(trial.user_attrs["from"] == "a list" for trial in study.trials)


def test_what_is_queued_comes_before_what_a_sampler_proposes(landscape: Landscape) -> None:
    small = list(landscape.space.neighbours(landscape.space.smallest))
    study = study_of(Proposing(small[1:]))
    params = landscape.space.to_params(small[0])
    study.enqueue_trial({name: params[name] for name in landscape.space.distributions()})
    search(study, landscape, 3)
    assert [trial.user_attrs[GENOME_ATTR] for trial in study.trials] == [one.key() for one in small[:3]]


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (
            {"layers": 3},
            r"another space than 'joint': its trial \d+ has a parameter 'layer.*', which this one does not",
        ),
        ({"granule": 32}, r"its trial \d+ has .*ffn_units.* = IntDistribution.*, expected IntDistribution"),
        ({"keep": (100, 60)}, r"its trial \d+ has genome h.*, which its parameters make h"),
    ],
)
def test_a_study_of_another_space_is_refused_by_what_differs(other: dict[str, Any], line: str) -> None:
    def space_of(layers: int = 2, granule: int = 16, keep: tuple[int, ...] = (100, 50)) -> SearchSpace:
        widths = Widths(layers=layers, heads=2, ffn_units=64)
        return SearchSpace.preset("joint", widths=widths, ffn_granule=granule, keep_percents=keep)

    def searched(space: SearchSpace, study: optuna.Study) -> LoopReport:
        study.sampler = RandomSampler(space=space, predict_many=costs, budget_us=1e9, seed=0)
        pool = SerialPool(lambda genome: {"quality": 0.5})
        return search_loop(study, space, pool, predict_many=costs, budget_us=1e9, evaluations=4)

    def costs(genomes: Sequence[Genome]) -> NDArray[np.float64]:
        return np.array([float(sum(one.column("ffn_units"))) for one in genomes])

    study = optuna.create_study(directions=["maximize", "minimize"])
    assert searched(space_of(**other), study).complete == 4
    before = len(study.trials)
    with pytest.raises(InputError, match=line):
        searched(space_of(), study)
    assert len(study.trials) == before


def test_a_sampler_that_proposes_outside_the_space_is_refused(landscape: Landscape) -> None:
    wrong = Genome.parse("h1.f1.k1.00-" * (landscape.space.widths.layers - 1) + "h1.f1.k1.00")
    assert not landscape.space.contains(wrong)
    study = study_of(Proposing([wrong]))
    with pytest.raises(InputError, match=r"the sampler Proposing proposed h1.f1.*not in space"):
        search(study, landscape, 3)
    assert not study.trials


def test_a_trial_whose_sampler_fails_when_told_has_its_result_all_the_same(landscape: Landscape) -> None:
    class Failing(optuna.samplers.RandomSampler):
        def after_trial(self, *_: Any) -> None:
            raise RuntimeError("no")

    study = study_of(Failing())
    running: Running = start_trial(study, landscape.space, Proposal(landscape.space.smallest, {}), 10.0)
    assert is_running(study, running)
    with pytest.raises(RuntimeError, match="no"):
        end_trial(study, running, TrialState.COMPLETE, [0.5, 10.0])
    assert not is_running(study, running)
    assert study.trials[0].values == [0.5, 10.0]
