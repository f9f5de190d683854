"""The budgets of a run in microseconds, and whether anything can be searched within them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome, InputError

# Shares of the budget, each with room for the error of the next, surer look at a genome: what the search may propose by
# the table's word, what a candidate may take when it is measured before it is trained; the finished export has all.
AIM_SHARE = 0.97
SCREEN_SHARE = 0.98


def check_asked(settings: SearchSettings) -> None:
    """Refuse settings without a budget or with both kinds of it, before anything is measured."""
    if (settings.budget_us is None) == (settings.budget_share is None):
        raise InputError("give a budget: either --budget-us N or --budget-share S (of the dense model's latency)")
    for share in _several(settings.budget_share):
        if share >= 1:
            raise InputError(
                f"--budget-share {share:g}: at a share of 1 or more the dense model is within the budget, "
                "so nothing needs pruning"
            )


def budgets_of(settings: SearchSettings, dense_us: float, lookup_us: float = 0.0) -> tuple[float, ...]:
    """The microseconds that models may take, each once, the smallest first.

    Args:
        settings: what is asked.
        dense_us: latency of the dense model.
        lookup_us: what is spent before a model is called; it is part of what is asked, and a share is one of both.

    Raises:
        InputError: a budget of which nothing is left for a model.
    """
    check_asked(settings)
    whole_us = dense_us + lookup_us
    asked = {*_several(settings.budget_us), *(share * whole_us for share in _several(settings.budget_share))}
    if (least := min(asked)) <= lookup_us:
        raise InputError(f"budget of {least:.4g} us: to look the behaviours up alone takes {lookup_us:.4g} us here")
    return tuple(sorted(one - lookup_us for one in asked))


def _several(asked: float | Sequence[float] | None) -> tuple[float, ...]:
    if asked is None:
        return ()
    return (asked,) if isinstance(asked, int | float) else tuple(asked)


def feasible_budgets(
    budgets_us: Sequence[float],
    *,
    dense_us: float,
    smallest: Genome,
    smallest_us: Callable[[float], float],
    skipped: Callable[[str], None] | None = None,
) -> tuple[float, ...]:
    """The budgets that something, but not the dense model, meets.

    Args:
        budgets_us: what is asked.
        dense_us: measured latency of the dense model.
        smallest: cheapest genome of the space.
        smallest_us: budget -> its latency as predicted for that budget.
        skipped: told about every budget that is left out; without it the first such budget is refused.

    Raises:
        InputError: with what the smallest genome or the dense model costs; also when no budget is left.
    """
    kept = []
    for budget_us in budgets_us:
        try:
            check_budget(budget_us, dense_us=dense_us, smallest=smallest, smallest_us=smallest_us(budget_us))
            kept.append(budget_us)
        except InputError as error:
            if len(budgets_us) == 1:
                raise
            if skipped is None:
                raise InputError(f"{error}; --skip-infeasible goes on with the other budgets") from error
            skipped(f"left out: {error}")
    if not kept:
        raise InputError("none of the budgets can be searched for: " + ", ".join(f"{one:.4g} us" for one in budgets_us))
    return tuple(kept)


def check_budget(budget_us: float, *, dense_us: float, smallest: Genome, smallest_us: float) -> None:
    """Refuse a budget that nothing meets with the search's room below it, or that the dense model meets.

    Args:
        budget_us: what is asked.
        dense_us: measured latency of the dense model.
        smallest: cheapest genome of the space.
        smallest_us: its predicted latency.

    Raises:
        InputError: with what the smallest genome or the dense model costs.
    """
    if budget_us >= dense_us:
        raise InputError(
            f"budget of {budget_us:.4g} us: the dense model takes {dense_us:.4g} us here, so nothing needs pruning"
        )
    if AIM_SHARE * budget_us < smallest_us:
        raise InputError(
            f"budget of {budget_us:.4g} us: even the smallest genome of the space ({smallest}) costs "
            f"{smallest_us:.4g} us of the dense model's {dense_us:.4g} us, and {1 - AIM_SHARE:.0%} of the budget "
            "stay free for the table's error"
        )
