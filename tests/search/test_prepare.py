from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tests.search.conftest import Finished
from tests.search.tiny import write_backbone, write_feature_task, write_task

from sparsefront.latency.table import LatencyTable
from sparsefront.models.backbone import load_backbone
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.joint_training import JointOptions
from sparsefront.models.ranker import load_ranker
from sparsefront.models.task import Task
from sparsefront.models.training import TrainOptions
from sparsefront.search.measured import check_length
from sparsefront.search.prepare import Prepared, Trainings
from sparsefront.search.progress import Advance, Silent
from sparsefront.search.run import Run
from sparsefront.search.settings import PrepareSettings
from sparsefront.spaces import InputError

FAST = TrainOptions(epochs=0.5, learning_rate=1e-3, tokens_per_batch=512)


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def prepare_again(folder: Path) -> Prepared:
    run = Run.reopen(folder)
    return run.prepare(run.measure())


def test_the_supernet_is_the_teacher_trained_on_with_its_units_in_order(prepared: Prepared) -> None:
    widths = prepared.backbone.widths
    assert prepared.supernet.genome == prepared.teacher.genome and len(prepared.supernet.genome) == widths.layers
    assert not prepared.supernet.training and not prepared.teacher.training
    ordered = prepared.backbone.cross_encoder()
    ordered.load_state_dict(prepared.teacher.state_dict())
    prepared.order.apply(ordered)
    name = "encoder.layers.0.ffn_in.weight"
    own = prepared.supernet.state_dict()[name]
    to_ordered = (own - ordered.state_dict()[name]).norm()
    to_teacher = (own - prepared.teacher.state_dict()[name]).norm()
    assert 0 < to_ordered < 0.5 * to_teacher
    table = "encoder.embeddings.word.weight"  # frozen while the supernet trains
    assert torch.equal(prepared.supernet.state_dict()[table], prepared.teacher.state_dict()[table])


def test_the_teachers_scores_are_kept_in_the_order_of_the_rows(prepared: Prepared) -> None:
    from sparsefront.models.scoring import score_rows

    logits = score_rows(prepared.teacher, prepared.rows["train"], precision="fp32")
    assert prepared.teacher_logits.shape == logits.shape
    assert np.abs(prepared.teacher_logits - logits).max() < 0.05  # bf16 where the machine has it
    assert np.corrcoef(prepared.teacher_logits, logits)[0, 1] > 0.99


class Listens(Silent):
    """Hears how far one step is, and interrupts it as Ctrl-C would once it is past a share."""

    def __init__(self, title: str, *, until: float = 2.0) -> None:
        self.title, self.until, self.shares = title, until, list[float]()

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        def advance(done: int, total: int, facts: Mapping[str, str] | None = None) -> None:
            if title == self.title:
                self.shares.append(done / total)
                if done > self.until * total:
                    raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize(
    ("step", "title"), [("teacher", "fine-tuning the teacher"), ("supernet", "training the supernet")]
)
def test_an_interrupted_training_goes_on(step: str, title: str, finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    whole = load_file(copy / step / "model.safetensors")
    for name in ("supernet", step):
        shutil.rmtree(copy / name, ignore_errors=True)
    run = Run.reopen(copy, reporter=Listens(title, until=0.6))
    with pytest.raises(KeyboardInterrupt):
        run.prepare(run.measure())
    (kept,) = copy.glob(f".{step}-*.training.safetensors")
    assert not (copy / step).exists()
    listens = Listens(title)
    run = Run.reopen(copy, reporter=listens)
    run.prepare(run.measure())
    assert 0.2 < listens.shares[0] < 0.75 and listens.shares[-1] == 1
    assert not kept.exists()
    for name, value in load_file(copy / step / "model.safetensors").items():
        np.testing.assert_allclose(value, whole[name], atol=2e-2)


def test_a_supernet_for_another_budget_begins_anew(finished: Finished, tmp_path: Path) -> None:
    copy, title = finished.copy(tmp_path / "copy"), "training the supernet"
    shutil.rmtree(copy / "supernet")
    run = Run.reopen(copy, reporter=Listens(title, until=0.6))
    with pytest.raises(KeyboardInterrupt):
        run.prepare(run.measure())
    listens = Listens(title)
    run = Run.reopen(copy, reporter=listens)
    run.settings = run.settings.model_copy(update={"budget_share": 0.5})
    run.prepare(run.measure())
    assert listens.shares[0] < 0.5 < listens.shares[-1] == 1
    assert not list(copy.glob(".supernet-*"))


def test_nothing_is_done_twice(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    before = {path: path.stat().st_mtime_ns for path in copy.rglob("*") if path.is_file() and path.name != ".lock"}
    prepare_again(copy)
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"cpu": "Another CPU"}, "cpu: table Another CPU, asked"),
        ({"runtime": "openvino"}, "runtime: table openvino, asked onnxruntime"),
        ({"threads": 7}, "threads: table 7, asked 1"),
        ({"length_tokens": 17}, "table"),
    ],
)
def test_a_table_of_something_else_is_refused(
    finished: Finished, tmp_path: Path, change: dict[str, Any], line: str
) -> None:
    copy = finished.copy(tmp_path / "copy")
    path = copy / "latency" / "onnxruntime-fp32-threads1-batch1" / "table"
    own = LatencyTable.load(path)
    replace(own, fingerprint=replace(own.fingerprint, **change)).save(path, overwrite=True)
    with pytest.raises(InputError, match=line):
        prepare_again(copy)


