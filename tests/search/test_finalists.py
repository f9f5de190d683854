from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.search.conftest import Finished

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.training import TrainOptions
from sparsefront.search.finalists import finish
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.steps import step_seconds
from sparsefront.spaces import Genome, InputError

SMALL = Genome.from_columns(heads=[1, 0], ffn_units=[16, 16], keep_percent=[50, 100])


def test_a_finalist_is_trained_exported_and_measured_once(prepared: Prepared, tmp_path: Path) -> None:
    folder = tmp_path / SMALL.key()
    made = [
        finish(
            folder,
            SMALL,
            prepared,
            TrainOptions(),
            budget_us=1e9,
            supernet_quality=0.6,
            reporter=Silent(),
            title="finalist",
        )
        for _ in range(2)
    ]
    assert made[0] == made[1]  # the second is read back: a measurement would differ
    assert made[0].measured_us <= made[0].measured_p95_us and made[0].supernet_quality == 0.6
    assert made[0].predicted_us == pytest.approx(prepared.measured.table.predict(SMALL))
    model = CrossEncoder.from_pretrained(folder)
    assert model.genome == SMALL and sum(p.numel() for p in model.parameters()) == made[0].parameters
    before = prepared.supernet.slim(SMALL).state_dict()
    assert any(not torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(InputError, match=r"was made with options\.epochs=1\.0, asked 2\.0"):
        finish(
            folder,
            SMALL,
            prepared,
            TrainOptions(epochs=2.0),
            budget_us=1e9,
            supernet_quality=0.6,
            reporter=Silent(),
            title="again",
        )


def test_the_folders_of_the_finished_run_are_whole_exports(finished: Finished) -> None:
    for row in finished.at["finalists"]:
        folder = finished.folder / FINALISTS / row["genome"]
        assert {"model.safetensors", "model.onnx", "config.json", "tokenizer.json"} <= {
            p.name for p in folder.iterdir()
        }
        assert step_seconds(folder) > 0
