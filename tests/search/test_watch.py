from __future__ import annotations

from collections.abc import Mapping
from io import StringIO

import optuna
import pytest
from rich.console import Console
from tests.search.landscape import Landscape

from sparsefront.search.front import Evaluated
from sparsefront.search.loop import LoopReport, search_loop
from sparsefront.search.pool import SerialPool
from sparsefront.search.progress import Rich
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.studies import open_study
from sparsefront.search.watch import SECONDS, Watch
from sparsefront.spaces import Genome


def one(number: int, quality: float, latency_us: float) -> Evaluated:
    return Evaluated(Genome.uniform(1, heads=number, ffn_units=0), quality, latency_us, number)


def test_facts_of_a_real_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.search.watch.SECONDS", 0.0)
    landscape = Landscape()
    budgets_us = (0.5 * landscape.budget_us, landscape.budget_us)
    sampler = ReinforcedEvolutionSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=budgets_us, seed=0
    )
    study = open_study(optuna.storages.InMemoryStorage(), name="search", sampler=sampler)
    watch = Watch(budgets_us, [], sampler)
    seen: list[tuple[int, Mapping[str, str]]] = []
    search_loop(
        study,
        landscape.space,
        SerialPool(landscape.fitness),
        predict_many=landscape.predict_many,
        budget_us=landscape.budget_us,
        evaluations=40,
        on_result=watch.add,
        on_progress=lambda report: seen.append((report.complete, watch.facts(report))),
    )
    assert [count for count, _ in seen] == list(range(1, 41))
    facts = seen[-1][1]
    values = [(trial.values[0], trial.values[1]) for trial in study.trials if trial.values]
    for budget_us in budgets_us:
        best = max(quality for quality, us in values if us <= budget_us)
        assert facts[f"best in {budget_us:.0f} us"] == f"{best:.4f}"
    assert float(facts["evaluations/s"]) > 0
    assert 0 < float(facts["policy entropy"]) <= 1
    assert facts["duplicates avoided"] == "0" and "failed" not in facts
    volumes = [float(known["hypervolume"]) for _, known in seen]
    assert volumes[0] == 0 and 0 < volumes[-1] <= 1


def test_hypervolume_is_a_share_of_the_box() -> None:
    watch = Watch([100.0], [one(0, 0.5, 100.0), one(1, 0.7, 50.0)], optuna.samplers.RandomSampler())
    assert watch.hypervolume_share() == pytest.approx(0.5)
    assert Watch([100.0], [one(0, 0.5, 10.0)], optuna.samplers.RandomSampler()).hypervolume_share() == 0


def test_looks_are_rare(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("sparsefront.search.watch.time.monotonic", lambda: now[0])
    watch = Watch([100.0], [one(0, 0.5, 10.0)], optuna.samplers.RandomSampler())
    report = LoopReport(
        evaluations=1, complete=1, seconds=2.0, computing_seconds=1.0, sampler_ms=1.0, overhead_ms=1.0,
        rejected_infeasible=0, ended_early=4, duplicates_avoided=3, failed_attempts=0, failed=2, recovered=0,
        exhausted=False,
    )  # fmt: skip
    facts = watch.facts(report)
    assert (facts["failed"], facts["ended early"]) == ("2", "4")
    assert watch.facts(report) == {}
    now[0] = SECONDS
    assert watch.facts(report)["evaluations/s"] == "0.50"


def test_facts_are_drawn_below_the_bar() -> None:
    stream = StringIO()
    with Rich(Console(file=stream, force_terminal=True, width=120)).step("searching") as advance:
        advance(1, 2, {"best in 800 us": "0.7123"})
        advance(2, 2)
    shown = stream.getvalue()
    assert "searching" in shown and "best in 800 us" in shown and "0.7123" in shown
