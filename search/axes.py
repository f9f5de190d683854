"""Axes: a search space as arrays, so that all moves from a genome are weighed at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparsefront.search.curves import ImportanceCurves
from sparsefront.spaces import Genome, SearchSpace
from sparsefront.spaces.genome import FIELDS, Field
from sparsefront.spaces.genomes import Genomes

Indices = NDArray[np.int64]
Floats = NDArray[np.float64]


class Axes:
    """One axis per free (layer, field), one candidate per (axis, value).

    Attributes:
        names: (axes,) parameter names.
        layer: (axes,) layer of each axis, 0 in tied spaces.
        field: (axes,) position in ``FIELDS``.
        sizes: (axes,) number of values.
        values: (axes, most values), padded with the axis's largest value.
        shares: (axes, most values), value over the largest value that the backbone has.
        kept: (axes, most values), importance that a value keeps, as a share of the field's total.
        axis, index: (candidates,) each candidate's axis and grid index.
        moves: the candidates as :meth:`SearchSpace.replace` takes them, in the same order.
    """

    def __init__(self, *, space: SearchSpace, importance: ImportanceCurves | None) -> None:
        widths = space.widths
        curves = importance or ImportanceCurves.flat(
            layers=widths.layers, heads=widths.heads, ffn_units=widths.ffn_units
        )
        if len(curves.heads) != widths.layers:
            raise ValueError(f"importance must have {widths.layers} layers, got {len(curves.heads)}")
        self.space = space
        self.moves = space.moves()
        grouped: dict[tuple[int, Field], list[int]] = {}
        for layer, field, value in self.moves:
            grouped.setdefault((layer, field), []).append(value)
        self.names = tuple(space.distributions())
        self.layer = np.array([layer for layer, _ in grouped], dtype=np.int64)
        self.field = np.array([FIELDS.index(field) for _, field in grouped], dtype=np.int64)
        self.sizes = np.array([len(values) for values in grouped.values()], dtype=np.int64)
        most = int(self.sizes.max(initial=1))
        shape = (len(grouped), most)
        self.values, self.shares, self.kept = np.zeros(shape, dtype=np.int64), np.zeros(shape), np.zeros(shape)
        for axis, ((layer, field), values) in enumerate(grouped.items()):
            padded = [*values, *[values[-1]] * (most - len(values))]
            self.values[axis] = padded
            self.shares[axis] = np.array(padded) / widths.upper(field)
            moved = range(widths.layers) if space.tied else (layer,)
            for at, value in enumerate(padded):
                if field not in curves.kept_by_count:
                    self.kept[axis, at] = value / widths.upper(field) * len(moved) / widths.layers
                else:
                    self.kept[axis, at] = sum(curves.kept(field, one, value) for one in moved)
        self._layers = [  # of each axis
            [at for at, offered in enumerate(space.choices[field]) if len(offered) > 1] if space.tied else [layer]
            for layer, field in grouped
        ]
        self._fixed = np.array([[getattr(gene, field) for field in FIELDS] for gene in space.smallest])
        self._at = np.full((len(grouped), int(self.values.max(initial=0)) + 1), -1)  # value -> grid index
        for axis, size in enumerate(self.sizes):
            self._at[axis, self.values[axis, :size]] = np.arange(size)
        self._one_layer = np.array([layers[0] for layers in self._layers], dtype=np.int64)
        self.axis = np.repeat(np.arange(len(grouped)), self.sizes)
        self.index = np.concatenate([np.arange(size) for size in self.sizes] or [np.zeros(0)]).astype(np.int64)

    def indices(self, genome: Genome) -> Indices:
        """(axes,) grid indices of a genome. Raises ``ValueError`` for a value that the space does not offer."""
        values = Genomes.of([genome]).columns[0, self._one_layer, self.field]
        known = (values >= 0) & (values < self._at.shape[1])
        indices = self._at[np.arange(len(self.names)), np.where(known, values, 0)]
        if not known.all() or (indices < 0).any():
            self.space.to_params(genome)  # says which
        return np.asarray(indices, np.int64)

    def genome(self, indices: Indices) -> Genome:
        """Genome of (axes,) grid indices."""
        return self.genomes(indices[None])[0]

    def genomes(self, indices: Indices) -> Genomes:
        """Genomes of (genomes, axes) grid indices."""
        columns = np.repeat(self._fixed[None], len(indices), axis=0)
        for axis, layers in enumerate(self._layers):
            columns[:, layers, self.field[axis]] = self.values[axis, indices[:, axis], None]
        return Genomes(columns)
