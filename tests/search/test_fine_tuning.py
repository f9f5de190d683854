from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.models.test_checkpoint import Harmful
from tests.search.toy import LAST, OPTIONS, toy

from sparsefront.search.fine_tuning import (
    CHECKPOINT,
    DRIVER,
    RUNGS,
    TRAINING,
    FineTuning,
    Rungs,
    Stopped,
    check_driver,
    forget_checkpoints,
    supernet_of,
    write_driver,
)
from sparsefront.search.fitness import FitnessData
from sparsefront.search.prepare import Prepared
from sparsefront.spaces import Genome, InputError

QUICK = replace(OPTIONS, epochs=1.0)


def train(tuning: FineTuning, prepared: Prepared) -> list[float]:
    """The quarters that were told."""
    told: list[float] = []
    tuning.train(
        prepared.supernet,
        prepared.rows["train"],
        QUICK,
        teacher_logits=prepared.teacher_logits,
        progress=lambda done, total: None,
        reached=lambda model, share: told.append(share),
    )
    return told


def test_a_fine_tuning_stands_in_a_folder_of_its_own(prepared: Prepared, tmp_path: Path) -> None:
    tuning = FineTuning(tmp_path, LAST)
    assert not tuning.done and tuning.rungs == Rungs({})
    assert train(tuning, toy(prepared)) == [0.25, 0.5, 0.75, 1.0]
    assert tuning.done and [path.name for path in (tmp_path / TRAINING / LAST.key()).iterdir()] == [CHECKPOINT]
    assert train(tuning, toy(prepared)) == [1.0]
    tuning.note(Rungs({0.25: 0.6}))
    forget_checkpoints(tmp_path)
    assert not tuning.done and tuning.rungs == Rungs({0.25: 0.6})


def test_it_is_stopped_where_all_contests_stop_it(tmp_path: Path) -> None:
    tuning = FineTuning(tmp_path, LAST)
    assert tuning.stopped_in({"a"}) is None
    tuning.note(Rungs({0.25: 0.6, 0.5: 0.7}, ("a", "b")))
    assert FineTuning(tmp_path, LAST).stopped_in({"a"}) == Stopped(LAST.key(), 0.5, 0.7)
    assert tuning.stopped_in({"a", "b"}) is not None
    assert tuning.stopped_in({"a", "c"}) is None and tuning.stopped_in(set()) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"quality": 3, "lost": []}', '{"quality": {"x": 1}, "lost": []}'])
def test_what_is_known_of_it_is_named_where_it_is_damaged(tmp_path: Path, text: str) -> None:
    tuning = FineTuning(tmp_path, LAST)
    tuning.note(Rungs({}))
    (tuning.folder / RUNGS).write_text(text)
    with pytest.raises(InputError, match=RUNGS):
        _ = tuning.rungs


def test_pickles_beside_or_instead_of_its_files_are_left_alone(prepared: Prepared, tmp_path: Path) -> None:
    tuning, mark = FineTuning(tmp_path, LAST), tmp_path / "mark"
    train(tuning, toy(prepared))
    harmful = pickle.dumps(Harmful(mark))
    for name in ("model.pt", "checkpoint.pkl", "rungs.pkl"):
        (tuning.folder / name).write_bytes(harmful)
    assert train(tuning, toy(prepared)) == [1.0]
    for name, used in ((CHECKPOINT, lambda: train(tuning, toy(prepared))), (RUNGS, lambda: tuning.rungs)):
        (tuning.folder / name).write_bytes(harmful)
        with pytest.raises(InputError, match=name):
            used()
    assert not mark.exists()


def test_a_slim_model_from_arrays_is_that_of_the_supernet(prepared: Prepared) -> None:
    supernet, rows = prepared.supernet, prepared.rows["valid"]
    found = supernet_of(FitnessData.of(supernet, rows, "auc")).slim(LAST).state_dict()
    wanted = supernet.slim(LAST).state_dict()
    assert found.keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())
    found["head.bias"] += 1  # a copy: the arrays in an object store cannot be written to
    assert not torch.equal(found["head.bias"], supernet.state_dict()["head.bias"])


def test_a_machine_that_does_not_see_the_run_folder_is_told(tmp_path: Path) -> None:
    write_driver(tmp_path, "one")
    check_driver(tmp_path, "one")
    (tmp_path / "elsewhere").mkdir()
    for folder, driver in ((tmp_path / "elsewhere", "one"), (tmp_path / "none", "one"), (tmp_path, "another")):
        with pytest.raises(InputError, match=r"machine \S+ of the cluster does not see this run folder") as refused:
            check_driver(folder, driver)
        assert str(folder) in str(refused.value) and "\n" not in str(refused.value)
    assert [path.name for path in (tmp_path / TRAINING).iterdir()] == [DRIVER]


def test_genomes_of_a_run_do_not_share_a_folder(tmp_path: Path) -> None:
    other = Genome.uniform(2, heads=1, ffn_units=8)
    assert FineTuning(tmp_path, LAST).folder != FineTuning(tmp_path, other).folder
