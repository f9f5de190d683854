from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.search.conftest import TRIES, Finished
from tests.search.tiny import write_backbone, write_task

from sparsefront.models.backbone import load_backbone
from sparsefront.models.task import Task
from sparsefront.search.front import Evaluated
from sparsefront.search.run import LOCK, Run
from sparsefront.search.run_file import RUN, RunFile
from sparsefront.search.run_result import FINALISTS, RESULT, front_rows, read_result, read_run
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.search.steps import read_record, step_seconds, write_json
from sparsefront.spaces import Genome, InputError


def rerun(folder: Path, **changes: Any) -> Run:
    """The run of a folder with other search settings."""
    was = Run.reopen(folder)
    settings = was.settings.model_copy(update=changes)
    return Run(folder, task=was.task, backbone=was.backbone, settings=settings, preparation=was.preparation)


def test_a_finished_run_keeps_its_result(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    before = (copy / RESULT).read_bytes()
    result = rerun(copy, workers=2).execute()
    assert result.values == {key: value for key, value in finished.report.items() if key != "exports"}
    assert (copy / RESULT).read_bytes() == before
    assert result.winner_folder.is_dir() and result.front == finished.report["front"]


def test_a_run_interrupted_at_its_finalists_goes_on_with_the_same_ones(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished.copy(tmp_path / "run")
    (folder / RESULT).unlink()
    shutil.rmtree(folder / FINALISTS)

    def again(*_: Any, **__: Any) -> None:
        raise AssertionError("chosen again")

    monkeypatch.setattr("sparsefront.search.ending.choose", again)
    for left in range(TRIES)[::-1]:
        try:
            found = Run.reopen(folder).execute().at()
            break
        except InputError as error:  # a machine too busy for the budget; the candidates stay, as this is about them
            if "is the machine busy" not in str(error) or not left:
                raise
            shutil.rmtree(folder / FINALISTS)
    assert candidates(found) == candidates(finished.at)


def candidates(at: dict[str, Any]) -> set[str]:
    """Genomes of a contest; which of them are stopped also depends on how quiet the machine is when it measures."""
    return {row["genome"] for row in (*at["finalists"], *at["stopped"])}


def test_the_result_tells_of_every_candidate_and_no_checkpoint_is_left(finished: Finished) -> None:
    assert len(candidates(finished.at)) == len(finished.at["finalists"]) + len(finished.at["stopped"]) == 2
    budget_us = finished.at["budget_us"]
    for row in (*finished.at["stopped"], *finished.at["uniform_stopped"]):
        assert row["share"] in (0.25, 0.5) and 0 <= row["quality"] <= 1
        assert not (finished.folder / FINALISTS / row["genome"]).exists()
    within = [one for one in (*finished.at["finalists"], finished.at["uniform"]) if one["measured_us"] <= budget_us]
    assert finished.at["winner"]["valid_quality"] == max(one["valid_quality"] for one in within)
    training = finished.folder / "training"
    assert not list(training.glob("*/*checkpoint*")) and list(training.glob("*/rungs.json"))
    (tuned,) = training.glob("tuned-*")
    assert finished.report["wall_seconds"]["finalists"] > step_seconds(tuned) > 0


@pytest.mark.parametrize("best", ["uniform", "searched"])
def test_the_best_of_searched_and_uniform_finalists_is_handed_over(
    finished: Finished, tmp_path: Path, best: str
) -> None:
    folder = finished.copy(tmp_path / "run")
    (folder / RESULT).unlink()
    row = finished.at["uniform"] if best == "uniform" else finished.at["finalists"][0]
    step = folder / FINALISTS / row["genome"] / "step.json"
    record = json.loads(step.read_text())
    record["result"]["valid_quality"] = 0.999
    step.write_text(json.dumps(record))
    result = Run.reopen(folder).execute()
    assert result.winner["genome"] == row["genome"] and result.winner["valid_quality"] == 0.999
    assert (result.at()["uniform"] == result.winner) is (
        best == "uniform" or row["genome"] == finished.at["uniform"]["genome"]
    )
    assert (result.winner_folder / "model.onnx").is_file()


def test_a_slow_second_costs_the_comparison_and_not_the_winner(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished.copy(tmp_path / "run")
    (folder / RESULT).unlink()
    steps = [path.parent for path in folder.glob("candidates/*/step.json")]
    keys = [[key for _, key, _ in read_record(step)["inputs"]["evaluated"]] for step in steps]
    (uniform,) = (
        step for step, listed in zip(steps, keys, strict=True) if all(len(set(key.split("-"))) == 1 for key in listed)
    )
    shutil.rmtree(uniform)

    def slow(*_: Any, **__: Any) -> None:
        raise InputError(
            "none of 2 candidates was measured within 9 us: is the machine busy? the same command tries again"
        )

    with monkeypatch.context() as patch:
        patch.setattr("sparsefront.search.ending.choose", slow)
        result = Run.reopen(folder).execute()
    assert "uniform" not in result.at() and result.winner_folder.is_dir()
    assert result.at()["uniform_refused"].endswith(f"tries again once {folder / RESULT} is removed")
    assert Run.reopen(folder).execute().at() == result.at()


def test_a_run_may_be_moved(finished: Finished, tmp_path: Path) -> None:
    moved = finished.copy(tmp_path / "copy").rename(tmp_path / "moved")
    record = RunFile.read(moved)
    assert record.shared is None and record.prepared_folder(moved) == moved
    assert Run.reopen(moved).measure().dense_us == finished.report["dense"]["measured_us"]
    assert len(read_run(moved).evaluated) == 12


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"budget_share": 0.7}, "this run was made with budget_share=0.8, asked 0.7"),
        ({"space": "weights"}, 'this run was made with space="joint", asked "weights"'),
        ({"seed": 5}, "this run was made with seed=0, asked 5"),
    ],
)
def test_another_search_is_refused_in_a_searched_folder(
    finished: Finished, tmp_path: Path, changes: dict[str, Any], line: str
) -> None:
    copy = finished.copy(tmp_path / "copy")
    before = (copy / RUN).read_bytes()
    with pytest.raises(InputError, match=f"{RUN}: {line}; choose another --out"):
        rerun(copy, **changes).execute()
    assert (copy / RUN).read_bytes() == before


