"""Genomes: the text form, the count of surviving tokens, and which layers must score."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.spaces import Genome, LayerGene, kept_tokens
from sparsefront.spaces.genome import FIELDS, Field

genes = st.builds(LayerGene, st.integers(0, 64), st.integers(0, 9999), st.integers(0, 100))
genomes = st.builds(
    lambda layers, behaviours: Genome(tuple(layers)).replace(0, "behaviours", behaviours),
    st.lists(genes, min_size=1, max_size=12),
    st.sampled_from([0, 1, 40]),
)


# -- text form -------------------------------------------------------------------------------------------------------


def test_text_form() -> None:
    genome = Genome((LayerGene(4, 1024), LayerGene(0, 256, 60), LayerGene(2, 0, 5)))
    assert genome.key() == "h4.f1024.k1.00-h0.f256.k0.60-h2.f0.k0.05"
    assert str(genome) == genome.key()


@given(genomes)
def test_text_form_round_trip(genome: Genome) -> None:
    assert Genome.parse(genome.key()) == genome
    assert Genome.parse(f"  {genome.key()}\n") == genome
    assert re.fullmatch(r"[a-z0-9.-]+", genome.key()), "the key is also a file name"


@given(genomes, genomes)
def test_the_key_is_an_identity(one: Genome, other: Genome) -> None:
    assert (one.key() == other.key()) == (one == other)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", ""),
        ("h4", "h4"),
        ("h4.f8.k1.00-", ""),
        ("h4.f8.k1.00-nonsense", "nonsense"),
        ("h4.f8.k1.0", "h4.f8.k1.0"),
        ("h4.f8.k2.00", "h4.f8.k2.00"),
        ("h.f8.k1.00", "h.f8.k1.00"),
        ("h4.f8.k1.00 h4.f8.k1.00", "h4.f8.k1.00 h4.f8.k1.00"),
        ("H4.F8.K1.00", "H4.F8.K1.00"),
    ],
)
def test_parse_names_the_part_that_is_no_gene(text: str, part: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Genome.parse(text)
    assert str(refusal.value) == f"not a gene: {part!r} (expected the form h4.f1024.k1.00) in genome {text!r}"


def test_parse_refuses_a_share_above_one() -> None:
    with pytest.raises(ValueError, match="keep_percent must be between 0 and 100, got 150"):
        Genome.parse("h4.f8.k1.50")


# -- values ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [-1, 2.0, True, "3", None])
def test_genes_refuse_what_is_no_count(name: Field, value: Any) -> None:
    values: dict[str, Any] = {"heads": 1, "ffn_units": 1, "keep_percent": 1, name: value}
    with pytest.raises(ValueError) as refusal:
        LayerGene(**values)
    assert str(refusal.value) == f"{name} must be an integer of at least 0, got {value!r}"


def test_genes_may_remove_everything_but_not_keep_more_than_all() -> None:
    assert str(LayerGene(0, 0, 0)) == "h0.f0.k0.00"
    with pytest.raises(ValueError, match="keep_percent must be between 0 and 100, got 101"):
        LayerGene(1, 1, 101)


def test_a_genome_has_a_layer() -> None:
    with pytest.raises(ValueError, match="at least one layer, got none"):
        Genome(())
    with pytest.raises(ValueError, match="layers must be at least 1, got 0"):
        Genome.uniform(0, heads=1, ffn_units=1)


@given(st.integers(1, 12), genes)
def test_uniform_prunes_everywhere_but_after_the_last_attention(layers: int, gene: LayerGene) -> None:
    genome = Genome.uniform(layers, heads=gene.heads, ffn_units=gene.ffn_units, keep_percent=gene.keep_percent)
    assert genome.column("heads") == (gene.heads,) * layers
    assert genome.column("ffn_units") == (gene.ffn_units,) * layers
    assert genome.column("keep_percent") == (*(gene.keep_percent,) * (layers - 1), 100)


@given(genomes)
def test_columns_and_layers_are_two_views(genome: Genome) -> None:
    columns = [genome.column(field) for field in FIELDS]
    assert Genome.from_columns(*columns) == genome
    assert len(genome) == len(list(genome)) == len(columns[0])
    with pytest.raises(ValueError):
        Genome.from_columns(columns[0], columns[1], columns[2][1:])


@given(genomes, st.sampled_from(FIELDS), st.integers(0, 100), st.data())
def test_replace_changes_one_value(genome: Genome, field: Field, value: int, data: st.DataObject) -> None:
    layer = data.draw(st.integers(0, 0 if field == "behaviours" else len(genome) - 1))
    before = genome.key()
    changed = genome.replace(layer, field, value)
    assert genome.key() == before, "a genome is a value"
    assert changed.column(field)[layer] == value
    assert changed.replace(layer, field, genome.column(field)[layer]) == genome


def test_replace_refuses_layers_and_values_outside() -> None:
    genome = Genome.uniform(2, heads=1, ffn_units=8)
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"layer must be between 0 and 1, got {layer}"):
            genome.replace(layer, "heads", 0)
    with pytest.raises(ValueError, match="keep_percent must be between 0 and 100, got 120"):
        genome.replace(0, "keep_percent", 120)


# -- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "percent", "kept"),
    [(1, 0, 1), (1, 100, 1), (2, 1, 2), (10, 100, 10), (10, 0, 1), (10, 50, 6), (11, 50, 6), (11, 10, 2), (12, 10, 3),
     (101, 29, 30), (48, 60, 30)],
)  # fmt: skip
def test_kept_tokens(length: int, percent: int, kept: int) -> None:
    assert kept_tokens(length, percent) == kept


@given(st.integers(1, 600), st.integers(0, 100))
def test_kept_tokens_is_cls_and_the_share_of_the_others(length: int, percent: int) -> None:
    kept = kept_tokens(length, percent)
    assert kept == 1 + math.ceil(Fraction((length - 1) * percent, 100))
    assert 1 <= kept <= length
    assert kept_tokens(length + 1, percent) >= kept
    assert kept_tokens(length, min(100, percent + 1)) >= kept


def test_keeping_all_tokens_means_in_every_layer() -> None:
    whole = Genome.uniform(3, heads=2, ffn_units=8)
    assert whole.keeps_all_tokens
    assert not whole.replace(1, "keep_percent", 99).keeps_all_tokens


@pytest.mark.parametrize("length", [0, -2])
def test_kept_tokens_needs_a_token(length: int) -> None:
    with pytest.raises(ValueError, match=f"length_tokens must be at least 1, got {length}"):
        kept_tokens(length, 50)


def test_lengths_follow_the_schedule() -> None:
    genome = Genome.from_columns((1, 1, 1, 1), (8, 8, 8, 8), (100, 50, 100, 0))
    assert genome.lengths(21) == (21, 11, 11, 1)


@given(genomes, st.integers(1, 128))
def test_lengths_never_grow(genome: Genome, length: int) -> None:
    lengths = (genome.entering(length), *genome.lengths(length))
    for gene, before, after in zip(genome, lengths, lengths[1:], strict=False):
        assert after == kept_tokens(before, gene.keep_percent)


@pytest.mark.parametrize(
    ("heads", "keeps", "cls_only_last", "scoring"),
    [
        ((2, 2, 2), (100, 100, 100), True, ()),
        ((2, 2, 2), (50, 100, 50), True, (0,)),  # the last layer leaves only [CLS]: nothing to prune
        ((2, 2, 2), (50, 100, 50), False, (0, 2)),
        ((2, 0, 2), (100, 50, 100), True, (0,)),  # without heads, the latest attention before it is read
        ((2, 0, 0, 2), (100, 50, 50, 100), True, (0,)),
        ((2, 2, 0, 2), (100, 100, 50, 100), True, (1,)),
        ((0, 2, 2), (50, 100, 100), True, ()),  # no attention yet: the leading tokens stay
        ((0, 2, 2), (50, 50, 100), True, (1,)),
        ((0, 0), (50, 50), False, ()),
        ((2,), (50,), True, ()),
        ((2,), (50,), False, (0,)),
    ],
)
def test_layers_that_must_score(
    heads: tuple[int, ...], keeps: tuple[int, ...], cls_only_last: bool, scoring: tuple[int, ...]
) -> None:
    genome = Genome.from_columns(heads, (8,) * len(heads), keeps)
    needed = genome.scoring_layers(cls_only_last=cls_only_last)
    assert tuple(layer for layer, score in enumerate(needed) if score) == scoring
    assert len(needed) == len(genome)


def test_heads_of_features_are_told_only_where_there_are_some() -> None:
    genome = Genome.from_columns([4, 0], [8, 0], [60, 100], [0, 3])
    assert genome.key() == "h4.f8.k0.60-h0.f0.k1.00.u3" and Genome.parse(genome.key()) == genome
    assert Genome.parse("h4.f8.k0.60.u0").key() == "h4.f8.k0.60"
    assert genome.column("feature_heads") == (0, 3)
    assert Genome.uniform(2, heads=1, ffn_units=2, keep_percent=50, feature_heads=1).column("feature_heads") == (1, 1)
    with pytest.raises(ValueError, match="not a gene"):
        Genome.parse("h4.f8.k0.60.u")
    with pytest.raises(ValueError, match="feature_heads must be an integer of at least 0"):
        LayerGene(1, 1, feature_heads=-1)


def test_of_a_history_the_newest_behaviours_enter() -> None:
    genome = Genome.uniform(3, heads=1, ffn_units=8, keep_percent=50, behaviours=10)
    assert genome.key() == "h1.f8.k0.50.b10-h1.f8.k0.50-h1.f8.k1.00"
    assert genome.lengths(30) == genome.lengths(11) == (6, 4, 4)
    assert genome.lengths(5) == genome.replace(0, "behaviours", 0).lengths(5)
    assert genome.keeping().behaviours == 10
