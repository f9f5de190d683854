"""A training that was stopped and goes on."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tests.models.test_training import DENSE, SMALL, fresh, shuffled, toy_rows, weights_of
from torch import Tensor

from sparsefront.models.checkpoint import QUARTERS, Checkpoints, done_share
from sparsefront.models.training import TrainOptions, TrainReport, train
from sparsefront.spaces import InputError, RunFailed

OPTIONS = TrainOptions(epochs=2.5, learning_rate=1e-3, tokens_per_batch=128, distil_share=0.5, precision="fp32")
ROWS = toy_rows(80)
LOGITS = np.linspace(-2, 2, 80).astype(np.float32)


class Stopped(Exception):
    """Whoever trained is gone."""


def trained(
    path: Path | None, *, options: TrainOptions = OPTIONS, elastic: bool = False, **given: Any
) -> tuple[dict[str, Tensor], TrainReport]:
    """A fresh model trained, with checkpoints or without."""
    model = fresh(hidden_dropout_prob=0.2)
    report = train(
        model,
        ROWS,
        options,
        teacher_logits=LOGITS,
        genomes=shuffled if elastic else None,
        checkpoints=None if path is None else Checkpoints(path, **given),
    )
    return weights_of(model), report


def killed_at(path: Path, share: float, **given: Any) -> None:
    """A training that ends without a word once a share of it is done."""

    def reached(at: float) -> bool:
        if at == share:
            raise Stopped
        return True

    with pytest.raises(Stopped):
        trained(path, reached=reached, **given)


def changed(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    tensors["model.head.bias"] += 1


def moved(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header["position"]["tokens"] += 1


def emptied(tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    header.clear()


# -- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", QUARTERS)
@pytest.mark.parametrize("dropout", [0.0, 0.3, None])
@pytest.mark.parametrize("elastic", [False, True])
def test_a_training_that_goes_on_ends_with_the_weights_of_one_that_was_never_stopped(
    tmp_path: Path, share: float, dropout: float | None, elastic: bool
) -> None:
    options = TrainOptions(**{**vars(OPTIONS), "dropout": dropout})
    whole, report = trained(None, options=options, elastic=elastic)
    killed_at(tmp_path / "checkpoint", share, options=options, elastic=elastic)
    torch.rand(7)  # whatever was drawn meanwhile does not matter
    found, again = trained(tmp_path / "checkpoint", options=options, elastic=elastic)
    assert again == report and report.share == 1.0
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_keeping_a_training_does_not_change_it(tmp_path: Path) -> None:
    whole, report = trained(None)
    kept, again = trained(tmp_path / "checkpoint")
    assert report == again and all(torch.equal(kept[name], value) for name, value in whole.items())


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint"
    whole, report = trained(path)
    monkeypatch.setattr("sparsefront.models.training._step", None)
    found, again = trained(path)
    assert again == report and all(torch.equal(found[name], value) for name, value in whole.items())


def test_frozen_embeddings_are_not_kept_and_are_as_they_were(tmp_path: Path) -> None:
    options = TrainOptions(**{**vars(OPTIONS), "freeze_embeddings": True})
    whole, _ = trained(None, options=options)
    killed_at(tmp_path / "checkpoint", 0.5, options=options)
    assert not [name for name in load_file(tmp_path / "checkpoint") if "embeddings" in name]
    found, _ = trained(tmp_path / "checkpoint", options=options)
    assert all(torch.equal(found[name], value) for name, value in whole.items())


def test_a_parameter_that_never_had_a_gradient_is_kept_too(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    small = fresh().slim(SMALL.replace(1, "heads", 0))
    train(small, ROWS, TrainOptions(precision="fp32"), checkpoints=Checkpoints(path))
    again = fresh().slim(SMALL.replace(1, "heads", 0))
    train(again, ROWS, TrainOptions(precision="fp32"), checkpoints=Checkpoints(path))
    assert all(torch.equal(value, small.state_dict()[name]) for name, value in again.state_dict().items())


# -- being asked -----------------------------------------------------------------------------------------------------


def test_every_share_is_told_once_its_checkpoint_stands_and_again_where_it_goes_on(tmp_path: Path) -> None:
    path, told, end = tmp_path / "checkpoint", list[float](), 0.5

    def reached(share: float) -> bool:
        assert share <= done_share(path) < share + 0.1
        told.append(share)
        return share != end

    _, report = trained(path, reached=reached)
    assert told == [0.25, 0.5] and 0.5 <= report.share < 0.6
    _, report = trained(path, reached=reached)
    assert told == [0.25, 0.5, 0.5] and 0.5 <= report.share < 0.6
    end = 2.0
    _, report = trained(path, reached=reached)
    assert told == [0.25, 0.5, 0.5, 0.5, 0.75, 1.0] and report.share == 1.0


def test_shares_that_one_step_passes_together_are_all_told(tmp_path: Path) -> None:
    told: list[float] = []
    options = TrainOptions(epochs=0.5, tokens_per_batch=10_000, precision="fp32")

    def reached(share: float) -> bool:
        told.append(share)
        return True

    checkpoints = Checkpoints(tmp_path / "checkpoint", reached=reached)
    assert train(fresh(), ROWS, options, checkpoints=checkpoints).steps == 1
    assert tuple(told) == QUARTERS


def test_the_model_may_be_looked_at_meanwhile(tmp_path: Path) -> None:
    whole, _ = trained(None)
    model = fresh(hidden_dropout_prob=0.2)

    def reached(share: float) -> bool:
        model.eval()(torch.from_numpy(np.array([[2, 7, 8]])))
        model.train()
        return True

    train(model, ROWS, OPTIONS, teacher_logits=LOGITS, checkpoints=Checkpoints(tmp_path / "c", reached=reached))
    assert all(torch.equal(model.state_dict()[name], value) for name, value in whole.items())


@pytest.mark.parametrize("shares", [(), (0.0, 1.0), (0.5, 0.25), (0.5, 0.5), (0.5, 1.1)])
def test_shares_refuse(tmp_path: Path, shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"shares must rise and be in \(0, 1\]"):
        Checkpoints(tmp_path, shares=shares)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"epochs": 3.0}, r"options\.epochs was 2\.5, asked 3\.0"),
        ({"seed": 1}, r"options\.seed was 0, asked 1"),
        ({"dropout": 0.0}, r"options\.dropout was None, asked 0\.0"),
        ({"distil_share": 0.25}, r"options\.distil_share was 0\.5, asked 0\.25"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    killed_at(tmp_path / "checkpoint", 0.25)
    with pytest.raises(InputError, match=rf"checkpoint: a checkpoint of another training: {line}; remove it to"):
        trained(tmp_path / "checkpoint", options=TrainOptions(**{**vars(OPTIONS), **options}))


def test_a_checkpoint_of_another_model_other_rows_or_another_teacher_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    killed_at(path, 0.25)
    other = ROWS.subset(np.arange(80)[::-1])
    keeps = fresh().slim(DENSE.replace(0, "keep_percent", 50))  # the same tensors
    for model, rows, logits, name in (
        (fresh(seed=1, hidden_dropout_prob=0.2), ROWS, LOGITS, "model"),
        (fresh().slim(SMALL), ROWS, LOGITS, "genome"),
        (keeps, ROWS, LOGITS, "genome"),
        (fresh(hidden_dropout_prob=0.2), other, LOGITS, "rows"),
        (fresh(hidden_dropout_prob=0.2), ROWS, -LOGITS, "rows"),
    ):
        before = weights_of(model)
        with pytest.raises(InputError, match=f"a checkpoint of another training: {name} was") as refused:
            train(model, rows, OPTIONS, teacher_logits=logits, checkpoints=Checkpoints(path))
        assert "\n" not in str(refused.value)
        assert all(torch.equal(model.state_dict()[one], value) for one, value in before.items())
        assert not model.training


@pytest.mark.parametrize("damage", [changed, moved, emptied])
def test_a_checkpoint_that_was_changed_is_refused(
    tmp_path: Path, damage: Callable[[dict[str, Tensor], dict[str, Any]], None]
) -> None:
    path = tmp_path / "checkpoint"
    killed_at(path, 0.5)
    with safe_open(path, framework="pt") as stream:
        metadata = stream.metadata()
    header, tensors = json.loads(metadata["checkpoint"]), load_file(path)
    damage(tensors, header)
    save_file(tensors, path, {**metadata, "checkpoint": json.dumps(header)})
    for use in (lambda: trained(path), lambda: done_share(path)):
        with pytest.raises(
            InputError, match=r"checkpoint: a damaged checkpoint: .*; remove it to train anew"
        ) as refused:
            use()
        assert "\n" not in str(refused.value)


def test_a_checkpoint_that_is_cut_off_empty_or_none_at_all_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    killed_at(path, 0.5)
    content = path.read_bytes()
    plain = tmp_path / "plain"
    save_file({"x": torch.zeros(2)}, plain)
    for damaged in (b"", content[:7], content[:2000], content[:-1], content[:-1] + b"?", plain.read_bytes()):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="checkpoint: a damaged checkpoint"):
            trained(path)


class Harmful:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint"
    harmful = pickle.dumps(Harmful(tmp_path / "mark"))
    path.write_bytes(harmful)
    with pytest.raises(InputError, match="a damaged checkpoint"):
        trained(path)
    torch.save(Harmful(tmp_path / "mark"), path)
    with pytest.raises(InputError, match="a damaged checkpoint"):
        trained(path)
    assert not (tmp_path / "mark").exists()
    pickle.loads(harmful)  # noqa: S301
    assert (tmp_path / "mark").exists()


def test_a_checkpoint_that_cannot_be_written_ends_the_training_and_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "checkpoint"
    killed_at(path, 0.25)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sparsefront.models.checkpoint.os.replace", full)
    with pytest.raises(RunFailed, match=r"checkpoint: the checkpoint cannot be written: .*No space left"):
        trained(path)
    assert path.read_bytes() == before and [one.name for one in tmp_path.iterdir()] == ["checkpoint"]
