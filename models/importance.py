"""UnitOrder: heads, FFN units and feature heads of each layer by Fisher importance, so that any genome is a prefix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn

from sparsefront.models.batching import to_tensors
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import LayerGates
from sparsefront.models.loss import label_loss
from sparsefront.models.rows import TokenRows
from sparsefront.spaces import InputError

Importances = NDArray[np.float64]
Indices = NDArray[np.int64]
FILE_NAMES = {
    "heads": ("heads", "head_importance"),
    "ffn_units": ("ffn_units", "ffn_importance"),
    "feature_heads": ("feature_heads", "feature_importance"),
}
"""Field -> attributes of a :class:`UnitOrder`, which are also the names of a file's arrays."""


@dataclass(frozen=True)
class UnitOrder:
    """Per layer: the permutation that puts the most important unit first, and the sorted importances.

    Attributes:
        heads: per layer ``(heads,)`` indices into the teacher's heads, the most important first.
        ffn_units: per layer ``(ffn_units,)`` indices.
        feature_heads: per layer ``(feature_heads,)`` indices; nothing in a model without features.
        head_importance: per layer ``(heads,)`` Fisher importance, descending.
        ffn_importance: per layer ``(ffn_units,)``, descending.
        feature_importance: per layer ``(feature_heads,)``, descending.
    """

    heads: tuple[Indices, ...]
    ffn_units: tuple[Indices, ...]
    feature_heads: tuple[Indices, ...]
    head_importance: tuple[Importances, ...]
    ffn_importance: tuple[Importances, ...]
    feature_importance: tuple[Importances, ...]

    @classmethod
    def from_importance(
        cls,
        heads: Sequence[Importances],
        ffn_units: Sequence[Importances],
        feature_heads: Sequence[Importances] | None = None,
    ) -> UnitOrder:
        """Sort raw importances (ties: the lower index first)."""
        raw = {"heads": heads, "ffn_units": ffn_units, "feature_heads": feature_heads or [np.zeros(0)] * len(heads)}
        columns: dict[str, tuple[NDArray[Any], ...]] = {}
        for field, (order, importance) in FILE_NAMES.items():
            columns[order] = tuple(np.argsort(-values, kind="stable") for values in raw[field])
            sorted_ = zip(raw[field], columns[order], strict=True)
            columns[importance] = tuple(values[indices] for values, indices in sorted_)
        return cls(**columns)

    def apply(self, model: CrossEncoder) -> None:
        """Permute the model's units in place; its function does not change."""
        size = model.config.head_size
        for layer, heads, units in zip(model.encoder.elastic_layers, self.heads, self.ffn_units, strict=True):
            _reorder((layer.query, layer.key, layer.value), layer.output, _rows_of(heads, size))
            _reorder((layer.ffn_in,), layer.ffn_out, torch.from_numpy(units))
        if isinstance(model, Bert4Ctr):
            for at, heads in enumerate(self.feature_heads):
                if len(heads):
                    reading = model.branch.uni_attention(at)
                    rows = _rows_of(heads, reading.head_size)
                    _reorder((reading.query, reading.key, reading.value), reading.output, rows)

    def save(self, path: str) -> None:
        """Write as safetensors."""
        names = [name for pair in FILE_NAMES.values() for name in pair]
        arrays = {f"{layer}.{name}": getattr(self, name)[layer] for layer in range(len(self.heads)) for name in names}
        save_file(arrays, path)

    @classmethod
    def load(cls, path: str) -> UnitOrder:
        """Inverse of :meth:`save`; ``InputError`` for a damaged file."""
        names = [name for pair in FILE_NAMES.values() for name in pair]
        try:
            arrays = load_file(path)
            layers = range(len({name.partition(".")[0] for name in arrays}))
            if not arrays or len(arrays) % len(layers):
                raise KeyError(f"{len(arrays)} arrays are not as many for each layer")
            if not any(name.endswith(".feature_heads") for name in arrays):  # from before there were any
                for layer in layers:
                    arrays |= {
                        f"{layer}.feature_heads": np.zeros(0, np.int64),
                        f"{layer}.feature_importance": np.zeros(0),
                    }
            if len(arrays) != len(layers) * len(names):
                raise KeyError(f"{len(arrays)} arrays are not {len(names)} for each layer")
            columns = {name: tuple(arrays[f"{layer}.{name}"] for layer in layers) for name in names}
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"{path}: not a unit order, damaged or truncated: {error}") from error
        return cls(**columns)


def _rows_of(heads: Indices, size: int) -> Tensor:
    """Rows of a projection that belong to heads, in their order."""
    return torch.from_numpy((heads[:, None] * size + np.arange(size)).ravel())


@torch.no_grad()
def _reorder(into: Sequence[nn.Linear], out_of: nn.Linear, rows: Tensor) -> None:
    """Put units, between layers that lead into them and one that leads out of them, into another order."""
    for linear in into:
        linear.weight.copy_(linear.weight[rows])
        linear.bias.copy_(linear.bias[rows])
    out_of.weight.copy_(out_of.weight[:, rows])


def fisher_importance(
    model: CrossEncoder,
    rows: TokenRows,
    *,
    tokens_per_batch: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> UnitOrder:
    """Diagonal empirical Fisher information of a multiplier on each head, FFN unit and feature head.

    The importance of a unit is the mean over rows of the squared derivative of that row's loss with respect to the
    unit's multiplier (Kwon et al. 2022, arXiv 2204.09656, eq. 6), computed for all units in one backward pass.
    """
    model.eval()
    genome = model.genome
    device = next(model.parameters()).device
    counts = [(gene.heads, gene.ffn_units, gene.feature_heads) for gene in genome]
    sums = [[np.zeros(count) for count in layer] for layer in counts]
    done = 0
    for batch in rows.batches(tokens_per_batch=tokens_per_batch, shuffle_seed=None):
        tensors = to_tensors(batch, device)
        size = len(batch.index)
        gates = [
            LayerGates(*(torch.ones(size, count, device=device, requires_grad=True) for count in layer))
            for layer in counts
        ]
        encoded = model.encode(tensors, unit_gates=gates)
        loss = label_loss(model.logits_of(encoded), tensors.target, reduction="sum")
        leaves = [leaf for gate in gates for leaf in (gate.heads, gate.units, gate.feature_heads)]
        # A layer may have no units, and a model no features.
        gradients = iter(torch.autograd.grad(loss, leaves, materialize_grads=True, allow_unused=True))
        for layer in sums:
            for total in layer:
                np.add(total, next(gradients).square().sum(0).double().cpu().numpy(), out=total)
        done += size
        if progress is not None:
            progress(done, len(rows))
    return UnitOrder.from_importance(*([total / len(rows) for total in column] for column in zip(*sums, strict=True)))
