from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.search.conftest import Finished

from sparsefront.search.pictures import check_plot, plot_front
from sparsefront.search.report import (
    costs_line,
    front_table,
    result_table,
    rounding_line,
    scores_line,
    task_line,
)
from sparsefront.spaces import InputError

FRONT = [
    {"genome": "h1.f0.k1.00", "quality": 0.8, "latency_us": 90.0, "within_us": None},
    {"genome": "h0.f0.k1.00", "quality": 0.6, "latency_us": 40.0, "within_us": 50.0},
]


def text(table: Any) -> str:
    console = Console(width=200)
    with console.capture() as captured:
        console.print(table)
    return captured.get()


def test_the_result_has_three_rows_in_order(finished: Finished) -> None:
    lines = text(result_table(finished.report, finished.at)).splitlines()
    assert "tiny: budget" in lines[0] and "us, median at 16 tokens" in lines[0]
    rows = [line for line in lines if "M │" in line]
    assert [row.split("│")[1].strip() for row in rows] == ["dense teacher", "best uniform", "winner"]
    winner = finished.at["winner"]
    assert f"{winner['test_quality']:.4f}" in rows[2] and "1.00 x" in rows[0]
    assert f"{finished.report['dense']['measured_us'] / winner['measured_us']:.2f} x" in rows[2]
    without = {key: value for key, value in finished.at.items() if key != "uniform"}
    assert "best uniform" not in text(result_table(finished.report, without))


def test_what_rounding_costs_is_told_only_where_something_was_rounded(finished: Finished) -> None:
    assert rounding_line(finished.report, finished.at) is None
    winner = {**finished.at["winner"], "valid_quality": 0.71, "fp32_valid_quality": 0.712}
    rounded = {**finished.report, "fingerprint": {"precision": "int8"}}
    assert rounding_line(rounded, {"winner": winner}) == (
        "served in int8: auc 0.7100 on the validation rows, 0.0020 below the same model in fp32"
    )


def test_how_right_probabilities_are_is_told_where_there_are_any(finished: Finished) -> None:
    scores = finished.at["winner"]["test_scores"]
    assert scores["auc"] == finished.at["winner"]["test_quality"] and "gauc" not in scores
    assert scores_line(finished.at) == (
        f"winner on the test rows: log loss {scores['log_loss']:.4f} nats, "
        f"probabilities off by {scores['calibration_error']:.2%} (expected calibration error)"
    )
    assert "AUC within users 0.7123, log" in str(scores_line({"winner": {"test_scores": {**scores, "gauc": 0.7123}}}))
    assert scores_line({"winner": {"test_scores": {}}}) is None is scores_line({"winner": {}})


def test_the_smallest_budget_that_each_keeps_is_told() -> None:
    lines = [
        line for line in text(front_table(FRONT, metric="auc", budgets_us=(50.0, 60.0))).splitlines() if "h" in line
    ]
    stars = {line.split("│")[4].strip(): line.split("│")[1].strip() for line in lines if line.startswith("│")}
    assert stars == {"h1.f0.k1.00": "", "h0.f0.k1.00": "50"}


def test_the_time_of_every_step_is_told(finished: Finished) -> None:
    line = costs_line(finished.report)
    assert all(name in line for name in ("latency", "teacher", "supernet", "search", "uniform", "finalists", "MiB"))


@pytest.mark.parametrize(
    ("name", "start"), [("a.png", b"\x89PNG"), ("a.SVG", b"<?xml"), ("a.html", b"<!doctype html>")]
)
def test_pictures_are_what_their_ending_says(tmp_path: Path, name: str, start: bytes) -> None:
    path = tmp_path / name
    plot_front(path, evaluated=FRONT, front=FRONT, budgets_us=[50.0], metric="auc", title="tiny")
    assert path.read_bytes().startswith(start)


def test_a_picture_is_refused_before_it_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"front\.jpeg: the file must end in \.png, \.svg, \.pdf or \.html"):
        check_plot(tmp_path / "front.jpeg", overwrite=True)
    with pytest.raises(InputError, match="no such folder"):
        check_plot(tmp_path / "none" / "front.png", overwrite=True)
    (tmp_path / "front.png").touch()
    with pytest.raises(InputError, match="exists already"):
        check_plot(tmp_path / "front.png", overwrite=False)
    check_plot(tmp_path / "front.png", overwrite=True)


def test_a_task_is_told_in_one_line() -> None:
    report = {
        "name": "shop",
        "rows": 10,
        "positive_rate": 0.25,
        "max_length": 16,
        "splits": {"train": {"rows": 8}, "valid": {"rows": 1}, "test": {"rows": 1}},
        "tokens": {"p50": 9.0, "p95": 15.0, "max": 31.0, "truncated_share": 0.021},
    }
    assert task_line(report) == (
        "shop: 10 rows (train 8, valid 1, test 1), 25.0% positive; tokens p50 9, p95 15, max 31, "
        "2.1% of the rows longer than 16"
    )


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ({"target_mean": 0.5208}, "mean target 0.521 of 1"),
        ({"classes": ["no", "yes"], "class_counts": [7, 3]}, "2 classes (no 70.0%, yes 30.0%)"),
        (
            {"classes": list(range(8)), "class_counts": [2, 1, 1, 1, 1, 1, 1, 2]},
            "8 classes of 10.0% to 20.0% of the rows",
        ),
    ],
)
def test_what_is_learnt_is_told_by_its_kind(labels: dict[str, Any], line: str) -> None:
    report = {
        "name": "shop",
        "rows": 10,
        "max_length": 16,
        "splits": {"train": {"rows": 8}},
        "tokens": {"p50": 9.0, "p95": 15.0, "max": 31.0, "truncated_share": 0.0},
        **labels,
    }
    assert task_line(report).startswith(f"shop: 10 rows (train 8), {line}; tokens p50 9")
