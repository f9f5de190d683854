from __future__ import annotations

import dataclasses
import json

import pytest
from tests.latency.synthetic import FINGERPRINT

from sparsefront.latency.machine import MachineFingerprint
from sparsefront.spaces import InputError


def test_this_machine() -> None:
    here = MachineFingerprint.here(runtime="onnxruntime", runtime_version="1.0", threads=1, length_tokens=48)
    assert here.cpu
    assert here.cores >= 1
    assert (here.precision, here.batch, here.length_tokens) == ("fp32", 1, 48)
    assert here == MachineFingerprint.here(runtime="onnxruntime", runtime_version="1.0", threads=1, length_tokens=48)


def test_differences_are_lines() -> None:
    assert FINGERPRINT.differences(FINGERPRINT) == []
    other = dataclasses.replace(FINGERPRINT, threads=2, isa=("avx2",))
    assert FINGERPRINT.differences(other) == ["isa: table avx2 fma, asked avx2", "threads: table 1, asked 2"]


def test_json_is_strict() -> None:
    values = json.loads(json.dumps(FINGERPRINT.to_json()))
    assert MachineFingerprint.from_json(values) == FINGERPRINT
    for broken in (
        {**values, "threads": "1"}, {**values, "threads": True}, {**values, "isa": "avx2"}, {**values, "new": 1},
        {name: value for name, value in values.items() if name != "cpu"},
    ):  # fmt: skip
        with pytest.raises(InputError, match="machine fingerprint"):
            MachineFingerprint.from_json(broken)
