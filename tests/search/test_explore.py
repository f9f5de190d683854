from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

from sparsefront.search.explore import explore, fitness_pool, largest_only, space_of, sweep_uniform
from sparsefront.search.feasible import ENUMERABLE
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.pool import SerialPool
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.settings import SAMPLERS, SearchSettings
from sparsefront.spaces import Genome, InputError, Widths


@pytest.fixture(scope="module")
def pool(prepared: Prepared) -> SerialPool:
    return SerialPool(Fitness(FitnessData.of(prepared.supernet, prepared.rows["valid"].stratified(60, 0), "auc")))


def test_one_worker_is_this_process_on_one_thread_and_needs_no_ray(prepared: Prepared) -> None:
    settings = SearchSettings.check(budget_us=1000, workers=1, search_rows=60)
    genome, before, started = prepared.backbone.config.genome, torch.get_num_threads(), ray.is_initialized()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="interrupted"), fitness_pool(prepared, settings) as pool:
            assert pool.size == 1 and torch.get_num_threads() == 1 and ray.is_initialized() == started
            pool.submit(genome)
            outcome = pool.next_done().outcome
            assert isinstance(outcome, dict) and 0 < outcome["quality"] <= 1
            raise RuntimeError("interrupted")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_searches_within_the_budget_and_goes_on(
    sampler: str, prepared: Prepared, pool: SerialPool, tmp_path: Path
) -> None:
    budget_us = 0.8 * prepared.measured.dense_us
    settings = SearchSettings.check(budget_us=budget_us, sampler=sampler, evaluations=6)
    report, found = explore(tmp_path, prepared, settings, (budget_us,), pool=pool, reporter=Silent())
    assert report.evaluations == len(found) == len({one.genome for one in found}) == 6
    assert all(one.latency_us <= budget_us for one in found)
    more = settings.model_copy(update={"evaluations": 8})
    report, longer = explore(tmp_path, prepared, more, (budget_us,), pool=pool, reporter=Silent())
    assert report.evaluations == 2 and longer[:6] == found


@pytest.mark.parametrize("space", ["weights", "tokens"])
def test_a_space_is_searched_in_its_own_fields_only(
    space: str, prepared: Prepared, pool: SerialPool, tmp_path: Path
) -> None:
    budget_us = 10 * prepared.measured.dense_us
    settings = SearchSettings.check(budget_us=budget_us, space=space, evaluations=4)
    _, found = explore(tmp_path, prepared, settings, (budget_us,), pool=pool, reporter=Silent())
    for one in found:
        if space == "weights":
            assert set(one.genome.column("keep_percent")) == {100}
        else:
            assert set(one.genome.column("heads")) == {2} and set(one.genome.column("ffn_units")) == {64}


def test_the_uniform_sweep_takes_all_or_the_largest(prepared: Prepared, pool: SerialPool, tmp_path: Path) -> None:
    budget_us = 0.8 * prepared.measured.dense_us
    found = {}
    for which in ("all", "largest"):
        settings = SearchSettings.check(budget_us=budget_us, uniform=which, keep_percents=(100, 50))
        folder = tmp_path / which
        folder.mkdir()
        for _ in range(2):  # the second call has nothing left to do
            swept = sweep_uniform(folder, prepared, settings, (budget_us,), pool=pool, reporter=Silent())
            found[which] = {one.genome for one in swept}
            assert len(swept) == len(found[which])
    space = space_of(prepared.backbone.widths, settings, "uniform")
    within = {genome for genome in space if prepared.measured.table.predict(genome) <= budget_us}
    assert found["all"] == within
    assert found["largest"] == set(largest_only(tuple(within))) and 0 < len(found["largest"]) < len(within)


def test_the_largest_are_those_that_nothing_exceeds() -> None:
    triples = [(0, 64, 100), (1, 64, 50), (1, 32, 100), (1, 32, 50), (0, 32, 100), (0, 64, 50), (2, 0, 50)]
    genomes = [Genome.from_columns(heads=[h, h], ffn_units=[f, f], keep_percent=[k, 100]) for h, f, k in triples]
    assert set(largest_only(genomes)) == {genomes[0], genomes[1], genomes[2], genomes[6]}
    assert largest_only([]) == ()


def test_of_the_largest_more_behaviours_or_heads_for_features_make_up_for_less_of_something_else() -> None:
    values = [(64, 2, 9), (64, 1, 9), (32, 3, 9), (64, 2, 50), (32, 2, 50), (96, 0, 4)]
    genomes = [
        Genome.from_columns([1, 1], [ffn] * 2, [50, 100], feature_heads=[reading] * 2, behaviours=[newest, 0])
        for ffn, reading, newest in values
    ]
    assert largest_only(genomes) == (genomes[2], genomes[3], genomes[5])


def test_the_uniform_genomes_of_a_real_backbone_with_features_and_histories_can_be_listed() -> None:
    widths = Widths(layers=3, heads=12, ffn_units=1536, feature_heads=3, behaviours=50)
    assert space_of(widths, SearchSettings(), "uniform").size <= ENUMERABLE


def test_a_granule_that_does_not_fit_is_bad_input() -> None:
    with pytest.raises(InputError, match="head_granule must be between 1 and 2, got 3"):
        space_of(Widths(layers=2, heads=2, ffn_units=64), SearchSettings(head_granule=3))
    space = space_of(Widths(layers=2, heads=4, ffn_units=64), SearchSettings(head_granule=2, ffn_granule=32))
    assert space.choices["heads"][0] == (0, 2, 4) and space.choices["ffn_units"][0] == (0, 32, 64)
