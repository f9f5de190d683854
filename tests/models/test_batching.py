"""Batches as tensors, and the choice of number format."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.models.tiny import make_rows

from sparsefront.models import batching
from sparsefront.models.batching import Precision, autocast, best_device, pad_to, to_tensors, uses_bf16
from sparsefront.models.scoring import chosen_of

CPU = torch.device("cpu")


def test_tensors_hold_what_the_batch_holds() -> None:
    (batch,) = make_rows([3, 1, 5]).batches(batch_size=3)
    tensors = to_tensors(batch, CPU)
    for name in ("input_ids", "attention_mask", "token_type_ids", "target", "index"):
        array, tensor = getattr(batch, name), getattr(tensors, name)
        assert tensor.device == CPU
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype


def test_vectors_are_looked_up_per_token_and_are_zero_at_padding() -> None:
    rows = make_rows([3, 1, 5])
    vectors = np.random.default_rng(0).normal(size=(int(rows.input_ids.max()) + 1, 4)).astype(np.float16)
    (batch,) = replace(rows, vectors=vectors).batches(batch_size=3)
    tensors = to_tensors(batch, CPU)
    assert tensors.vectors is not None and tensors.vectors.dtype == torch.float32
    assert tensors.vectors.shape == (3, 5, 4)
    wanted = vectors[batch.input_ids].astype(np.float32) * batch.attention_mask[:, :, None]
    np.testing.assert_array_equal(tensors.vectors.numpy(), wanted)
    assert vectors[0].any() and not tensors.vectors[0, 1:].any(), "padding is text 0, but zero"
    chosen = chosen_of(tensors, np.array([True, False, True]))
    assert chosen.vectors is not None
    assert torch.equal(chosen.vectors, tensors.vectors[[one != 1 for one in batch.index]])
    assert to_tensors(next(rows.batches(batch_size=3)), CPU).vectors is None


def test_best_device_is_the_gpu_when_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=available: found)
        assert best_device().type == kind


@pytest.mark.parametrize(
    ("precision", "fast", "expected"),
    [("bf16", False, True), ("bf16", True, True), ("auto", True, True), ("auto", False, False), ("fp32", True, False)],
)
def test_precision(monkeypatch: pytest.MonkeyPatch, precision: Precision, fast: bool, expected: bool) -> None:
    monkeypatch.setattr(batching, "_multiplies_bf16", lambda kind: fast)
    assert uses_bf16(CPU, precision) is expected
    assert pad_to(CPU, precision) == (8 if expected else 1)
    with autocast(CPU, precision):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if expected else torch.float32)


@pytest.mark.parametrize(
    ("capabilities", "fast"),
    [
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True, "avx512_bf16": False}, True),
        ({"arm_bf16": True}, True),
        ({"avx2": True, "avx512_f": True, "avx512_bf16": False}, False),
        ({}, False),
    ],
)
def test_auto_asks_the_processor(monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    batching._multiplies_bf16.cache_clear()
    try:
        assert uses_bf16(CPU, "auto") is fast
    finally:
        batching._multiplies_bf16.cache_clear()