def test_another_task_backbone_or_preparation_is_refused(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    before = (copy / RUN).read_bytes()
    was = Run.reopen(copy)
    for changes, line in (
        ({"task": Task.from_file(write_task(tmp_path / "t", rows=400, name="other"))}, "another task .tiny, asked oth"),
        ({"backbone": load_backbone(str(write_backbone(tmp_path / "b", seed=1)))}, "belongs to another backbone"),
        ({"preparation": PrepareSettings(threads=2)}, "this run was made with threads=1, asked 2;"),
        ({"shared": tmp_path / "elsewhere"}, "this run was made with prepared=null, asked .*elsewhere"),
    ):
        given: dict[str, Any] = {"task": was.task, "backbone": was.backbone, "preparation": was.preparation, **changes}
        with pytest.raises(InputError, match=line):
            Run(copy, settings=was.settings, **given).execute()
    assert (copy / RUN).read_bytes() == before


def test_a_budget_that_cannot_be_is_told_before_anything_is_trained(finished: Finished, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    was = Run.reopen(finished.folder)
    for step in ("latency", "dense"):
        shutil.copytree(finished.folder / step, folder / step)
    shutil.copy(finished.folder / RUN, folder / RUN)
    for budget_us, line in ((0.5, "even the smallest genome"), (1e6, "nothing needs pruning")):
        settings = SearchSettings(budget_us=budget_us)
        run = Run(folder, task=was.task, backbone=was.backbone, settings=settings, preparation=was.preparation)
        with pytest.raises(InputError, match=line):
            run.execute()
    assert sorted(path.name for path in folder.iterdir()) == sorted([LOCK, "dense", "latency", RUN])
    run.check_same(RunFile.read(folder))  # no genome was evaluated, so the next budget may use the same folder


def test_a_budget_that_the_anchored_table_calls_impossible_is_told_before_training_too(
    finished: Finished, tmp_path: Path
) -> None:
    was, (anchor,) = Run.reopen(finished.folder), finished.folder.glob("anchor-*us")
    for step in ("latency", "dense", anchor.name):
        shutil.copytree(finished.folder / step, tmp_path / "run" / step)
    shutil.copy(finished.folder / RUN, tmp_path / "run" / RUN)
    record = read_record(tmp_path / "run" / anchor.name)
    record["result"]["measured_us"] = [100 * us for us in record["result"]["measured_us"]]
    write_json(tmp_path / "run" / anchor.name / "step.json", record)
    run = Run(
        tmp_path / "run", task=was.task, backbone=was.backbone, settings=was.settings, preparation=was.preparation
    )
    with pytest.raises(InputError, match="even the smallest genome"):
        run.execute()
    assert sorted(path.name for path in run.folder.iterdir()) == sorted([LOCK, "dense", "latency", anchor.name, RUN])


@pytest.mark.parametrize(
    ("search", "prepare", "line"),
    [
        ({"workers": 999}, {}, "--workers 999 of 1 CPUs: this machine has"),
        ({"head_granule": 9}, {}, "head_granule must be between 1 and 2, got 9"),
        ({}, {"runtime": "tensorrt"}, "runtime must be one of .*, got 'tensorrt'"),
    ],
)
def test_what_cannot_work_creates_nothing(
    finished: Finished, tmp_path: Path, search: dict[str, Any], prepare: dict[str, Any], line: str
) -> None:
    was = Run.reopen(finished.folder)
    run = Run(
        tmp_path / "run",
        task=was.task,
        backbone=was.backbone,
        settings=SearchSettings(budget_share=0.5, **search),
        preparation=PrepareSettings(**prepare),
    )
    with pytest.raises(InputError, match=line):
        run.execute()
    assert not (tmp_path / "run").exists()


def test_a_folder_of_something_else_is_left_alone(finished: Finished, tmp_path: Path) -> None:
    was = Run.reopen(finished.folder)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").touch()
    (tmp_path / "file").touch()
    for name, line in (("thesis", "is not empty and not a run folder"), ("file", "is a file")):
        run = Run(tmp_path / name, task=was.task, backbone=was.backbone, settings=was.settings)
        with pytest.raises(InputError, match=line):
            run.execute()
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter"]


def test_a_second_driver_is_refused(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    with (copy / LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is working in this run folder"):
            rerun(copy).execute()
    rerun(copy).execute()


@pytest.mark.parametrize("name", [RUN, RESULT])
@pytest.mark.parametrize("text", ["", '{"task":', "[]", "{}"])
def test_a_damaged_file_is_named(finished: Finished, tmp_path: Path, name: str, text: str) -> None:
    copy = finished.copy(tmp_path / "copy")
    (copy / name).write_text(text)
    with pytest.raises(InputError, match=name) as raised:
        read_result(copy)
    assert "\n" not in str(raised.value)


def test_folders_that_are_no_or_no_finished_run(finished: Finished, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run folder"):
        read_run(tmp_path / "none")
    with pytest.raises(InputError, match=r"is not a run folder \(no run\.json\)"):
        read_run(tmp_path)
    copy = finished.copy(tmp_path / "copy")
    (copy / RESULT).unlink()
    with pytest.raises(InputError, match=r"not finished .* the command that started it continues it"):
        Run.reopen(copy).export(tmp_path / "out")
    (copy / "study.db").unlink()
    with pytest.raises(InputError, match="no study yet"):
        read_run(copy)


def test_an_old_or_edited_setting_in_run_json_is_named(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    record = json.loads((copy / RUN).read_text())
    record["search"]["sampler"] = "grid"
    (copy / RUN).write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"run\.json: damaged: search\.sampler: Input should be"):
        Run.reopen(copy)


def test_rows_in_memory_make_a_run_that_only_a_program_can_reopen(finished: Finished, tmp_path: Path) -> None:
    was = Run.reopen(finished.folder)
    content = was.task.spec.model_dump(exclude={"data"})
    task = Task.from_frame(was.task.frame, content)
    run = Run(tmp_path / "run", task=task, backbone=was.backbone, settings=was.settings)
    run.folder.mkdir()
    (run.folder / RUN).write_text(run.record().model_dump_json())
    with pytest.raises(InputError, match="given by a program"):
        Run.reopen(run.folder)


def test_front_rows_are_what_nothing_dominates_best_quality_first() -> None:
    def one(number: int, quality: float, latency_us: float) -> Evaluated:
        return Evaluated(Genome.uniform(1, heads=number, ffn_units=0), quality, latency_us, number)

    evaluated = [one(0, 0.5, 10.0), one(1, 0.4, 20.0), one(2, 0.8, 30.0), one(3, 0.7, 40.0)]
    rows = front_rows(evaluated, (10.0, 20.0))
    assert [(row["quality"], row["within_us"]) for row in rows] == [(0.8, None), (0.5, 10.0)]
