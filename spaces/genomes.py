"""Genomes as one array: many at a time, each made only when it is asked for."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

from sparsefront.spaces.genome import FIELDS, Genome, LayerGene


class Genomes(Sequence[Genome]):
    """A sequence of genomes of equally many layers.

    Args:
        columns: (genomes, layers, fields) values, fields in the order of ``FIELDS``.
    """

    def __init__(self, columns: NDArray[np.int64]) -> None:
        if columns.ndim != 3 or columns.shape[2] != len(FIELDS):
            raise ValueError(f"columns must be (genomes, layers, {len(FIELDS)}), got {columns.shape}")
        self.columns = columns

    @classmethod
    def of(cls, genomes: Sequence[Genome]) -> Genomes:
        """Of any genomes; itself when it is one of these. Raises ``ValueError`` when their layers differ in number."""
        if isinstance(genomes, cls):
            return genomes
        flat = [
            (gene.heads, gene.ffn_units, gene.keep_percent, gene.feature_heads, gene.behaviours)
            for genome in genomes
            for gene in genome.layers
        ]
        layers = len(genomes[0]) if genomes else 1
        if len(flat) != layers * len(genomes):
            raise ValueError(f"genomes must have equally many layers, got {sorted({len(one) for one in genomes})}")
        return cls(np.array(flat, np.int64).reshape(len(genomes), layers, len(FIELDS)))

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, at: int) -> Genome: ...
    @overload
    def __getitem__(self, at: slice) -> Genomes: ...
    def __getitem__(self, at: int | slice) -> Genome | Genomes:
        if isinstance(at, slice):
            return Genomes(self.columns[at])
        return _genome(self.columns[at].tolist())

    def __iter__(self) -> Iterator[Genome]:
        return map(_genome, self.columns.tolist())


def _genome(rows: list[list[int]]) -> Genome:
    return Genome(tuple([_gene(*row) for row in rows]))


@functools.lru_cache(maxsize=100_000)
def _gene(*values: int) -> LayerGene:
    return LayerGene(*values)
