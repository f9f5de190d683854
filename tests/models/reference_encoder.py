"""A slim cross-encoder written row by row in numpy: slow, obvious, independent of torch and of the graph builder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsefront.models.config import CrossEncoderConfig

Floats = npt.NDArray[np.float64]
_erf = np.vectorize(math.erf, otypes=[np.float64])


def reference_logits(
    config: CrossEncoderConfig,
    arrays: Mapping[str, npt.NDArray[Any]],
    feeds: Mapping[str, npt.NDArray[np.int64]],
) -> Floats:
    """Logits (batch,), or (batch, outputs) of several, or (batch, tokens, 2) of spans; every row is computed alone,
    without its padding."""
    weights = {name: value.astype(np.float64) for name, value in arrays.items()}
    rows = zip(feeds["input_ids"], feeds["attention_mask"], feeds["token_type_ids"], strict=True)
    found = [_row(config, weights, ids[: mask.sum()], types[: mask.sum()]) for ids, mask, types in rows]
    if config.per_token:
        tokens = feeds["input_ids"].shape[1]
        padded = [np.pad(row, ((0, tokens - len(row)), (0, 0)), constant_values=-8192.0) for row in found]
        return np.array(padded)
    logits = np.array(found)
    return logits[:, 0] if config.outputs == 1 else logits


def smallest_rank_gap(
    config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]], feeds: Mapping[str, npt.NDArray[np.int64]]
) -> float:
    """Smallest distance between a kept and a dropped score, relative: below it float32 may rank either first."""
    gaps: list[float] = [1.0]
    weights = {name: value.astype(np.float64) for name, value in arrays.items()}
    for ids, mask, types in zip(feeds["input_ids"], feeds["attention_mask"], feeds["token_type_ids"], strict=True):
        _row(config, weights, ids[: mask.sum()], types[: mask.sum()], gaps)
    return min(gaps)


def _row(
    config: CrossEncoderConfig,
    weights: Mapping[str, Floats],
    ids: npt.NDArray[np.int64],
    types: npt.NDArray[np.int64],
    gaps: list[float] | None = None,
) -> Floats:
    table = "encoder.embeddings."
    hidden = weights[f"{table}word.weight"][ids] + weights[f"{table}token_type.weight"][types]
    hidden = _norm(config, weights, f"{table}norm", hidden + weights[f"{table}position.weight"][: len(ids)])
    scores = -np.arange(len(ids), dtype=np.float64)
    protected = {"none": ids < 0, "separators": ids == config.separator_id, "first": types == 0}[config.protect]
    every, places = hidden.copy(), np.arange(len(ids))
    for layer, gene in enumerate(config.genome):
        prefix = f"encoder.layers.{layer}."
        mixed = np.zeros_like(hidden)
        if gene.heads:
            projected = {
                kind: hidden @ weights[f"{prefix}{kind}.weight"].T + weights[f"{prefix}{kind}.bias"]
                for kind in ("query", "key", "value")
            }
            context, received = np.zeros_like(projected["query"]), np.zeros(len(hidden))
            for head in range(gene.heads):
                part = slice(head * config.head_size, (head + 1) * config.head_size)
                logits = projected["query"][:, part] @ projected["key"][:, part].T / math.sqrt(config.head_size)
                exps = np.exp(logits - logits.max(1, keepdims=True))
                probabilities = exps / exps.sum(1, keepdims=True)
                context[:, part] = probabilities @ projected["value"][:, part]
                received += probabilities.mean(0) / gene.heads
            mixed = context @ weights[f"{prefix}output.weight"].T
            scores = received
        hidden = _norm(config, weights, f"{prefix}attention_norm", hidden + mixed + weights[f"{prefix}output.bias"])
        if gene.keep_percent < 100 and (config.per_token or layer < len(config.genome) - 1):
            every[places] = hidden
            ranked = sorted(range(1, len(hidden)), key=lambda token: (not protected[token], -scores[token], token))
            keep = ((len(hidden) - 1) * gene.keep_percent + 99) // 100
            if gaps is not None and 0 < keep < len(ranked) and len(set(protected[ranked[keep - 1 : keep + 1]])) == 1:
                last, first = scores[ranked[keep - 1]], scores[ranked[keep]]
                gaps.append(float((last - first) / max(abs(last), 1e-30)))
            chosen = [0, *sorted(ranked[:keep])]
            hidden, scores, protected, places = hidden[chosen], scores[chosen], protected[chosen], places[chosen]
        inner = hidden @ weights[f"{prefix}ffn_in.weight"].T + weights[f"{prefix}ffn_in.bias"]
        inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2))) if config.hidden_act == "gelu" else np.maximum(inner, 0)
        fed = inner @ weights[f"{prefix}ffn_out.weight"].T + weights[f"{prefix}ffn_out.bias"]
        hidden = _norm(config, weights, f"{prefix}ffn_norm", hidden + fed)
    if config.per_token:
        every[places] = hidden
        logits = every @ weights["head.weight"].T + weights["head.bias"]
        logits[(types != 1) & (np.arange(len(ids)) > 0)] = -8192.0
        return np.asarray(logits)
    return np.asarray(weights["head.weight"] @ hidden[0] + weights["head.bias"])


def _norm(config: CrossEncoderConfig, weights: Mapping[str, Floats], name: str, hidden: Floats) -> Floats:
    centred = hidden - hidden.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_eps)
    return np.asarray(scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"])
