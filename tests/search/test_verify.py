from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.search.conftest import Finished
from tests.search.tiny import write_task

from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.task import Task
from sparsefront.search.export import ONNX_MODEL, SPARSE_CONFIG
from sparsefront.search.prepare import Prepared
from sparsefront.search.verify import random_rows, verify
from sparsefront.spaces import Genome, InputError


@pytest.fixture
def export(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder / "export", tmp_path / "export"))


def edit(export: Path, **changes: Any) -> None:
    path = export / SPARSE_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_export_keeps_what_it_promises(finished: Finished, export: Path) -> None:
    found = verify(export, tolerance=9.0)
    assert found.holds and found.parity <= 1e-4 and found.machine_differences == [] and found.rows_note is None
    assert found.promised_quality == finished.at["winner"]["test_quality"]
    assert found.test_quality == pytest.approx(found.promised_quality, abs=1e-3)


def test_over_the_budget(export: Path) -> None:
    edit(export, budget_us=0.5)
    found = verify(export)
    assert not found.within_budget and found.parity_holds and not found.holds
    assert verify(export, tolerance=1e6).holds


def test_another_graph_is_out_of_parity(export: Path, prepared: Prepared) -> None:
    export_onnx(prepared.supernet.slim(Genome.uniform(2, heads=2, ffn_units=64)), export / ONNX_MODEL, overwrite=True)
    found = verify(export, tolerance=9.0)
    assert found.parity > 1e-4 and not found.holds


def test_without_the_rows_everything_else_is_checked(export: Path, tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    fingerprint = Task.from_file(task).fingerprint
    source = {"name": "tiny", "source": str(task), "fingerprint": fingerprint, "metric": "auc"}
    edit(export, task=source)
    assert verify(export, tolerance=9.0).test_quality is not None
    (tmp_path / "task" / "rows.parquet").unlink()
    found = verify(export, tolerance=9.0)
    assert found.holds and found.test_quality is None and "rows.parquet is not there" in str(found.rows_note)
    task.unlink()
    assert verify(export, tolerance=9.0).rows_note == f"{task} is not there"
    edit(export, task={**source, "source": None})
    assert "given by a program" in str(verify(export, tolerance=9.0).rows_note)


def test_other_rows_are_never_scored(export: Path, tmp_path: Path) -> None:
    other = write_task(tmp_path / "task", rows=400)
    with pytest.raises(InputError, match="was made for task 'tiny', the rows given are of another"):
        verify(export, task=Task.from_file(other))
    config = json.loads((export / SPARSE_CONFIG).read_text())
    edit(export, task={**config["task"], "source": str(other)})
    found = verify(export, tolerance=9.0)
    assert found.test_quality is None and "no longer what the export was made for" in str(found.rows_note)


def test_another_machine_is_told(export: Path) -> None:
    config = json.loads((export / SPARSE_CONFIG).read_text())
    edit(export, fingerprint={**config["fingerprint"], "cpu": "Another CPU"})
    assert verify(export, tolerance=9.0).machine_differences[0].startswith("cpu: table Another CPU, asked ")


def test_damaged_exports_are_refused(export: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        verify(tmp_path / "none")
    config = json.loads((export / SPARSE_CONFIG).read_text())
    genomes = [Genome.uniform(2, heads=heads, ffn_units=64).key() for heads in (0, 1)]
    genome = next(key for key in genomes if key != config["genome"])
    edit(export, genome=genome)
    with pytest.raises(InputError, match=f"sparse_config.json says {genome}, the model is {config['genome']}"):
        verify(export)
    edit(export, genome=config["genome"])
    graph = (export / ONNX_MODEL).read_bytes()
    (export / ONNX_MODEL).write_bytes(graph[: len(graph) // 2])
    with pytest.raises(InputError, match="ONNX Runtime cannot load it"):
        verify(export)


def test_random_rows_are_ragged_and_in_the_vocabulary(prepared: Prepared) -> None:
    rows = random_rows(prepared.supernet, 16)
    assert len(set(rows.lengths)) > 5 and rows.lengths.min() >= 1 and rows.lengths.max() <= 16
    assert rows.input_ids.max() < prepared.supernet.config.vocab_size
