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
    genomes: Sequence[Genome], lengths: npt.ArrayLike, config: SparseBertConfig, *, cls_only: bool | None = None
) -> Floats:
    """(genomes, lengths) multiply-adds of one row: projections, attention with its softmax, and FFN.

    Embeddings, norms, activations, the scoring of tokens, the head and features are left out, as in the papers. Tokens
    are counted as they are served, rounded up at every pruning step; the papers multiply shares instead.

    Args:
        genomes: all of one depth.
        lengths: (lengths,) tokens per row that are computed; padding counts where it is.
        config: for ``hidden_size`` and ``head_size``.
        cls_only: only the [CLS] row of the last layer is computed, and that layer does not prune, as here; else all
            rows of it are, as in the papers and where a head reads every token. By the configuration by default.
    """
    cls_only = not config.per_token if cls_only is None else cls_only
    heads, units, keeps, _, behaviours = Genomes.of(genomes).columns.transpose(2, 0, 1).astype(np.int64)
    layers = heads.shape[1]
    seen = np.empty((len(genomes), np.size(lengths), layers + 1), np.int64)
    newest = behaviours[:, :1]
    own = np.atleast_1d(np.asarray(lengths, np.int64))
    seen[..., 0] = np.where(newest > 0, np.minimum(own, 1 + newest), own)
    for layer in range(layers):
        seen[..., layer + 1] = 1 + ((seen[..., layer] - 1) * keeps[:, layer, None] + 99) // 100
    if cls_only:
        seen[..., -1] = 1
    return adds_of_tokens(seen, heads[:, None], units[:, None], config, cls_only=cls_only)


def adds_of_tokens(
    seen: npt.NDArray[np.int64],
    heads: npt.NDArray[np.int64],
    units: npt.NDArray[np.int64],
    config: SparseBertConfig,
    *,
    cls_only: bool | None = None,
) -> Floats:
    """(...) the same of rows whose tokens are counted already.

    Args:
        seen: (..., layers + 1) tokens that each layer's attention sees, and those that leave the last layer.
        heads: (..., layers) that broadcasts with it, of each layer.
        units: (..., layers) likewise.
        config: as for :func:`multiply_adds`.
        cls_only: likewise.
    """
    cls_only = not config.per_token if cls_only is None else cls_only
    width, inner = config.hidden_size, heads * config.head_size
    tokens, fed = seen[..., :-1], seen[..., 1:]
    queries = tokens.copy()
    if cls_only:
        queries[..., -1] = 1
    each = width * inner * (2 * tokens + 2 * queries)  # keys and values; queries and output
    each = each + queries * tokens * (2 * inner + heads) + 2 * fed * width * units
    return np.asarray(each.sum(-1), np.float64)
