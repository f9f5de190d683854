"""Every runtime keeps the same contract."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sparsefront.latency.runtime import Runtime, feeds_of_length
from sparsefront.latency.runtimes import RUNTIMES, runtime
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


WAYS = [(name, precision) for name, kind in sorted(RUNTIMES.items()) for precision in kind.precisions]
# Largest difference of a logit to fp32: bf16 rounds to 8 bits, int8 to 7 and a sign, and both round in every layer.
TOLERANCE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.05}


def asked(name: str, precision: str, shapes: str = "dynamic") -> Runtime:
    """The runtime, or a skipped test where this CPU or this environment does not have it."""
    try:
        return runtime(name, threads=1, precision=precision, shapes=shapes)
    except InputError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("name", "precision"), WAYS)
def test_runtimes_agree(name: str, precision: str, config: CrossEncoderConfig, tmp_path: Path) -> None:
    arrays = random_arrays(config, scale=0.3)
    feeds = feeds_of_length(9, batch=3)
    served = asked(name, precision)
    assert (served.name, served.threads, served.precision) == (name, 1, precision)
    assert served.version[0].isdigit() and served.fingerprint(length_tokens=9).precision == precision
    tolerance = TOLERANCE[precision]
    logits = served.load(config, arrays).run(feeds)
    assert logits.shape == (3,)
    assert logits.dtype == np.float32
    reference = runtime("onnxruntime").load(config, arrays).run(feeds)
    np.testing.assert_allclose(logits, reference, atol=tolerance)
    assert len(np.unique(logits)) == 3
    assert np.isfinite(served.load(config).run(feeds_of_length(1))).all()

    model = CrossEncoder(config)
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx", precision=served.graph_precision)
    exported = served.load_export(tmp_path).run(feeds)
    np.testing.assert_allclose(exported, runtime("torch").load_export(tmp_path).run(feeds), atol=tolerance)


def pairs_of_length(length: int, *, batch: int) -> dict[str, npt.NDArray[np.int64]]:
    """Rows whose second half is the second text."""
    feeds = feeds_of_length(length, batch=batch)
    feeds["token_type_ids"][:, length // 2 :] = 1
    return feeds


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize(("name", "precision"), WAYS)
def test_runtimes_agree_on_every_output(
    name: str, precision: str, spans: bool, config: CrossEncoderConfig, tmp_path: Path
) -> None:
    served, feeds = asked(name, precision), pairs_of_length(9, batch=3)
    several = config.with_spans() if spans else config.with_classes(("a", "b", "c", "d"))
    arrays = random_arrays(several, scale=0.3)
    logits = served.load(several, arrays).run(feeds)
    assert logits.shape == ((3, 9, 2) if spans else (3, 4)) and logits.dtype == np.float32
    np.testing.assert_allclose(logits, runtime("torch").load(several, arrays).run(feeds), atol=TOLERANCE[precision])
    model = CrossEncoder(several)
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx", precision=served.graph_precision)
    exported = served.load_export(tmp_path).run(feeds)
    np.testing.assert_allclose(exported, runtime("torch").load_export(tmp_path).run(feeds), atol=TOLERANCE[precision])


def test_padding_and_rows_beside_it_change_no_logit(config: CrossEncoderConfig) -> None:
    arrays, alone = random_arrays(config, scale=0.3), feeds_of_length(5)
    padded = {name: np.pad(values, ((0, 1), (0, 4))) for name, values in alone.items()}
    padded["attention_mask"][1] = 1
    for name in sorted(RUNTIMES):
        session = asked(name, "fp32").load(config, arrays)
        np.testing.assert_allclose(session.run(padded)[:1], session.run(alone), atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("batch", "classes"), [(1, ()), (2, ()), (2, ("a", "b", "c")), (2, None)])
def test_static_shapes_change_no_logit(
    batch: int, classes: tuple[str, ...] | None, config: CrossEncoderConfig, tmp_path: Path
) -> None:
    static = asked("openvino", "fp32", "static")
    config = config.with_spans() if classes is None else config.with_classes(classes)
    model = CrossEncoder(config)
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx", static_shape=(batch, 9))
    arrays, session = random_arrays(config, scale=0.3), static.load_export(tmp_path)
    loaded, dynamic = static.load(config, arrays), runtime("onnxruntime").load(config, arrays)
    for rows, length in ((batch, 9), (3, 5), (1, 1)):
        feeds = pairs_of_length(length, batch=rows)
        np.testing.assert_allclose(loaded.run(feeds), dynamic.run(feeds), atol=1e-4)
        expected = runtime("torch").load_export(tmp_path).run(feeds)
        np.testing.assert_allclose(session.run(feeds), expected, atol=1e-4)
    with pytest.raises(InputError, match="rows of 10 tokens: the model was exported for at most 9"):
        session.run(feeds_of_length(10))
    with pytest.raises(InputError, match="was not exported for dynamic shapes"):
        asked("openvino", "fp32").load_export(tmp_path)
    assert static.fingerprint(length_tokens=9).differences(asked("openvino", "fp32").fingerprint(length_tokens=9)) == [
        "shapes: table static, asked dynamic"
    ]


def test_a_signal_after_sessions_have_come_and_gone_kills_nobody(config: CrossEncoderConfig) -> None:
    served = asked("openvino", "fp32")
    first = served.load(config)
    second = served.load(config)
    del first
    gc.collect()
    del second
    gc.collect()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_shapes_that_bring_nothing_or_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="runtime onnxruntime: shapes must be dynamic, static ones are not faster"):
        runtime("onnxruntime", shapes="static")
    with pytest.raises(InputError, match="shapes must be one of dynamic, static, got 'fixed'"):
        runtime("openvino", shapes="fixed")


def test_a_graph_of_another_precision_is_refused(config: CrossEncoderConfig, tmp_path: Path) -> None:
    export_onnx(CrossEncoder(config), tmp_path / "model.onnx")
    with pytest.raises(InputError, match="was exported for precision fp32, asked int8"):
        asked("onnxruntime", "int8").load_export(tmp_path)
    export_onnx(CrossEncoder(config), tmp_path / "model.onnx", precision="int8", overwrite=True)
    with pytest.raises(InputError, match="is not a graph in fp32 of this project"):
        asked("openvino", "fp32").load_export(tmp_path)


def test_a_precision_that_the_cpu_or_the_runtime_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="runtime onnxruntime: precision must be one of fp32, int8, got 'bf16'"):
        runtime("onnxruntime", precision="bf16")
    monkeypatch.setattr("sparsefront.latency.runtime.instruction_sets", lambda: ("avx2", "fma"))
    line = "precision bf16 needs a CPU with avx512_bf16 or amx_bf16, this one has avx2, fma"
    with pytest.raises(InputError, match=line):
        runtime("openvino", precision="bf16")


@pytest.mark.parametrize("name", sorted(RUNTIMES))
def test_an_empty_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected an export folder"):
        runtime(name).load_export(tmp_path)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match="cannot load"):
        runtime("onnxruntime").load_export(tmp_path)
    with pytest.raises(InputError, match="is not an ONNX file"):
        asked("openvino", "fp32").load_export(tmp_path)


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(InputError, match="onnxruntime, openvino, torch, got 'tvm'"):
        runtime("tvm")
    with pytest.raises(InputError, match="threads"):
        runtime("onnxruntime", threads=0)
    with pytest.raises(ValueError, match="length_tokens"):
        feeds_of_length(0)


def test_importing_latency_does_not_load_a_runtime() -> None:
    code = "import sys, sparsefront.latency.profile; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "False"]
