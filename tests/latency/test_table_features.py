"""The latency table of models with features: what reading costs, and which layers it keeps whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.latency.synthetic import HEADS, LAYERS, LENGTH, UNITS, synthetic_table

from sparsefront.spaces import Genome, LayerGene

MOST = 3
keeps = st.sampled_from([100, 99, 60, 10])
genes = st.builds(LayerGene, st.integers(0, HEADS), st.integers(0, UNITS), keeps, st.integers(0, MOST))
genomes = st.lists(genes, min_size=LAYERS, max_size=LAYERS).map(lambda layers: Genome(tuple(layers)))


@given(
    st.integers(0, 20),
    st.sampled_from([0.0, 2.0]),
    genomes,
    st.integers(0, LAYERS - 1),
    st.integers(1, MOST),
    st.integers(1, LENGTH),
)
def test_more_heads_that_read_are_never_cheaper(
    seed: int, noise: float, genome: Genome, layer: int, more: int, length: int
) -> None:
    table = synthetic_table(seed, noise=noise, feature_heads=MOST)
    genome = genome.replace(LAYERS - 1, "heads", 1)  # so that all layers are computed for all tokens anyway
    wider = genome.replace(layer, "feature_heads", min(MOST, genome.layers[layer].feature_heads + more))
    assert table.predict(wider, length_tokens=length) >= table.predict(genome, length_tokens=length) - 1e-6


@given(genomes, st.integers(0, LAYERS - 1))
def test_reading_is_added_where_the_tokens_are_there_anyway(genome: Genome, layer: int) -> None:
    table = synthetic_table(feature_heads=MOST)
    genome = genome.replace(LAYERS - 1, "heads", 1)
    without = genome.replace(layer, "feature_heads", 0)
    entering = (LENGTH, *genome.lengths(LENGTH))[layer]
    added = table.blocks.reading[genome.layers[layer].feature_heads, entering]
    assert table.predict(genome) - table.predict(without) == pytest.approx(added)


def test_a_layer_that_is_read_keeps_those_before_it_whole() -> None:
    table, blocks = synthetic_table(feature_heads=MOST), synthetic_table(feature_heads=MOST).blocks
    blind = Genome.uniform(LAYERS, heads=0, ffn_units=4)
    read = blind.replace(2, "feature_heads", 2)
    whole = 2 * (blocks.norms[LENGTH] + blocks.ffn[4, LENGTH]) + blocks.reading[2, LENGTH] + blocks.call[LENGTH]
    behind = 2 * (blocks.cls_norms + blocks.cls_ffn[4])
    assert table.predict(read) == pytest.approx(float(whole + behind))
    assert table.predict(read) > table.predict(blind)


def test_a_table_without_features_covers_no_heads_for_them() -> None:
    with pytest.raises(ValueError, match=r"the table covers h3\.f12\.k1\.00 at most"):
        synthetic_table().predict(Genome.uniform(LAYERS, heads=1, ffn_units=4, feature_heads=1))
    with pytest.raises(ValueError, match=rf"the table covers h3\.f12\.k1\.00\.u{MOST} at most"):
        synthetic_table(feature_heads=MOST).predict(Genome.uniform(LAYERS, heads=1, ffn_units=4, feature_heads=4))


@given(genomes, st.integers(1, LENGTH - 1), st.integers(1, LENGTH))
def test_behaviours_that_are_not_read_cost_nothing(genome: Genome, behaviours: int, length: int) -> None:
    table = synthetic_table(feature_heads=MOST)
    cut = table.predict(genome.replace(0, "behaviours", behaviours), length_tokens=length)
    assert cut == pytest.approx(table.predict(genome, length_tokens=min(length, 1 + behaviours)))
