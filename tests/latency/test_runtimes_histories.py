"""Static shapes serve a model of histories, whether it has more places than that or fewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.models.test_bahe import BRANCH, make_bahe, make_histories

from sparsefront.latency.drift import measure_session
from sparsefront.latency.runtime import Runtime, Takes, feeds_of_length
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.scoring import score_rows
from sparsefront.search.export import serve_rows
from sparsefront.spaces import Genome

PLACES = 8
"""Of the model: seven behaviours, and [CLS]'s."""


@pytest.fixture
def static() -> Runtime:
    pytest.importorskip("openvino", reason="static shapes are OpenVINO's")
    return runtime("openvino", shapes="static")


@pytest.mark.parametrize("length", [4, PLACES - 1, PLACES, PLACES + 1])
@pytest.mark.parametrize("with_features", [False, True])
def test_a_static_export_serves_ragged_histories_of_any_number_of_places(
    length: int, with_features: bool, static: Runtime, tmp_path: Path
) -> None:
    model = make_bahe(
        Genome.from_columns([3, 1, 2], [20, 9, 20], [100, 60, 100]), histories=2, **(BRANCH if with_features else {})
    )
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx", static_shape=(2, length))
    session = static.load_export(tmp_path)
    takes = Takes.of(model.config)
    assert session.takes == takes and takes.histories == 2  # type: ignore[attr-defined]
    rows = make_histories([[3, 1], [0, 2], [length - 1, 0]], features=with_features)
    np.testing.assert_allclose(serve_rows(session, rows), score_rows(model, rows, precision="fp32"), atol=2e-4)
    assert measure_session(session, statistic=Statistic.of_length(length, batch=2), visits=5).median_us > 0


@pytest.mark.parametrize("heads", [0, 2])
def test_a_model_in_memory_is_compiled_for_every_length_of_histories(heads: int, static: Runtime) -> None:
    model = make_bahe(Genome.uniform(3, heads=heads, ffn_units=20))
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    session, dynamic = (one.load(model.config, arrays) for one in (static, runtime("onnxruntime")))
    for length in (2, PLACES, PLACES + 1):
        feeds = Takes.of(model.config).feeds(feeds_of_length(length, batch=2))
        np.testing.assert_allclose(session.run(feeds), dynamic.run(feeds), atol=1e-4)
