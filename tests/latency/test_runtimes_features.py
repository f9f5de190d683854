"""Every runtime serves a model with features, alike and by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.models.test_bert4ctr import EDGES, IDS, featured, make_model
from tests.models.tiny import make_rows

from sparsefront.latency.drift import measure_session
from sparsefront.latency.load import serve
from sparsefront.latency.runtime import Takes, feeds_for, feeds_of_length
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.scoring import score_rows
from sparsefront.search.export import serve_rows
from sparsefront.spaces import Genome

LONGEST = 16


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("onnxruntime", "dynamic"), ("openvino", "dynamic"), ("openvino", "static"), ("torch", "dynamic")],
)
def test_an_export_serves_ragged_rows_and_is_timed_without_being_told_of_features(
    name: str, shapes: str, tmp_path: Path
) -> None:
    model = make_model(Genome.from_columns([3, 1, 2], [20, 9, 20], [100, 60, 100]))
    model.save_pretrained(tmp_path)
    export_onnx(model, tmp_path / "model.onnx", static_shape=(2, LONGEST) if shapes == "static" else None)
    session = runtime(name, shapes=shapes).load_export(tmp_path)
    rows = featured(make_rows([3, 16, 9, 1, 12]))
    np.testing.assert_allclose(serve_rows(session, rows), score_rows(model, rows, precision="fp32"), atol=2e-4)
    assert session.takes == Takes(len(EDGES), len(IDS))  # type: ignore[attr-defined]
    assert measure_session(session, statistic=Statistic.of_length(LONGEST, batch=2), visits=5).median_us > 0
    assert serve([session], feeds_of_length(LONGEST), seconds=0.05, warmup=1).rows_per_second > 0


def test_features_that_are_there_stay_and_missing_ones_are_filled_in() -> None:
    session = runtime("onnxruntime").load(make_model().config)
    text = feeds_of_length(5, batch=3)
    numeric = np.ones((3, len(EDGES)), np.float32)
    filled = feeds_for(session, {**text, "numeric": numeric})
    assert filled["numeric"] is numeric and (filled["categorical"] == 0).all()
    assert filled["categorical"].shape == (3, len(IDS)) and np.isfinite(session.run(filled)).all()
    plain = runtime("onnxruntime").load(make_model().config.text)
    assert feeds_for(plain, text) is text
