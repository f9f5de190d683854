"""Budgets that mean something other than the median at full length, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.search.conftest import Cli, Finished

from sparsefront.latency.runtimes import RUNTIMES
from sparsefront.latency.table import LatencyTable


def test_a_budget_may_be_a_percentile_over_the_traffic_with_the_same_teacher_and_supernet(
    finished: Finished, cli: Cli, tmp_path: Path
) -> None:
    task, backbone = finished.command[4], finished.command[finished.command.index("--backbone") + 1]
    out = tmp_path / "run"
    words = f"--backbone {backbone} --prepared {finished.folder} --out {out} --budget-share 0.9 --evaluations 6"
    words += " --workers 1 --finalists 3 --uniform none --percentile 95 --at-length mean --json"
    found = cli("search", task, *words.split())
    assert found.status == 0, found.err
    statistic = json.loads((out / "export" / "sparse_config.json").read_text())["statistic"]
    assert statistic == found.json["statistic"]
    assert (statistic["percentile"], statistic["batch"]) == (95, 1) and len(statistic["lengths"]) > 1
    assert max(statistic["lengths"]) <= 16 and sum(statistic["weights"]) == pytest.approx(1)
    assert found.json["budgets"][0]["winner"]["measured_us"] == pytest.approx(
        found.json["budgets"][0]["winner"]["measured_p95_us"]
    )
    verified = cli("verify", out / "export", "--tolerance", 3)
    assert verified.status == 0 and "p95 at the traffic's lengths, expected value" in verified.out
    refused = cli("search", task, *words.replace("--percentile 95", "--percentile 99").split())
    assert refused.status == 2 and "this run was made with percentile=95, asked 99" in refused.err


def test_another_batch_has_a_table_of_its_own_beside_the_first(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    task, backbone = finished.command[4], finished.command[finished.command.index("--backbone") + 1]
    shared, out = finished.copy(tmp_path / "shared"), tmp_path / "run"
    first, fourth = (shared / "latency" / f"onnxruntime-fp32-threads1-batch{rows}" for rows in (1, 4))
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    words = f"--backbone {backbone} --prepared {shared} --out {out} --budget-share 0.8 --batch 4 --evaluations 6"
    found = cli("search", task, *words.split(), *"--workers 1 --finalists 1 --uniform none --json".split())
    assert found.status == 0, found.err
    assert found.json["fingerprint"]["batch"] == found.json["statistic"]["batch"] == 4
    assert sorted((shared / "latency").iterdir()) == [first, fourth]
    assert [LatencyTable.load(folder / "table").fingerprint.batch for folder in (first, fourth)] == [1, 4]
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_static_shapes_from_the_table_to_verify(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="static shapes are OpenVINO's")
    task, backbone = finished.command[4], finished.command[finished.command.index("--backbone") + 1]
    shared, out = finished.copy(tmp_path / "shared"), tmp_path / "run"
    words = f"--backbone {backbone} --prepared {shared} --out {out} --budget-share 0.9 --runtime openvino"
    words += " --shapes static --evaluations 6 --workers 1 --finalists 1 --uniform none --json"
    found = cli("search", task, *words.split())
    assert found.status == 0, found.err
    assert found.json["fingerprint"]["shapes"] == "static"
    verified = cli("verify", out / "export", "--tolerance", 3, "--json")
    assert verified.status == 0 and verified.json["parity"] < 1e-4 and verified.json["test_quality"] is not None
    benched = cli("bench", out / "export", "--clients", "1", "--seconds", "0.05")
    assert benched.status == 0, benched.err


@pytest.mark.parametrize(
    ("option", "line"),
    [
        (("--shapes", "static"), "runtime onnxruntime: shapes must be dynamic, static ones are not faster there"),
        (("--percentile", "90"), "percentile: Input should be 50, 95 or 99, got 90"),
        (("--at-length", "p10"), "at_length: Input should be 'max', 'p50', 'p95' or 'mean', got 'p10'"),
        (("--runtime", "tflite"), "runtime must be one of onnxruntime, openvino, torch, got 'tflite'"),
    ],
)
def test_what_is_no_statistic_is_refused(cli: Cli, tmp_path: Path, option: tuple[str, str], line: str) -> None:
    refused = cli("search", "--budget-us", 1500, "--out", tmp_path / "run", *option)
    assert refused.status == 2 and line in refused.err and not (tmp_path / "run").exists()


def test_auto_takes_the_fastest_runtime_and_says_so(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    backbone = finished.command[finished.command.index("--backbone") + 1]
    words = f"--backbone {backbone} --runtime auto --length 8 --effort quick --out {tmp_path / 'table'}"
    profiled = cli("profile", *words.split())
    assert profiled.status == 0, profiled.err
    chosen = json.loads(cli("latency", "show", tmp_path / "table", "--json").out)["fingerprint"]["runtime"]
    assert chosen in RUNTIMES and f"runtime {chosen}: the dense model takes" in " ".join(profiled.err.split())
    assert not list(tmp_path.glob(".*passes*"))
