from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.search.conftest import Finished

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.training import TrainOptions
from sparsefront.search.finalists import Finalist, best_within, finish
from sparsefront.search.fine_tuning import FineTuning
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.steps import step_seconds
from sparsefront.spaces import Genome, InputError

OPTIONS = TrainOptions(tokens_per_batch=256)
SMALL = Genome.from_columns(heads=[1, 0], ffn_units=[16, 16], keep_percent=[50, 100])


def made(run: Path, prepared: Prepared, options: TrainOptions) -> Finalist:
    return finish(
        run / FINALISTS / SMALL.key(),
        SMALL,
        prepared,
        options,
        tuning=FineTuning(run, SMALL),
        budget_us=1e9,
        supernet_quality=0.6,
        reporter=Silent(),
        title="finalist",
    )


def test_a_finalist_is_trained_exported_and_measured_once(prepared: Prepared, tmp_path: Path) -> None:
    first, again = (made(tmp_path, prepared, TrainOptions()) for _ in range(2))
    assert first == again  # the second is read back: a measurement would differ
    assert first.measured_us <= first.measured_p95_us and first.supernet_quality == 0.6
    assert first.predicted_us == pytest.approx(prepared.measured.table.predict(SMALL))
    model = CrossEncoder.from_pretrained(tmp_path / FINALISTS / SMALL.key())
    assert model.genome == SMALL and sum(p.numel() for p in model.parameters()) == first.parameters
    before = prepared.supernet.slim(SMALL).state_dict()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"was made with options\.epochs=1\.0, asked 2\.0"):
        made(tmp_path, prepared, TrainOptions(epochs=2.0))


def test_a_training_that_was_interrupted_is_not_begun_anew(prepared: Prepared, tmp_path: Path) -> None:
    whole = made(tmp_path / "whole", prepared, OPTIONS)

    def lost(done: int, total: int) -> None:
        if done > 0.7 * total:
            raise KeyboardInterrupt

    tuning = FineTuning(tmp_path, SMALL)
    with pytest.raises(KeyboardInterrupt):
        tuning.train(
            prepared.supernet,
            prepared.rows["train"],
            OPTIONS,
            teacher_logits=prepared.teacher_logits,
            progress=lost,
        )
    assert not tuning.done
    seen: list[float] = []
    tuning.train(
        prepared.supernet,
        prepared.rows["train"],
        OPTIONS,
        teacher_logits=prepared.teacher_logits,
        progress=lambda done, total: seen.append(done / total),
    )
    assert tuning.done and seen[0] >= 0.5
    assert made(tmp_path, prepared, OPTIONS).fp32_valid_quality == whole.fp32_valid_quality


def test_the_best_within_the_budget_is_taken_and_the_first_of_equals() -> None:
    def one(genome: str, valid_quality: float, measured_us: float) -> Finalist:
        return Finalist(genome, 0.5, valid_quality, valid_quality, measured_us, measured_us, measured_us, 1)

    slow, good, equal, poor = one("a", 0.9, 101.0), one("b", 0.8, 100.0), one("c", 0.8, 50.0), one("d", 0.7, 40.0)
    assert best_within([slow, poor, good, equal], 100.0) is good and best_within([equal, good], 100.0) is equal
    assert best_within([poor, slow], 30.0) is slow, "where none is within, the best of all"


def test_the_folders_of_the_finished_run_are_whole_exports(finished: Finished) -> None:
    for row in finished.at["finalists"]:
        folder = finished.folder / FINALISTS / row["genome"]
        assert {"model.safetensors", "model.onnx", "config.json", "tokenizer.json"} <= {
            p.name for p in folder.iterdir()
        }
        assert step_seconds(folder) > 0
