from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tests.search.conftest import Cli, Finished

from sparsefront.latency.table import LatencyTable


def test_show_says_what_was_measured_and_draws_it(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    table, picture = finished.folder / "latency" / "onnxruntime-fp32-threads1-batch1" / "table", tmp_path / "table.png"
    shown = cli("latency", "show", table, "--plot", picture)
    assert shown.status == 0 and "runtime: onnxruntime" in shown.out and "error on held-out models: mean" in shown.out
    assert picture.read_bytes().startswith(b"\x89PNG")
    report = json.loads(cli("latency", "show", table, "--json").out)
    longest = report["costs"][-1]
    assert longest["tokens"] == report["fingerprint"]["length_tokens"]
    assert longest["attention_us"] > 0 and longest["ffn_us"] >= report["costs"][0]["ffn_us"] >= 0
    for arguments, line in (
        ((table, "--plot", picture), "exists already"),
        ((table, "--plot", tmp_path / "table.html"), "must end in .png, .svg or .pdf"),
        ((tmp_path,), "is not a latency table: table.json is missing"),
    ):
        refused = cli("latency", "show", *arguments)
        assert refused.status == 2 and line in refused.err and refused.err.count("\n") == 1


def test_check_measures_again_and_notices_another_machine(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "table"
    shutil.copytree(finished.folder / "latency" / "onnxruntime-fp32-threads1-batch1" / "table", table)
    report = json.loads(cli("latency", "check", table, "--models", 3, "--json").out)
    assert len(report["now_us"]) == len(report["predicted_us"]) == 3 and min(report["now_us"]) > 0
    assert report["holds"] == (abs(report["drift"]) <= 0.05)
    own = LatencyTable.load(table)
    notes = {**own.notes, "heldout_us": [us / 2 for us in own.notes["heldout_us"]]}
    another = dataclasses.replace(own.fingerprint, cpu="another")
    dataclasses.replace(own, notes=notes, fingerprint=another).save(table, overwrite=True)
    again = cli("latency", "check", table, "--models", 3)
    assert again.status == 1 and "does NOT hold" in again.out and "cpu: table another" in again.out
    dataclasses.replace(own, notes={}).save(table, overwrite=True)
    assert "keeps no held-out models" in cli("latency", "check", table).err


def test_bench_calls_the_export_and_the_dense_model(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    found = json.loads(cli("bench", finished.export, "--clients", "1,2", "--seconds", 0.05, "--batch", 2, "--json").out)
    assert [load["clients"] for load in found["export"]] == [load["clients"] for load in found["dense"]] == [1, 2]
    assert all(load["rows_per_second"] > 0 for load in (*found["export"], *found["dense"]))
    assert found["batch"] == 2 and found["dense_note"] is None
    copy = tmp_path / "export"
    shutil.copytree(finished.export, copy)
    config = json.loads((copy / "sparse_config.json").read_text())
    (copy / "sparse_config.json").write_text(json.dumps({**config, "backbone": str(tmp_path / "gone")}))
    alone = cli("bench", copy, "--clients", 1, "--seconds", 0.05)
    assert alone.status == 0 and "the dense model was not called" in alone.out and "gone" in alone.out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--clients", "0"), "--clients: expected 'auto' or positive whole numbers like 1,2, got '0'"),
        (("--clients", "two"), "--clients: expected"),
        (("--length", "100000"), "--length 100000: the model has"),
    ],
)
def test_bench_refuses_what_cannot_be(finished: Finished, cli: Cli, arguments: tuple[str, ...], line: str) -> None:
    refused = cli("bench", finished.export, *arguments)
    assert refused.status == 2 and line in refused.err and refused.err.count("\n") == 1


def test_bench_refuses_a_graph_of_somebody_else(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"somebody else's")
    refused = cli("bench", tmp_path)
    assert refused.status == 2 and "is not an export (no sparse_config.json)" in refused.err
