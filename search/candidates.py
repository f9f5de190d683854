"""Candidates: which of the evaluated genomes are worth fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

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
    so near copies come behind genomes that differ. Where the search has scored a part of the validation rows, the best
    of many scores is partly a lucky one; so the first ``RESCORED`` are scored again on all of them.
    """
    within = [one for one in evaluated if one.latency_us <= budget_us]
    by_quality = apart(sorted(within, key=lambda one: one.quality, reverse=True))
    partly = settings.search_rows < len(prepared.rows["valid"])
    wanted = max(settings.finalists, RESCORED) if partly else settings.finalists
    chosen = screen(by_quality, prepared, budget_us=budget_us, wanted=wanted, reporter=reporter)
    if partly:
        chosen = rescored(chosen, prepared, settings, reporter=reporter, address=address)
    return chosen[: settings.finalists]


def apart(candidates: Sequence[Evaluated]) -> list[Evaluated]:
    """The candidates, best first, but those behind all others that are near copies of a better one."""
    columns = Genomes.of([one.genome for one in candidates]).columns if candidates else np.zeros((0, 1, 1))
    columns = columns[:, :, columns.any(axis=(0, 1))]  # features have no heads in a model of text alone
    least = APART_SHARE * columns[0].size if candidates else 0
    first = list[int]()
    for number, own in enumerate(columns):
        if all((own != columns[other]).sum() >= least for other in first):
            first.append(number)
    copies = sorted(set(range(len(candidates))) - set(first))
    return [candidates[number] for number in (*first, *copies)]


def screen(
    candidates: Sequence[Evaluated],
    prepared: Prepared,
    *,
    budget_us: float,
    wanted: int,
    reporter: Reporter,
) -> list[Evaluated]:
    """The first ``wanted`` candidates that the serving runtime, not only the table, finds within the budget.

    Time does not depend on the weights, so this is settled before anything is fine-tuned. A candidate that is too slow
    is measured again if the reference says that only the machine is, so that a slow minute refuses nobody. Room is left
    (``SCREEN_SHARE``) because the measurement that is reported is taken on the finished export.

    Raises:
        InputError: when no candidate is measured within the budget.
    """
    serving = prepared.settings.serving()
    reference = prepared.measured.reference_in(serving, prepared.backbone)
    config = with_few_words(prepared.backbone.config)
    limit_us = SCREEN_SHARE * budget_us
    chosen: list[Evaluated] = []
    fastest = float("inf")
    with reporter.step("measuring candidates") as advance:
        for candidate in candidates:
            session = serving.load(config.with_genome(candidate.genome))
            value_us = reference.read(session, visits=8).as_usual(reference.usual_us)
            if value_us <= GLANCE_ROOM * limit_us:  # most are refused at a glance
                value_us = reference.read_within(session, limit_us).value_us
            fastest = min(fastest, value_us)
            if value_us <= limit_us:
                chosen.append(candidate)
            advance(len(chosen), wanted)
            if len(chosen) == wanted:
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
