"""Candidates: which of the evaluated genomes are worth fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from sparsefront.latency.meter import with_few_words
from sparsefront.search.budget import SCREEN_SHARE
from sparsefront.search.explore import fitness_pool
from sparsefront.search.front import Evaluated
from sparsefront.search.pool import evaluate_all
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Reporter
from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import InputError
from sparsefront.spaces.genomes import Genomes

GLANCE_ROOM = 1.05
RESCORED = 8
APART_SHARE = 0.25
"""Of their widths and keep shares, in which candidates differ that are more than one and the same."""


@dataclass(frozen=True)
class Screened:
    """A candidate that is within the budget while the machine takes its usual time.

    Attributes:
        candidate: what the search found.
        even_now: whether it was measured within the budget as the machine is.
    """

    candidate: Evaluated
    even_now: bool


def choose(
    evaluated: Sequence[Evaluated],
    prepared: Prepared,
    settings: SearchSettings,
    *,
    budget_us: float,
    reporter: Reporter,
    address: str | None = None,
) -> list[Evaluated]:
    """The ``settings.finalists`` genomes to fine-tune, best first: measured within the budget, scored on all rows.

    A search ends among near copies of its best genome, and to fine-tune several of those is to ask one question again;
    so near copies come behind genomes that differ and are not far worse (:func:`apart`). Where the search has scored a
    part of the validation rows, the best of many scores is partly a lucky one; so the first ``RESCORED`` are scored
    again on all of them. On a machine that is slow just now the last one is within the budget even so, if any is: it
    stands in should the machine stay slow.
    """
    within = [one for one in evaluated if one.latency_us <= budget_us]
    by_quality = apart(sorted(within, key=lambda one: one.quality, reverse=True))
    partly = settings.search_rows < len(prepared.rows["valid"])
    wanted = max(settings.finalists, RESCORED) if partly else settings.finalists
    screened = screen(by_quality, prepared, budget_us=budget_us, wanted=wanted, reporter=reporter)
    chosen = [one.candidate for one in screened]
    if partly:
        chosen = rescored(chosen, prepared, settings, reporter=reporter, address=address)
    even_now = {one.candidate.number for one in screened if one.even_now}
    stand_in = [one for one in chosen if one.number in even_now][:1]
    if not set(stand_in) & set(chosen[: settings.finalists]):
        chosen = [*chosen[: settings.finalists - len(stand_in)], *stand_in]
    return chosen[: settings.finalists]


def apart(candidates: Sequence[Evaluated]) -> list[Evaluated]:
    """The candidates, best first, but near copies of a better one come behind those that differ from all such.

    Models of unlike histories are not copies, whatever else they have in common: which of them is better may show in
    fine-tuning alone. Last come those that are more than twice as far behind the best one as the median is: to be
    different is not enough.
    """
    if not candidates:
        return []
    columns = Genomes.of([one.genome for one in candidates]).columns
    columns = columns[:, :, columns.any(axis=(0, 1))]  # features have no heads in a model of text alone
    least = APART_SHARE * columns[0].size
    quality = np.array([one.quality for one in candidates])
    poor = quality < quality.max() - 2 * (quality.max() - np.median(quality))
    first = list[int]()
    for number in np.flatnonzero(~poor).tolist():
        behaviours = candidates[number].genome.behaviours
        alike = (other for other in first if candidates[other].genome.behaviours == behaviours)
        if all((columns[number] != columns[other]).sum() >= least for other in alike):
            first.append(number)
    copies = sorted(set(np.flatnonzero(~poor).tolist()) - set(first))
    return [candidates[number] for number in (*first, *copies, *np.flatnonzero(poor).tolist())]


def screen(
    candidates: Sequence[Evaluated],
    prepared: Prepared,
    *,
    budget_us: float,
    wanted: int,
    reporter: Reporter,
) -> list[Screened]:
    """The first ``wanted`` candidates that the serving runtime, not only the table, finds within the budget.

    Time does not depend on the weights, so this is settled before anything is fine-tuned. What counts is what a
    candidate would take if the reference beside it took its usual time: a slow minute refuses nobody, and nobody waits
    for its end. Where it refuses all of them, the first candidate that is within the budget even then comes last. Room
    is left (``SCREEN_SHARE``) because the measurement that is reported is taken on the finished export.

    Raises:
        InputError: when no candidate is measured within the budget.
    """
    serving = prepared.settings.serving()
    reference = prepared.measured.reference_in(serving, prepared.backbone)
    config = with_few_words(prepared.backbone.config)
    limit_us = SCREEN_SHARE * budget_us
    chosen: list[Screened] = []
    fastest, slowness = float("inf"), 1.0
    with reporter.step("measuring candidates") as advance:
        for candidate in candidates:
            full = len(chosen) >= wanted
            if full and candidate.latency_us * slowness > GLANCE_ROOM * limit_us:
                continue
            session = serving.load(config.with_genome(candidate.genome))
            reading = reference.read(session, visits=8)
            if reading.as_usual(reference.usual_us) <= GLANCE_ROOM * limit_us:  # most are refused at a glance
                reading = reference.read(session)
            slowness = reading.reference_us / reference.usual_us
            usual_us = reading.as_usual(reference.usual_us)
            fastest = min(fastest, usual_us)
            even_now = max(usual_us, reading.value_us) <= limit_us
            if even_now or (usual_us <= limit_us and not full):
                chosen.append(Screened(candidate, even_now))
            advance(min(len(chosen), wanted), wanted)
            if len(chosen) >= wanted and any(one.even_now for one in chosen):
                break
    if not chosen:
        raise InputError(
            f"none of {len(candidates)} candidates was measured within {budget_us:.0f} us "
            f"(the fastest took {fastest:.0f} us): is the machine busy? the same command tries again"
        )
    return chosen


def rescored(
    candidates: Sequence[Evaluated],
    prepared: Prepared,
    settings: SearchSettings,
    *,
    reporter: Reporter,
    address: str | None = None,
) -> list[Evaluated]:
    """The candidates with their quality on all validation rows, best first."""
    rows = prepared.rows["valid"]
    all_rows = settings.model_copy(update={"search_rows": len(rows)})
    with (
        reporter.step("scoring candidates on all validation rows") as advance,
        fitness_pool(prepared, all_rows, address=address) as pool,
    ):
        qualities = evaluate_all(pool, [one.genome for one in candidates], progress=advance)
    scored = [replace(one, quality=quality) for one, quality in zip(candidates, qualities, strict=True)]
    return sorted(scored, key=lambda one: one.quality, reverse=True)
