from __future__ import annotations

import re
from typing import Any

import pytest

from sparsefront.search.budget import budgets_of, check_asked, check_budget, feasible_budgets
from sparsefront.search.settings import SAMPLERS, PrepareSettings, SearchSettings
from sparsefront.spaces import Genome, InputError
from sparsefront.spaces.space import PRESETS


def test_settings_survive_json() -> None:
    settings = SearchSettings(budget_share=0.25, keep_percents=(100, 50), seed=3)
    assert SearchSettings.model_validate_json(settings.model_dump_json()) == settings
    preparation = PrepareSettings(focus_shares=(0.1, 0.2), threads=2)
    assert PrepareSettings.model_validate_json(preparation.model_dump_json()) == preparation


def test_every_preset_and_sampler_is_accepted() -> None:
    for name in PRESETS:
        assert SearchSettings.check(budget_us=1.0, space=name).space == name
    for name in SAMPLERS:
        assert SearchSettings.check(budget_us=1.0, sampler=name).sampler == name


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"budget_us": 0.0}, "budget_us: Input should be greater than 0, got 0.0"),
        ({"budget_us": -5.0}, "budget_us: Input should be greater than 0, got -5.0"),
        ({"budget_us": float("nan")}, "budget_us: Input should be"),
        ({"budget_us": (800.0, -5.0)}, "budget_us.1: Input should be greater than 0, got -5.0"),
        ({"budget_share": float("inf")}, "budget_share: Input should be a finite number, got inf"),
        ({"space": "joined"}, "space: Input should be 'weights', 'tokens', 'joint' or 'uniform', got 'joined'"),
        ({"sampler": "grid"}, "sampler: Input should be 'reinforced', 'random', 'tpe' or 'nsga2', got 'grid'"),
        ({"uniform": "some"}, "uniform: Input should be 'all', 'largest' or 'none', got 'some'"),
        ({"evaluations": 0}, "evaluations: Input should be greater than or equal to 1, got 0"),
        ({"seed": -1}, "seed: Input should be greater than or equal to 0, got -1"),
        ({"budget": 5.0}, "budget: Extra inputs are not permitted, got 5.0"),
    ],
)
def test_a_wrong_setting_is_one_line(values: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(line)}") as raised:
        SearchSettings.check(**values)
    assert "\n" not in str(raised.value)


def test_a_budget_is_microseconds_or_a_share() -> None:
    assert budgets_of(SearchSettings(budget_us=700.0), dense_us=2000.0) == (700.0,)
    assert budgets_of(SearchSettings(budget_share=0.25), dense_us=2000.0) == (500.0,)
    assert budgets_of(SearchSettings(budget_us=(900.0, 700.0, 900.0)), dense_us=2000.0) == (700.0, 900.0)
    for settings in (SearchSettings(), SearchSettings(budget_us=1.0, budget_share=0.5)):
        with pytest.raises(InputError, match="either --budget-us N or --budget-share S"):
            check_asked(settings)
    with pytest.raises(InputError, match=r"--budget-share 1: .*nothing needs pruning"):
        check_asked(SearchSettings(budget_share=1.0))


def test_a_budget_must_lie_between_the_smallest_and_the_dense_model() -> None:
    smallest = Genome.uniform(2, heads=0, ffn_units=0)
    check_budget(100.0, dense_us=200.0, smallest=smallest, smallest_us=50.0)
    with pytest.raises(InputError, match=r"budget of 200 us: the dense model takes 200 us here, so nothing needs"):
        check_budget(200.0, dense_us=200.0, smallest=smallest, smallest_us=50.0)
    with pytest.raises(InputError, match=r"budget of 49\.5 us: even the smallest genome .*h0\.f0.* costs 50 us of"):
        check_budget(49.5, dense_us=200.0, smallest=smallest, smallest_us=50.0)


def test_of_several_budgets_those_that_cannot_be_are_named_and_may_be_left_out() -> None:
    sizes: dict[str, Any] = {
        "dense_us": 200.0,
        "smallest": Genome.uniform(1, heads=0, ffn_units=0),
        "smallest_us": lambda budget_us: 50.0,
    }
    assert feasible_budgets((80.0, 100.0), **sizes) == (80.0, 100.0)
    with pytest.raises(InputError, match=r"budget of 40 us: .*; --skip-infeasible goes on with the other budgets"):
        feasible_budgets((40.0, 100.0), **sizes)
    said: list[str] = []
    assert feasible_budgets((40.0, 100.0, 300.0), **sizes, skipped=said.append) == (100.0,)
    assert [line.split(":")[1] for line in said] == [" budget of 40 us", " budget of 300 us"]
    with pytest.raises(InputError, match="none of the budgets can be searched for: 40 us, 300 us"):
        feasible_budgets((40.0, 300.0), **sizes, skipped=said.append)
    with pytest.raises(InputError, match=r"budget of 40 us: even the smallest .*error$"):
        feasible_budgets((40.0,), **sizes, skipped=said.append)
