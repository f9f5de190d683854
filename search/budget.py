"""The budget of a run in microseconds, and whether anything can be searched within it."""

from __future__ import annotations

from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome, InputError

# Shares of the budget, each with room for the error of the next, surer look at a genome: what the search may propose by
# the table's word, what a candidate may take when it is measured before it is trained; the finished export has all.
AIM_SHARE = 0.97
SCREEN_SHARE = 0.98


def check_one_budget(settings: SearchSettings) -> None:
    """Refuse settings with no budget or with two, before anything is measured."""
    if (settings.budget_us is None) == (settings.budget_share is None):
        raise InputError("give a budget: either --budget-us N or --budget-share S (of the dense model's latency)")
    if settings.budget_share is not None and settings.budget_share >= 1:
        raise InputError(
            f"--budget-share {settings.budget_share:g}: at a share of 1 or more the dense model is within the budget, "
            "so nothing needs pruning"
        )


def budget_of(settings: SearchSettings, dense_us: float) -> float:
    """The budget in microseconds."""
    check_one_budget(settings)
    if settings.budget_us is not None:
        return settings.budget_us
    return float(settings.budget_share or 0.0) * dense_us


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
