from __future__ import annotations

import pytest

from sparsefront.search.candidates import apart, choose, screen
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.front import Evaluated
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome, InputError

SMALL = Genome.from_columns(heads=[1, 0], ffn_units=[16, 16], keep_percent=[50, 100])
EMPTY = Genome.uniform(2, heads=0, ffn_units=0)
TRIES = 4


def candidates_of(*genomes: Genome) -> list[Evaluated]:
    return [Evaluated(one, 0.9 - number / 10, 1.0, number) for number, one in enumerate(genomes)]


def test_screening_keeps_the_order_and_passes_what_is_measured_over_the_budget(prepared: Prepared) -> None:
    dense = prepared.teacher.genome
    serving = prepared.settings.serving()
    reference = prepared.measured.reference_in(serving, prepared.backbone)
    sessions = [serving.load(prepared.backbone.config.with_genome(one)) for one in (dense, SMALL)]
    candidates = candidates_of(dense, SMALL, EMPTY)
    for _ in range(TRIES):  # the machine may become faster or slower between the two measurements
        large, small = (reference.read(session) for session in sessions)
        budget_us = (large.value_us + small.value_us) / 2
        chosen = screen(candidates, prepared, budget_us=budget_us, wanted=2, reporter=Silent())
        if len(chosen) == 2:
            break
    assert [one.genome for one in chosen] == [SMALL, EMPTY]
    assert screen(candidates, prepared, budget_us=1e9, wanted=1, reporter=Silent()) == candidates[:1]
    with pytest.raises(InputError, match=r"none of 3 candidates was measured within 0 us \(the fastest took \d+ us\)"):
        screen(candidates, prepared, budget_us=0.1, wanted=1, reporter=Silent())


def test_near_copies_of_a_better_one_come_last() -> None:
    keys = (
        "h8.f512.k1.00-h4.f256.k0.50-h2.f128.k1.00-h2.f64.k1.00",
        "h8.f512.k1.00-h4.f256.k0.50-h2.f128.k1.00-h2.f32.k1.00",  # one value of twelve differs
        "h8.f512.k1.00-h4.f256.k0.50-h1.f128.k0.90-h2.f64.k1.00",  # two
        "h8.f512.k1.00-h4.f256.k0.50-h1.f128.k0.90-h2.f32.k1.00",  # three, but near the one before
        "h4.f512.k1.00-h4.f128.k0.50-h2.f128.k1.00-h1.f64.k1.00",
        "h4.f512.k1.00-h4.f128.k0.50-h2.f128.k1.00-h1.f32.k1.00",
    )
    candidates = candidates_of(*(Genome.parse(key) for key in keys))
    assert [one.number for one in apart(candidates)] == [0, 3, 4, 1, 2, 5]
    assert apart(candidates[:1]) == candidates[:1] and apart([]) == []


def test_with_all_rows_searched_the_best_by_quality_are_chosen_dominated_or_not(prepared: Prepared) -> None:
    dominated = Evaluated(SMALL, 0.8, 50.0, 0)
    evaluated = [Evaluated(EMPTY, 0.5, 10.0, 1), dominated, Evaluated(prepared.teacher.genome, 0.9, 40.0, 2)]
    settings = SearchSettings(budget_us=1e9, finalists=2)
    chosen = choose(evaluated, prepared, settings, budget_us=1e9, reporter=Silent())
    assert [one.quality for one in chosen] == [0.9, 0.8]


def test_scores_on_a_part_of_the_rows_are_replaced_by_those_on_all(prepared: Prepared) -> None:
    evaluated = candidates_of(EMPTY, SMALL, prepared.teacher.genome)
    rows = prepared.rows["valid"]
    settings = SearchSettings(budget_us=1e9, finalists=2, search_rows=len(rows) - 1, workers=1)
    chosen = choose(evaluated, prepared, settings, budget_us=1e9, reporter=Silent())
    fitness = Fitness(FitnessData.of(prepared.supernet, rows, "auc"))
    true = {one.genome: fitness(one.genome)["quality"] for one in evaluated}
    best = sorted(true, key=lambda genome: true[genome], reverse=True)[:2]
    assert [(one.genome, one.quality) for one in chosen] == [(genome, true[genome]) for genome in best]
