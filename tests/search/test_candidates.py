from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import pytest

from sparsefront.latency.runtime import Feeds, Logits
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.search.candidates import Screened, apart, choose, screen
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.front import Evaluated
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.spaces import Genome, InputError

SMALL = Genome.from_columns(heads=[1, 0], ffn_units=[16, 16], keep_percent=[50, 100])
EMPTY = Genome.uniform(2, heads=0, ffn_units=0)


def candidates_of(*genomes: Genome) -> list[Evaluated]:
    return [Evaluated(one, 0.9 - number / 10, 1.0, number) for number, one in enumerate(genomes)]


class Paced:
    """A runtime whose calls take a known time, as a busy machine would hide what so small models differ by."""

    def __init__(self, us_of: Mapping[Genome, float], others_us: float) -> None:
        self.us_of, self.others_us = us_of, others_us

    def load(self, config: CrossEncoderConfig) -> PacedSession:
        return PacedSession(self.us_of.get(config.genome, self.others_us))


class PacedSession:
    def __init__(self, us: float) -> None:
        self.us = us

    def run(self, feeds: Feeds) -> Logits:
        end = time.perf_counter() + 1e-6 * self.us
        while time.perf_counter() < end:
            pass
        return np.zeros(1, np.float32)


def test_screening_keeps_the_order_and_passes_what_is_measured_over_the_budget(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = prepared.teacher.genome
    usual_us = prepared.measured.reference_in(prepared.settings.serving(), prepared.backbone).usual_us
    paced = Paced({SMALL: usual_us / 4, EMPTY: usual_us / 8}, others_us=usual_us)
    monkeypatch.setattr(PrepareSettings, "serving", lambda _: paced)
    candidates = candidates_of(dense, SMALL, EMPTY)
    chosen = screen(candidates, prepared, budget_us=usual_us / 2, wanted=2, reporter=Silent())
    assert chosen == [Screened(candidates[1], True), Screened(candidates[2], True)]
    (first,) = screen(candidates, prepared, budget_us=1e9, wanted=1, reporter=Silent())
    assert first.candidate == candidates[0]
    with pytest.raises(InputError, match=r"none of 3 candidates was measured within 0 us \(the fastest took \d+ us\)"):
        screen(candidates, prepared, budget_us=0.1, wanted=1, reporter=Silent())


def test_a_slow_minute_refuses_nobody_and_somebody_is_within_the_budget_even_then(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual_us = prepared.measured.reference_in(prepared.settings.serving(), prepared.backbone).usual_us
    twice_as_slow = Paced({SMALL: usual_us, EMPTY: usual_us / 4}, others_us=2 * usual_us)
    monkeypatch.setattr(PrepareSettings, "serving", lambda _: twice_as_slow)
    candidates, budget_us = candidates_of(prepared.teacher.genome, SMALL, EMPTY), 0.6 * usual_us
    chosen = screen(candidates, prepared, budget_us=budget_us, wanted=1, reporter=Silent())
    assert chosen == [Screened(candidates[1], False), Screened(candidates[2], True)]
    assert chosen == screen(candidates, prepared, budget_us=budget_us, wanted=2, reporter=Silent())
    settings = SearchSettings(budget_us=budget_us, finalists=2)
    assert choose(candidates, prepared, settings, budget_us=budget_us, reporter=Silent()) == candidates[1:]
    single = settings.model_copy(update={"finalists": 1})
    assert choose(candidates, prepared, single, budget_us=budget_us, reporter=Silent()) == candidates[2:]


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


def test_other_histories_are_no_copies_and_what_is_far_behind_comes_last() -> None:
    genomes = [Genome.parse(key) for key in ("h2.f64.k1.00.b9-h2.f64.k1.00", "h2.f64.k1.00.b9-h2.f32.k1.00")]
    genomes += [genomes[0].replace(0, "behaviours", 5), Genome.parse("h0.f0.k1.00.b9-h0.f0.k1.00")]
    candidates = [
        Evaluated(genome, quality, 1.0, number)
        for number, (genome, quality) in enumerate(zip(genomes, (0.80, 0.79, 0.78, 0.60), strict=True))
    ]
    assert [one.number for one in apart(candidates)] == [0, 2, 1, 3]
    near = [*candidates[:3], Evaluated(genomes[3], 0.775, 1.0, 3)]
    assert [one.number for one in apart(near)] == [0, 2, 3, 1]


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
