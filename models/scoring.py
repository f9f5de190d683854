"""Logits of a model over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.batching import FeatureTensors, Precision, TensorBatch, autocast, to_tensors
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded
from sparsefront.models.feature_model import FeatureModel
from sparsefront.models.gated_encoding import Gates
from sparsefront.models.rows import TokenRows
from sparsefront.models.spans import NO_TOKEN
from sparsefront.spaces import Genome

UNPADDED_FROM = 1024
"""Tokens of rows of one length from which on they are scored without padding (``benchmarks/unpadded.py``)."""


def score_rows(
    model: CrossEncoder | FeatureModel,
    rows: TokenRows,
    *,
    genome: Genome | None = None,
    gates: Gates | None = None,
    tokens_per_batch: int = 4096,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logits in the rows' own order, of their ``logits_shape``.

    Args:
        model: dense, slim or supernet.
        rows: what to score.
        genome: widths and keep schedule to run; the model's own by default.
        gates: drop tokens by another rule than the genome's schedule.
        tokens_per_batch: in one batch.
        precision: ``fp32`` for exact comparisons; ``auto`` takes bf16 where the hardware is fast at it.
        progress: called with (rows done, rows in all).
    """
    logits = no_logits(model, rows)
    batches = scoring_batches(rows, next(model.parameters()).device, tokens_per_batch=tokens_per_batch)
    score_batches(model, batches, logits, genome=genome, gates=gates, precision=precision, progress=progress)
    return logits


def no_logits(model: CrossEncoder | FeatureModel, rows: TokenRows) -> NDArray[np.float32]:
    """Room for the model's logits of the rows, not filled; of spans, ``(rows, tokens, 2)``, without a chance."""
    outputs: int = model.config.outputs
    if model.config.per_token:
        return no_span_logits(rows)
    return np.empty(len(rows) if outputs == 1 else (len(rows), outputs), np.float32)


def no_span_logits(rows: TokenRows) -> NDArray[np.float32]:
    """``(rows, tokens of the longest, 2)`` logits of which none has a chance."""
    return np.full(rows.logits_shape, NO_TOKEN, np.float32)


def put_logits(logits: NDArray[np.float32], index: NDArray[np.int64], found: NDArray[np.float32]) -> None:
    """Write those of a batch where its rows stand; of spans, beyond the batch's longest row there is no token."""
    if found.ndim == 3:
        logits[index, : found.shape[1]] = found
    else:
        logits[index] = found


def scoring_batches(rows: TokenRows, device: torch.device, *, tokens_per_batch: int = 4096) -> Iterator[TensorBatch]:
    """Every row once, without padding where that pays; keep the batches where the same rows are scored many times."""
    for batch in rows.batches(tokens_per_batch=tokens_per_batch, unpadded_from=UNPADDED_FROM):
        yield to_tensors(batch, device)


def encoded_batches(
    model: CrossEncoder,
    rows: TokenRows,
    encode: Callable[[TensorBatch], Encoded],
    *,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[TensorBatch, Encoded]]:
    """Batches of every row once, with what ``encode`` makes of them; the model is left in evaluation mode."""
    model.eval()
    done = 0
    for batch in scoring_batches(rows, next(model.parameters()).device):
        with autocast(batch.input_ids.device, precision):
            encoded = encode(batch)
        yield batch, encoded
        done += len(batch.index)
        if progress is not None:
            progress(done, len(rows))


@torch.inference_mode()
def score_batches(
    model: CrossEncoder | FeatureModel,
    batches: Iterable[TensorBatch],
    logits: NDArray[np.float32],
    *,
    genome: Genome | None = None,
    gates: Gates | None = None,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the logits of the batches' rows where those rows stand in ``logits``; the others stay as they are.

    Args:
        model: dense, slim or supernet; left in the mode it was in.
        batches: on the model's device.
        logits: of all rows, in their own order, as :func:`no_logits` makes room for them.
        genome: as for :func:`score_rows`.
        gates: likewise.
        precision: likewise.
        progress: called with (rows done, rows in all).
    """
    was_training = model.training
    model.eval()
    done = 0
    for batch in batches:
        with autocast(batch.input_ids.device, precision):
            encoded = model.encode(batch, genome=genome, gates=gates)
        put_logits(logits, batch.index.cpu().numpy(), model.logits_of(encoded).cpu().numpy())
        done += len(batch.index)
        if progress is not None:
            progress(done, len(logits))
    model.train(was_training)


def chosen_of(batch: TensorBatch, chosen: NDArray[np.bool_]) -> TensorBatch:
    """The rows of a batch that are chosen, perhaps none; padded as they were, so that their logits stay the same but
    for rounding.

    Args:
        batch: some of all rows.
        chosen: (rows,) of all rows.
    """
    part = torch.from_numpy(chosen).to(batch.index.device)[batch.index]
    return TensorBatch(
        input_ids=batch.input_ids[part],
        attention_mask=batch.attention_mask[part],
        token_type_ids=batch.token_type_ids[part],
        target=batch.target[part],
        index=batch.index[part],
        features=None
        if batch.features is None
        else FeatureTensors(batch.features.numeric[part], batch.features.categorical[part]),
        vectors=None if batch.vectors is None else batch.vectors[part],
    )
