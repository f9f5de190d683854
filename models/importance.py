"""UnitOrder: heads and FFN units of each layer sorted by Fisher importance, so that every genome is a prefix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsefront.models.batching import to_tensors
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import LayerGates
from sparsefront.models.loss import label_loss
from sparsefront.models.rows import TokenRows
from sparsefront.spaces import InputError


@dataclass(frozen=True)
class UnitOrder:
    """Per layer: the permutation that puts the most important unit first, and the sorted importances.

    Attributes:
        heads: per layer ``(heads,)`` indices into the teacher's heads, the most important first.
        ffn_units: per layer ``(ffn_units,)`` indices.
        head_importance: per layer ``(heads,)`` Fisher importance, descending.
        ffn_importance: per layer ``(ffn_units,)``, descending.
    """

    heads: tuple[NDArray[np.int64], ...]
    ffn_units: tuple[NDArray[np.int64], ...]
    head_importance: tuple[NDArray[np.float64], ...]
    ffn_importance: tuple[NDArray[np.float64], ...]

    @classmethod
    def from_importance(cls, heads: list[NDArray[np.float64]], ffn_units: list[NDArray[np.float64]]) -> UnitOrder:
        """Sort raw importances (ties: the lower index first)."""
        head_order = tuple(np.argsort(-values, kind="stable") for values in heads)
        ffn_order = tuple(np.argsort(-values, kind="stable") for values in ffn_units)
        return cls(
            heads=head_order,
            ffn_units=ffn_order,
            head_importance=tuple(values[order] for values, order in zip(heads, head_order, strict=True)),
            ffn_importance=tuple(values[order] for values, order in zip(ffn_units, ffn_order, strict=True)),
        )

    def apply(self, model: CrossEncoder) -> None:
        """Permute the model's units in place; its function does not change."""
        size = model.config.head_size
        for layer, heads, units in zip(model.encoder.elastic_layers, self.heads, self.ffn_units, strict=True):
            rows = torch.from_numpy((heads[:, None] * size + np.arange(size)).ravel())
            columns = torch.from_numpy(units)
            with torch.no_grad():
                for linear in (layer.query, layer.key, layer.value):
                    linear.weight.copy_(linear.weight[rows])
                    linear.bias.copy_(linear.bias[rows])
                layer.output.weight.copy_(layer.output.weight[:, rows])
                layer.ffn_in.weight.copy_(layer.ffn_in.weight[columns])
                layer.ffn_in.bias.copy_(layer.ffn_in.bias[columns])
                layer.ffn_out.weight.copy_(layer.ffn_out.weight[:, columns])

    def save(self, path: str) -> None:
        """Write as safetensors."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for layer in range(len(self.heads)):
            arrays[f"{layer}.heads"] = self.heads[layer]
            arrays[f"{layer}.ffn_units"] = self.ffn_units[layer]
            arrays[f"{layer}.head_importance"] = self.head_importance[layer]
            arrays[f"{layer}.ffn_importance"] = self.ffn_importance[layer]
        save_file(arrays, path)

    @classmethod
    def load(cls, path: str) -> UnitOrder:
        """Inverse of :meth:`save`; ``InputError`` for a damaged file."""
        try:
            arrays = load_file(path)
            names = ("heads", "ffn_units", "head_importance", "ffn_importance")
            layers = range(len(arrays) // len(names))
            columns = {name: tuple(arrays[f"{layer}.{name}"] for layer in layers) for name in names}
            if not arrays or len(arrays) % len(names):
                raise KeyError(f"{len(arrays)} arrays are not {len(names)} for each layer")
        except (SafetensorError, OSError, KeyError) as error:
            raise InputError(f"{path}: not a unit order, damaged or truncated: {error}") from error
        return cls(**columns)


def fisher_importance(
    model: CrossEncoder,
    rows: TokenRows,
    *,
    tokens_per_batch: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> UnitOrder:
    """Diagonal empirical Fisher information of a multiplier on each head and FFN unit.

    The importance of a unit is the mean over rows of the squared derivative of that row's loss with respect to the
    unit's multiplier (Kwon et al. 2022, arXiv 2204.09656, eq. 6), computed for all units in one backward pass.
    """
    model.eval()
    genome = model.genome
    device = next(model.parameters()).device
    heads = [np.zeros(gene.heads) for gene in genome]
    units = [np.zeros(gene.ffn_units) for gene in genome]
    done = 0
    for batch in rows.batches(tokens_per_batch=tokens_per_batch, shuffle_seed=None):
        tensors = to_tensors(batch, device)
        size = len(batch.index)
        gates = [
            LayerGates(
                torch.ones(size, gene.heads, device=device, requires_grad=True),
                torch.ones(size, gene.ffn_units, device=device, requires_grad=True),
            )
            for gene in genome
        ]
        encoded = model.encode(tensors, unit_gates=gates)
        loss = label_loss(model.logits_of(encoded), tensors.target, reduction="sum")
        leaves = [leaf for gate in gates for leaf in (gate.heads, gate.units)]
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)  # a layer may have no units
        for layer in range(len(genome)):
            heads[layer] += gradients[2 * layer].square().sum(0).double().cpu().numpy()
            units[layer] += gradients[2 * layer + 1].square().sum(0).double().cpu().numpy()
        done += size
        if progress is not None:
            progress(done, len(rows))
    return UnitOrder.from_importance([h / len(rows) for h in heads], [u / len(rows) for u in units])