def test_an_edited_table_is_refused(finished: Finished, tmp_path: Path) -> None:
    copy = finished.copy(tmp_path / "copy")
    path = copy / "latency" / "onnxruntime-fp32-threads1-batch1" / "table" / "blocks.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="checksum"):
        prepare_again(copy)


@pytest.mark.parametrize(
    "name", ["teacher/logits.safetensors", "teacher/model.safetensors", "supernet/model.safetensors"]
)
def test_truncated_weights_are_named(finished: Finished, tmp_path: Path, name: str) -> None:
    path = finished.copy(tmp_path / "copy") / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=path.parent.name):
        prepare_again(tmp_path / "copy")


def test_logits_of_other_rows_are_refused(finished: Finished, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = finished.copy(tmp_path / "copy") / "teacher" / "logits.safetensors"
    logits = load_file(path)["logits"]
    save_file({"logits": logits[:-1]}, path)
    with pytest.raises(InputError, match=rf"expected logits of shape \({len(logits)},\), got \({len(logits) - 1},\)"):
        prepare_again(tmp_path / "copy")


def test_rows_longer_than_the_positions_are_refused(backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"max_length must be between 3 and 32 for backbone .*, got 48"):
        check_length(load_backbone(str(backbone)), 48)


def test_another_budget_takes_the_steps_of_a_finished_run(finished: Finished, tmp_path: Path) -> None:
    opened, said = Run.reopen(finished.folder), Lines()
    run = Run(
        tmp_path / "run",
        task=opened.task,
        backbone=opened.backbone,
        settings=opened.settings.model_copy(update={"budget_share": 0.6}),
        preparation=opened.preparation.model_copy(update={"percentile": 95, "at_length": "mean"}),
        shared=finished.folder,
        reporter=said,
    )
    prepared = run.prepare(run.measure())
    assert prepared.measured.statistic.percentile == 95 and len(prepared.measured.statistic.lengths) > 1
    again = opened.prepare(opened.measure())
    assert all(map(torch.equal, prepared.supernet.state_dict().values(), again.supernet.state_dict().values()))
    assert [path.name for path in run.folder.iterdir()] == ["dense"]
    assert any("was trained around 80% of the dense latency, this budget is 60%" in line for line in said.lines)


class Titles(Silent):
    """Keeps which steps began."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        self.titles.append(title)
        yield lambda done, total, facts=None: None


@pytest.mark.parametrize("joint", [None, JointOptions(branch=FAST, joint=FAST)])
def test_text_and_features_begin_together_unless_two_steps_are_asked_for(
    joint: JointOptions | None, backbone: Path, tmp_path: Path
) -> None:
    task, titles = Task.from_file(write_feature_task(tmp_path / "task", rows=300)), Titles()
    settings, fresh = PrepareSettings(teacher=FAST, joint=joint), load_backbone(str(backbone)).serving(task)
    rows = task.tokenise(fresh.tokenizer)
    trainings = Trainings(tmp_path, task, fresh, settings, rows, titles)
    first = trainings.teach()
    assert trainings.teach() == first, "what is kept is not made again"
    steps = ["fine-tuning the teacher", *(["joining text and features"] if joint else [])]
    assert titles.titles == [*steps, "teacher's scores", "importance of units"]
    teacher = load_ranker(tmp_path / "teacher")
    assert isinstance(teacher, Bert4Ctr) and teacher.branch.head.weight.abs().sum() > 0
    other = replace(settings.joint, branch_factor=3.0) if settings.joint else JointOptions(branch=FAST, joint=FAST)
    asked = replace(trainings, settings=settings.model_copy(update={"joint": other}))
    with pytest.raises(InputError, match=r"was made with joint.*, asked"):
        asked.teach()


def test_other_weights_or_rows_are_another_step(finished: Finished, tmp_path: Path) -> None:
    """Preparation of another task or backbone is not taken for this one's, in a shared folder either."""
    opened = Run.reopen(finished.folder)
    for task, backbone in (
        (Task.from_file(write_task(tmp_path / "t", rows=400)), opened.backbone),
        (opened.task, load_backbone(str(write_backbone(tmp_path / "b", seed=1)))),
    ):
        run = Run(
            tmp_path / "run",
            task=task,
            backbone=backbone,
            settings=opened.settings,
            preparation=opened.preparation,
            shared=finished.folder,
        )
        with pytest.raises(InputError, match=r"was made with (task|backbone)=.*, asked .*; choose another --out"):
            run.prepare(run.measure())
