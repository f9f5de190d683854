from __future__ import annotations

import numpy as np
import pytest

from sparsefront.spaces import Genome, SearchSpace, Widths
from sparsefront.spaces.genome import FIELDS
from sparsefront.spaces.genomes import Genomes


def test_is_the_same_genomes() -> None:
    space = SearchSpace.preset("joint", widths=Widths(layers=3, heads=4, ffn_units=64))
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(5)]
    genomes = Genomes.of(drawn)
    assert list(genomes) == drawn
    assert (len(genomes), genomes[-1], list(genomes[1:3])) == (5, drawn[-1], drawn[1:3])
    assert Genomes.of(genomes) is genomes
    assert genomes.columns.shape == (5, 3, len(FIELDS))
    assert genomes.columns[0, 2].tolist() == [drawn[0].column(field)[2] for field in FIELDS]
    assert len(Genomes.of([])) == 0


def test_refuses_what_is_no_array_of_genomes() -> None:
    one, two = (Genome.uniform(layers, heads=1, ffn_units=1) for layers in (1, 2))
    with pytest.raises(ValueError, match=r"equally many layers, got \[1, 2\]"):
        Genomes.of([one, two])
    with pytest.raises(ValueError, match="columns must be"):
        Genomes(np.zeros((2, 3), np.int64))
    with pytest.raises(ValueError, match="keep_percent must be between"):
        list(Genomes(np.full((1, 1, len(FIELDS)), 200)))
