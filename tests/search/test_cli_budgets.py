"""One search within several budgets, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.search.conftest import Cli, Finished, Outcome

from sparsefront.search.run_result import RESULT

TIGHT, WIDE = 0.7, 0.95


def words_of(finished: Finished, out: Path, shares: str) -> list[str]:
    """A search that uses the finished run's table, teacher and supernet."""
    backbone = finished.command[finished.command.index("--backbone") + 1]
    words = f"--backbone {backbone} --prepared {finished.folder} --out {out} {shares} --evaluations 10 --workers 1"
    return [finished.command[4], *words.split(), *"--finalists 2 --uniform none --json".split()]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("budgets") / "two"


@pytest.fixture
def found(finished: Finished, cli: Cli, out: Path) -> Outcome:
    """Searched once; the later tests ask the same command again."""
    outcome = cli("search", *words_of(finished, out, f"--budget-share {WIDE},{TIGHT}"))
    assert outcome.status == 0, outcome.err
    return outcome


def test_every_budget_has_a_winner_and_an_export_of_its_own(found: Outcome, out: Path) -> None:
    dense_us = found.json["dense"]["measured_us"]
    budgets_us = [row["budget_us"] for row in found.json["budgets"]]
    assert budgets_us == pytest.approx([TIGHT * dense_us, WIDE * dense_us])
    assert len(found.json["exports"]) == 2
    for row, (name, folder) in zip(found.json["budgets"], found.json["exports"].items(), strict=True):
        assert row["winner"]["measured_us"] <= row["budget_us"] and 1 <= len(row["finalists"]) <= 2
        assert name == f"{row['budget_us']:.6g}" and Path(folder) == out / f"export-{name}us"
        config = json.loads((Path(folder) / "sparse_config.json").read_text())
        assert (config["genome"], config["budget_us"]) == (row["winner"]["genome"], row["budget_us"])
    within = {row["within_us"] for row in found.json["front"]}
    assert within <= set(budgets_us)
    assert found.json["search"]["complete"] == 10  # one search, not one per budget


def test_a_budget_is_named_where_there_are_several(found: Outcome, cli: Cli, out: Path, tmp_path: Path) -> None:
    (tight, wide) = found.json["budgets"]
    nameless = cli("export", out, "--out", tmp_path / "served")
    assert nameless.status == 2 and "which one? --budget-us N" in nameless.err and not (tmp_path / "served").exists()
    for row in (tight, wide):
        target = tmp_path / f"{row['budget_us']:.0f}"
        assert cli("export", out, "--out", target, "--budget-us", f"{row['budget_us']:.6g}").status == 0
        assert json.loads((target / "sparse_config.json").read_text())["budget_us"] == row["budget_us"]
    shown = cli("front", out)
    assert shown.status == 0, shown.err


def test_a_budget_that_nothing_meets_is_named_and_left_out_only_when_asked(
    finished: Finished, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = words_of(finished, out, f"--budget-share {TIGHT},0.001")
    refused = cli("search", *words)
    assert refused.status == 2 and "even the smallest genome" in refused.err and "--skip-infeasible" in refused.err
    assert not (out / RESULT).exists()
    gone_on = cli("search", *[word for word in words if word != "--json"], "--skip-infeasible")
    assert gone_on.status == 0 and "left out: budget of" in gone_on.err
    result = json.loads((out / RESULT).read_text())
    assert [row["budget_us"] for row in result["budgets"]] == pytest.approx([TIGHT * result["dense"]["measured_us"]])
