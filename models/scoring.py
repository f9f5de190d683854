"""Logits of a model over rows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.batching import Precision, autocast, to_tensors
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.spaces import Genome


@torch.inference_mode()
def score_rows(
    model: CrossEncoder,
    rows: TokenRows,
    *,
    genome: Genome | None = None,
    tokens_per_batch: int = 4096,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits ``(rows,)`` in the rows' own order.

    Args:
        model: dense, slim or supernet.
        rows: what to score.
        genome: widths and keep schedule to run; the model's own by default.
        tokens_per_batch: padded tokens in one batch.
        precision: ``fp32`` for exact comparisons; ``auto`` takes bf16 where the hardware is fast at it.
        progress: called with (rows done, rows in all).
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    logits = np.empty(len(rows), dtype=np.float32)
    done = 0
    for batch in rows.batches(tokens_per_batch=tokens_per_batch, shuffle_seed=None):
        tensors = to_tensors(batch, device)
        with autocast(device, precision):
            encoded = model.encoder(tensors.input_ids, tensors.attention_mask, tensors.token_type_ids, genome=genome)
        logits[batch.index] = model.rank(encoded).cpu().numpy()
        done += len(batch.index)
        if progress is not None:
            progress(done, len(rows))
    model.train(was_training)
    return logits
