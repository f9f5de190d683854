from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from tests.search.conftest import Cli, Finished, Outcome
from tests.search.tiny import write_backbone, write_task

from sparsefront.latency.table import LatencyTable
from sparsefront.search import cli as cli_module
from sparsefront.search.run import Run
from sparsefront.search.run_result import RESULT
from sparsefront.spaces import Genome, RunFailed


def refused(outcome: Outcome, *parts: str) -> None:
    """Status 2, nothing on standard output, one line on standard error that holds the parts."""
    assert outcome.status == 2 and outcome.out == "", outcome
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("sparsefront: "), outcome.err
    for part in parts:
        assert part in lines[0], outcome.err
    assert len(lines[0]) < 500


# -- what the commands report -----------------------------------------------------------------------------------------


def test_importing_the_command_line_is_light() -> None:
    code = (
        "import sys, sparsefront.search.cli; print([n for n in ('torch', 'ray', 'transformers') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.strip() == "[]"


def test_help_teaches(cli: Cli) -> None:
    shown = cli("search", "--help")
    assert shown.status == 0
    words = " ".join(shown.out.split())
    assert "sparsefront search task.yaml --budget-share 0.2" in words and "text: [query, title]" in words
    for command in ("search", "profile", "front", "export", "verify"):
        assert command in cli("--help").out
        assert "--json" in cli(command, "--help").out


def test_search_reports_dense_uniform_and_winner(finished: Finished) -> None:
    report, (at,) = finished.report, finished.report["budgets"]
    assert at["budget_us"] == pytest.approx(0.8 * report["dense"]["measured_us"])
    assert at["winner"]["measured_us"] <= at["budget_us"] < report["dense"]["measured_us"]
    assert at["uniform"]["measured_us"] <= at["budget_us"]
    for row in (report["dense"], at["uniform"], at["winner"]):
        assert 0 <= row["test_quality"] <= 1 and row["measured_p95_us"] >= row["measured_us"] and row["parameters"] > 0
    assert at["winner"]["valid_quality"] == max(
        row["valid_quality"] for row in [*at["finalists"], at["uniform"]] if row["measured_us"] <= at["budget_us"]
    )
    front = report["front"]
    assert [row["quality"] for row in front] == sorted((row["quality"] for row in front), reverse=True)
    assert all(row["within_us"] == at["budget_us"] for row in front)
    stored = json.loads((finished.folder / RESULT).read_text())
    assert report == {**stored, "exports": {f"{at['budget_us']:.6g}": str(finished.folder / "export")}}


def test_the_export_is_complete(finished: Finished) -> None:
    folder = finished.folder / "export"
    names = {"config.json", "model.safetensors", "model.onnx", "tokenizer.json", "sparse_config.json"}
    assert names <= {path.name for path in folder.iterdir()} and not (folder / "step.json").exists()
    config = json.loads((folder / "sparse_config.json").read_text())
    winner = {key: value for key, value in finished.at["winner"].items() if key != "test_scores"}
    assert {key: config[key] for key in winner} == winner and "test_scores" not in config
    genome = Genome.parse(config["genome"])
    assert config["heads"] == list(genome.column("heads"))
    assert config["ffn_units"] == list(genome.column("ffn_units"))
    assert config["keep_percent"] == list(genome.column("keep_percent"))
    assert config["fingerprint"]["runtime"] == "onnxruntime" and config["fingerprint"]["length_tokens"] == 16
    assert {"sparsefront", "torch", "onnxruntime", "python"} <= set(config["versions"])
    assert config["task"]["name"] == "tiny" and config["budget_us"] == finished.at["budget_us"]


def test_the_same_command_gives_the_same_report(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    arguments = [str(copy) if part == str(finished.folder) else part for part in finished.command[3:]]
    again = cli(*arguments)
    exports = {name: str(copy / "export") for name in finished.report["exports"]}
    assert again.status == 0 and again.json == {**finished.report, "exports": exports}
    shown = cli(*[part for part in arguments if part != "--json"])
    assert "dense teacher" in shown.out and "winner" in shown.out and "this run is finished" in shown.err


def test_front(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    shown = cli("front", finished.folder, "--json").json
    assert shown["front"] == finished.report["front"] and shown["metric"] == "auc" and shown["plot"] is None
    for name in ("front.png", "front.html"):
        assert cli("front", finished.folder, "--plot", tmp_path / name).status == 0
        assert (tmp_path / name).stat().st_size > 5000
    refused(cli("front", finished.folder, "--plot", tmp_path / "front.png"), "front.png: exists already")
    assert cli("front", finished.folder, "--plot", tmp_path / "front.png", "--overwrite").status == 0
    refused(cli("front", finished.folder, "--plot", tmp_path / "front.jpg"), "front.jpg", "must end in")
    refused(cli("front", tmp_path / "none"), "none: no such run folder")


def test_front_draws_calibration(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    picture = tmp_path / "calibration.png"
    shown = cli("front", finished.folder, "--calibration", picture)
    assert shown.status == 0 and "calibration.png" in shown.out.replace("\n", "")
    assert picture.read_bytes().startswith(b"\x89PNG")
    refused(cli("front", finished.folder, "--calibration", picture), "--calibration", "exists already")
    refused(cli("front", finished.folder, "--calibration", tmp_path / "a.html"), "must end in .png, .svg or .pdf")
    old = finished.copy(tmp_path / "old")
    values = json.loads((old / RESULT).read_text(encoding="utf-8"))
    del values["dense"]["test_scores"]
    (old / RESULT).write_text(json.dumps(values), encoding="utf-8")
    refused(cli("front", old, "--calibration", tmp_path / "b.png"), "says nothing of probabilities")


def test_export_writes_the_winner_without_the_rows(
    finished: Finished, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object, **__: object) -> Run:
        raise AssertionError("the task was read")

    monkeypatch.setattr(Run, "reopen", gone)
    out = tmp_path / "served"
    assert cli("export", finished.folder, "--out", out).status == 0
    own = finished.folder / "export"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in own.iterdir()
    }
    (out / "mine").touch()
    refused(cli("export", finished.folder, "--out", out), "served: exists already")
    assert (out / "mine").exists()
    assert cli("export", finished.folder, "--out", out, "--overwrite").status == 0 and not (out / "mine").exists()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    refused(cli("export", finished.folder, "--out", tmp_path / "thesis", "--overwrite"), "thesis: is not an export")
    assert (tmp_path / "thesis" / "chapter").exists()


def test_export_fine_tunes_another_genome(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    made = {path.name for path in (copy / "finalists").iterdir()}
    other = next(one.genome.key() for one in Run.reopen(copy).evaluated() if one.genome.key() not in made)
    exported = cli("export", copy, "--genome", other, "--out", tmp_path / "other", "--json")
    assert exported.status == 0 and exported.json["genome"] == other and exported.json["test_quality"] is None
    assert {path.name for path in (copy / "finalists").iterdir()} == {*made, other}
    found = cli("verify", tmp_path / "other", "--tolerance", "9", "--json")
    assert found.status == 0 and found.json["parity_holds"]


def test_export_refuses_an_unknown_genome(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    unknown = Genome.uniform(2, heads=2, ffn_units=1).key()  # no space offers such a width
    refused(cli("export", finished.folder, "--genome", unknown, "--out", tmp_path / "x"), unknown, "not among the 12")
    refused(cli("export", finished.folder, "--genome", "big", "--out", tmp_path / "x"), "--genome", "big")
    assert not (tmp_path / "x").exists()


def test_verify_ends_with_its_finding(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    export = Path(shutil.copytree(finished.folder / "export", tmp_path / "export"))
    kept = cli("verify", export, "--tolerance", "9")
    assert kept.status == 0 and "equal to torch" in kept.out and "quality on the test rows: 0." in kept.out
    path = export / "sparse_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "budget_us": 0.5}))
    over = cli("verify", export)
    assert over.status == 1 and "OVER the budget of 0 us" in over.out.replace("of 0.5", "of 0")
    path.write_text(json.dumps({**config, "task": {**config["task"], "source": "/none/task.yaml"}}))
    alone = cli("verify", export, "--tolerance", "9")
    assert alone.status == 0 and "quality on" not in alone.out and "not scored: /none/task.yaml" in alone.out
    path.write_text("{")
    refused(cli("verify", export), "sparse_config.json: damaged")
    refused(cli("verify", tmp_path / "none"), "none: no such folder")


def test_verify_fails_for_another_graph(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    export = Path(shutil.copytree(finished.folder / "export", tmp_path / "export"))
    model = onnx.load(export / "model.onnx")
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[list(last.output).index("logits")] = "shifted"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0.01], np.float32), "shift"))
    model.graph.node.append(onnx.helper.make_node("Add", ["shifted", "shift"], ["logits"]))
    onnx.save(model, export / "model.onnx")
    found = cli("verify", export, "--tolerance", "9", "--json")
    assert found.status == 1 and not found.json["parity_holds"] and not found.json["holds"]


def test_profile_replaces_a_table_only_when_told(cli: Cli, backbone: Path, tmp_path: Path) -> None:
    arguments = ("profile", "--backbone", backbone, "--length", 8, "--effort", "quick", "--json", "--out")
    (tmp_path / "other").mkdir()
    refused(cli(*arguments, tmp_path / "other"), "other: exists already")
    refused(cli(*arguments, tmp_path / "other", "--overwrite"), "other: is not a latency table")
    made = cli(*arguments, tmp_path / "table")
    assert made.status == 0 and made.json["dense_predicted_us"] > 0 and made.json["error"]["models"] > 0
    before = (tmp_path / "table" / "table.json").read_bytes()
    refused(cli(*arguments, tmp_path / "table"), "table: exists already")
    assert (tmp_path / "table" / "table.json").read_bytes() == before
    assert cli(*arguments, tmp_path / "table", "--overwrite").status == 0
    assert (tmp_path / "table" / "table.json").read_bytes() != before
    refused(cli(*arguments, tmp_path / "x", "--runtime", "tensorrt"), "runtime must be one of", "tensorrt")
    refused(cli(*arguments, tmp_path / "x", "--length", 64), "--length 64", "32 positions")
    assert not (tmp_path / "x").exists()


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("", ("give a budget: either --budget-us N or --budget-share S",)),
        ("--budget-us 5 --budget-share 0.5", ("give a budget: either",)),
        ("--budget-us 0", ("budget_us", "greater than 0", "0.0")),
        ("--budget-us -3", ("budget_us", "greater than 0", "-3.0")),
        ("--budget-us nan", ("budget_us", "nan")),
        ("--budget-share 1.5", ("--budget-share 1.5", "nothing needs pruning")),
        ("--budget-us many", ("--budget-us", "expected a number", "'many'")),
        ("--budget-us 800,,900", ("--budget-us", "'800,,900'")),
        ("--budget-share 0.5,1.5", ("--budget-share 1.5", "nothing needs pruning")),
        ("--budget-share 0.5 --workers 999", ("--workers 999", "CPUs")),
        ("--budget-share 0.5 --workers none", ("--workers", "'none'")),
        ("--budget-share 0.5 --sampler grid", ("sampler", "'grid'", "'reinforced'")),
        ("--budget-share 0.5 --space joined", ("space", "'joined'", "'joint'")),
        ("--budget-share 0.5 --runtime tensorrt", ("runtime", "'tensorrt'", "onnxruntime")),
        ("--budget-share 0.5 --effort high", ("effort", "'high'", "'quick'")),
        ("--budget-share 0.5 --seed -1", ("seed", "-1")),
        ("--budget-share 0.5 --teacher-epochs 0", ("--teacher-epochs", "positive", "0")),
        ("--budget-share 0.5 --ffn-granule 100", ("ffn_granule", "64", "100")),
        ("--budget-share 0.5 --evaluation 3", ("--evaluation",)),
    ],
)
def test_options_that_cannot_be(
    cli: Cli, task_file: Path, backbone: Path, tmp_path: Path, options: str, parts: tuple[str, ...]
) -> None:
    out = tmp_path / "run"
    refused(cli("search", task_file, "--backbone", backbone, "--out", out, *options.split()), *parts)
    assert not out.exists()


def damaged(frame: pd.DataFrame, how: str) -> pd.DataFrame:
    match how:
        case "empty text":
            frame.loc[6, "title"] = "  "
        case "equal labels":
            frame["click"] = 1
        case "nan label":
            frame["click"] = frame["click"].astype(float)
            frame.loc[4, "click"] = np.nan
        case "one group":
            frame["query"] = "red shoe"
        case "no column":
            frame = frame.rename(columns={"title": "titles"})
    return frame


@pytest.mark.parametrize(
    ("how", "changes", "parts"),
    [
        ("", {"metrik": "auc"}, ("task.yaml", "unknown key 'metrik'", "did you mean 'metric'")),
        ("", {"split": {"group": "session"}}, ("rows.parquet", "'session'")),
        ("one group", {}, ("rows.parquet", "split", "none of the 600 rows")),
        ("no column", {}, ("rows.parquet", "no column 'title'", "did you mean 'titles'")),
        ("empty text", {}, ("row 7", "'title'", "empty")),
        ("equal labels", {}, ("rows.parquet", "click")),
        ("nan label", {}, ("row 5", "click")),
        ("truncated", {}, ("rows.parquet",)),
        ("too long", {"max_length": 64}, ("max_length must be between 3 and 32", "64")),
    ],
)
def test_tasks_that_cannot_be(
    cli: Cli, backbone: Path, tmp_path: Path, how: str, changes: dict[str, Any], parts: tuple[str, ...]
) -> None:
    task = write_task(tmp_path / "task", **changes)
    rows = task.with_name("rows.parquet")
    if how == "truncated":
        rows.write_bytes(rows.read_bytes()[:-200])
    else:
        damaged(pd.read_parquet(rows), how).to_parquet(rows)
    out = tmp_path / "run"
    refused(cli("search", task, "--backbone", backbone, "--budget-share", "0.5", "--out", out), *parts)
    assert not out.exists()


def test_a_task_file_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    refused(cli("search", tmp_path / "none.yaml", "--budget-us", "9", "--out", tmp_path / "run"), "none.yaml: no such")


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("no weights", "no weights in"),
        ("architecture", "model_type"),
        ("pickle", "only pickled weights"),
        ("gone", "no"),
    ],
)
def test_backbones_that_cannot_be(cli: Cli, task_file: Path, tmp_path: Path, how: str, part: str) -> None:
    backbone = write_backbone(tmp_path / "backbone")
    weights, config = backbone / "model.safetensors", backbone / "config.json"
    if how in {"no weights", "pickle"}:
        weights.unlink()
    if how == "pickle":
        (backbone / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    if how == "architecture":
        config.write_text(json.dumps({**json.loads(config.read_text()), "model_type": "gpt2"}))
    if how == "gone":
        shutil.rmtree(backbone)
    out = tmp_path / "run"
    refused(cli("search", task_file, "--backbone", backbone, "--budget-share", "0.5", "--out", out), part, "backbone")
    assert not out.exists()


def test_run_folders_of_another_search(finished: Finished, cli: Cli, backbone: Path, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    arguments = [str(copy) if part == str(finished.folder) else part for part in finished.command[3:]]
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}

    def with_one(old: str, new: object) -> Outcome:
        return cli(*[new if part == old else part for part in arguments])

    refused(with_one("0.8", "0.7"), "run.json", "budget_share=0.8, asked 0.7", "choose another --out")
    other = write_task(tmp_path / "task", rows=400, name="other")
    refused(with_one(arguments[1], other), "run.json", "another task (tiny, asked other)")
    refused(with_one(str(backbone), write_backbone(tmp_path / "b", seed=1)), "run.json", "another backbone")
    refused(cli(*arguments, "--teacher-epochs", "3"), "run.json", "teacher.epochs=2.0, asked 3.0")
    refused(cli(*arguments, "--threads", "2"), "run.json", "threads=1, asked 2")
    assert before == {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    refused(with_one(str(copy), tmp_path / "thesis"), "thesis: is not empty and not a run folder")
    refused(with_one(str(copy), tmp_path / "thesis" / "chapter"), "chapter: is a file")
    refused(with_one(str(copy), tmp_path / "thesis" / "chapter" / "run"), "chapter")


def test_a_table_of_another_machine(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    (copy / RESULT).unlink()
    path = copy / "latency" / "onnxruntime-fp32-threads1-batch1" / "table"
    own = LatencyTable.load(path)
    replace(own, fingerprint=replace(own.fingerprint, cores=999)).save(path, overwrite=True)
    arguments = [str(copy) if part == str(finished.folder) else part for part in finished.command[3:]]
    refused(cli(*arguments), "batch1/table", "cores: table 999, asked")


@pytest.mark.parametrize("name", ["run.json", "result.json"])
def test_a_truncated_record(finished: Finished, cli: Cli, tmp_path: Path, name: str) -> None:
    copy = finished.copy(tmp_path / "copy")
    text = (copy / name).read_text()
    (copy / name).write_text(text[: len(text) // 2])
    refused(cli("export", copy, "--out", tmp_path / "x"), name, "damaged")
    arguments = [str(copy) if part == str(finished.folder) else part for part in finished.command[3:]]
    refused(cli(*arguments), name, "damaged")


def test_a_damaged_study(finished: Finished, cli: Cli, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    for path in copy.glob("study.db*"):
        path.unlink()
    (copy / "study.db").write_bytes(b"not a database" * 100)
    refused(cli("front", copy), "study.db")


def test_a_run_that_cannot_go_on_ends_with_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(**_: object) -> None:
        raise RunFailed("genome h0.f0.k1.00 failed 3 times;\nthe last error: out of memory")

    monkeypatch.setattr(cli_module, "app", failing)
    with pytest.raises(SystemExit) as ended:
        cli_module.main()
    assert ended.value.code == 1
    line = capsys.readouterr().err
    assert line == "sparsefront: genome h0.f0.k1.00 failed 3 times; the last error: out of memory\n"
