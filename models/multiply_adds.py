"""Multiply-adds of a genome at row lengths: ToP's formula (arXiv 2306.14393), with whole tokens and the [CLS] row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sparsefront.models.config import SparseBertConfig
from sparsefront.spaces import Genome
from sparsefront.spaces.genomes import Genomes

Floats = npt.NDArray[np.float64]


def multiply_adds(
    genomes: Sequence[Genome], lengths: npt.ArrayLike, config: SparseBertConfig, *, cls_only: bool = True
) -> Floats:
    """(genomes, lengths) multiply-adds of one row: projections, attention with its softmax, and FFN.

    Embeddings, norms, activations, the scoring of tokens and the head are left out, as in the papers. Tokens are
    counted as they are served, rounded up at every pruning step; the papers multiply shares instead.

    Args:
        genomes: all of one depth.
        lengths: (lengths,) tokens per row that are computed; padding counts where it is.
        config: for ``hidden_size`` and ``head_size``.
        cls_only: only the [CLS] row of the last layer is computed, and that layer does not prune, as here; else all
            rows of it are, as in the papers.
    """
    heads, units, keeps = Genomes.of(genomes).columns.transpose(2, 0, 1).astype(np.int64)[..., None]
    width = config.hidden_size
    tokens = np.broadcast_to(np.asarray(lengths, np.int64), (len(genomes), np.size(lengths)))
    total = np.zeros(tokens.shape)
    layers = heads.shape[1]
    for layer in range(layers):
        last = cls_only and layer == layers - 1
        inner = heads[:, layer] * config.head_size
        queries = np.ones_like(tokens) if last else tokens
        total += width * inner * (2 * tokens + 2 * queries)  # keys and values; queries and output
        total += queries * tokens * (2 * inner + heads[:, layer])
        tokens = queries if last else 1 + ((tokens - 1) * keeps[:, layer] + 99) // 100
        total += 2 * tokens * width * units[:, layer]
    return total
