"""From numpy batches of rows to tensors on a device, and the number formats that device is good at."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from sparsefront.models.rows import Batch

Precision = Literal["auto", "bf16", "fp32"]
_BF16_MULTIPLE = 8


@dataclass(frozen=True)
class FeatureTensors:
    """Features of a batch: ``numeric (batch, columns)``, NaN where a value is missing, and ``categorical`` ids."""

    numeric: Tensor
    categorical: Tensor


@dataclass(frozen=True)
class TensorBatch:
    """A padded batch on a device: ids, types and mask ``(batch, tokens)``, target and row index ``(batch,)``; features
    where rows have some; vectors ``(batch, tokens, width)`` fp32, zero at padding, where rows are made of looked-up
    texts."""

    input_ids: Tensor
    attention_mask: Tensor
    token_type_ids: Tensor
    target: Tensor
    index: Tensor
    features: FeatureTensors | None = None
    vectors: Tensor | None = None


def to_tensors(batch: Batch, device: torch.device) -> TensorBatch:
    """Copy a numpy batch to the device."""
    own = batch.features
    return TensorBatch(
        input_ids=torch.from_numpy(batch.input_ids).to(device),
        attention_mask=torch.from_numpy(batch.attention_mask).to(device),
        token_type_ids=torch.from_numpy(batch.token_type_ids).to(device),
        target=torch.from_numpy(batch.target).to(device),
        index=torch.from_numpy(batch.index).to(device),
        features=None
        if own is None
        else FeatureTensors(
            torch.from_numpy(own.numeric).to(device), torch.from_numpy(own.categorical).long().to(device)
        ),
        vectors=_looked_up(batch, device),
    )


def _looked_up(batch: Batch, device: torch.device) -> Tensor | None:
    """The vectors of a batch's texts, which alone leave fp16."""
    if batch.vectors is None:
        return None
    real = batch.attention_mask.astype(np.bool_)
    found = np.zeros((*real.shape, batch.vectors.shape[1]), np.float16)
    found[real] = batch.vectors[batch.input_ids[real]]
    return torch.from_numpy(found).to(device).float()


def best_device() -> torch.device:
    """The GPU when there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def uses_bf16(device: torch.device, precision: Precision) -> bool:
    """Whether bf16 is asked for or, by ``auto``, is what the hardware multiplies fastest."""
    return precision == "bf16" or (precision == "auto" and _multiplies_bf16(device.type))


def pad_to(device: torch.device, precision: Precision) -> int:
    """Of how many tokens the length of a training batch is a multiple.

    In bf16 of 8: oneDNN compiles and keeps a kernel per shape, three for every product of every layer. In fp32 of 1.
    """
    return _BF16_MULTIPLE if uses_bf16(device, precision) else 1


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """bf16 autocast where :func:`uses_bf16` says so, else none."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=uses_bf16(device, precision))


@functools.cache
def _multiplies_bf16(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "arm_bf16"))
