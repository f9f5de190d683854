"""Every runtime keeps the same contract."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sparsefront.latency.runtimes import RUNTIMES, feeds_of_length, runtime
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError


@pytest.fixture
def config() -> CrossEncoderConfig:
    return CrossEncoderConfig(
        vocab_size=120,
        hidden_size=16,
        head_size=4,
        layer_heads=[2, 1],
        layer_ffn_units=[8, 4],
        layer_keep_percent=[60, 100],
    )


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_runtimes_agree(name: str, config: CrossEncoderConfig, tmp_path: Path) -> None:
    arrays = random_arrays(config, scale=0.3)
    feeds = feeds_of_length(9, batch=3)
    served = runtime(name, threads=1)
    assert (served.name, served.threads, served.precision) == (name, 1, "fp32")
    assert served.version[0].isdigit()
    logits = served.load(config, arrays).run(feeds)
    assert logits.shape == (3,)
    assert logits.dtype == np.float32
    reference = runtime("onnxruntime").load(config, arrays).run(feeds)
    np.testing.assert_allclose(logits, reference, atol=1e-4)
    assert np.isfinite(served.load(config).run(feeds_of_length(1))).all()

    model = CrossEncoder(config)
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx")
    exported = served.load_export(tmp_path).run(feeds)
    np.testing.assert_allclose(exported, runtime("torch").load_export(tmp_path).run(feeds), atol=1e-4)


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_an_empty_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an export folder"):
        runtime(name).load_export(tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match="cannot load"):
        runtime("onnxruntime").load_export(tmp_path)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="onnxruntime, torch, got 'tvm'"):
        runtime("tvm")
    with pytest.raises(InputError, match="threads"):
        runtime("onnxruntime", threads=0)
    with pytest.raises(ValueError, match="length_tokens"):
        feeds_of_length(0)


def test_importing_latency_does_not_load_a_runtime() -> None:
    code = "import sys, sparsefront.latency.profile; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
