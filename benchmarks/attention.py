"""Attention in training: plain products against the fused kernel, by length, forward and backward.

MiniLM's heads; the same tokens per batch at every length, the last two of each row padding. The two take turns.

    python benchmarks/attention.py [--quick]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from common import Target, write_result
from torch import Tensor
from torch.nn import functional

from sparsefront.models.encoder import FUSED_FROM_TOKENS

HEADS, HEAD_SIZE = 12, 32
TOKENS = 2048
LENGTHS = (16, 24, 32, 48, 64, 96, 128, 176, 256, 384, 512)
ROUNDS, STEPS = 15, 3


def plain(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """As a layer that scores computes it."""
    logits = query @ key.transpose(-1, -2) * HEAD_SIZE**-0.5
    weighted: Tensor = logits.masked_fill(~mask, float("-inf")).softmax(-1) @ value
    return weighted


def fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    """As torch does."""
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def milliseconds(attend: Callable[..., Tensor], arguments: list[Tensor]) -> float:
    """Of one forward and backward pass, the fastest of a few."""
    took = []
    for _ in range(STEPS):
        started = time.perf_counter()
        attend(*arguments).square().mean().backward()
        took.append(1e3 * (time.perf_counter() - started))
    return min(took)


def main() -> None:
    """Measure all lengths."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two lengths, three rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[dict[str, Any]] = []
    for length in (16, 128) if quick else LENGTHS:
        batch = max(1, TOKENS // length)
        mask = torch.ones(batch, 1, 1, length, dtype=torch.bool)
        mask[..., -2:] = False
        drawn = [torch.randn(batch, HEADS, length, HEAD_SIZE, requires_grad=True) for _ in range(3)]
        pairs = [[milliseconds(one, [*drawn, mask]) for one in (plain, fused)] for _ in range(3 if quick else ROUNDS)]
        ratios = [second / first for first, second in pairs]
        first, second = np.median(pairs, axis=0)
        rows.append(
            {
                "tokens": length,
                "rows_per_batch": batch,
                "plain_ms": round(float(first), 3),
                "fused_ms": round(float(second), 3),
                "fused_over_plain": round(float(np.median(ratios)), 3),
                "fused_over_plain_quartiles": np.round(np.quantile(ratios, [0.25, 0.75]), 3).tolist(),
            }
        )
    above = [row["fused_over_plain"] for row in rows if row["tokens"] >= FUSED_FROM_TOKENS]
    name = f"fused kernel over plain products from {FUSED_FROM_TOKENS} tokens on, the longest time ratio"
    write_result("attention", rows, [Target(name, "<=", 1.0, max(above))], [0], quick)


if __name__ == "__main__":
    main()
