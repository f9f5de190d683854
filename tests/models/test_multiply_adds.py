"""Multiply-adds against published numbers and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from sparsefront.models.config import CrossEncoderConfig, SparseBertConfig
from sparsefront.models.multiply_adds import multiply_adds
from sparsefront.spaces import Genome

BASE = SparseBertConfig(hidden_size=768, head_size=64, layer_heads=(12,) * 12, layer_ffn_units=(3072,) * 12)
DENSE = BASE.genome


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (11, 936_528_912), (32, 2_736_930_816), (64, 5_511_905_280), (128, 11_175_985_152), (256, 22_960_668_672),
        (384, 35_354_050_560), (512, 48_356_130_816),
    ],
)  # fmt: skip
def test_bert_base_as_the_papers_count(tokens: int, expected: int) -> None:
    assert multiply_adds([DENSE], [tokens], BASE, cls_only=False).tolist() == [[expected]]


def test_a_schedule_is_counted_in_whole_tokens() -> None:
    keeps = [100, *[90] * 10, 100]
    genome = Genome.from_columns([12] * 12, [3072] * 12, keeps)
    counted = multiply_adds([genome], [128], BASE, cls_only=False)[0, 0]
    smooth = 6_908_160_463  # of the shares multiplied, without rounding
    assert smooth < counted < 1.03 * smooth


def test_widths_and_the_cls_row_by_hand() -> None:
    config = SparseBertConfig(hidden_size=10, head_size=3, layer_heads=(2, 1), layer_ffn_units=(7, 5))
    genome = Genome.from_columns([2, 1], [7, 5], [50, 100])
    first = 4 * 9 * 10 * 6 + 9 * 9 * (6 + 6 + 2) + 2 * 5 * 10 * 7
    last = 10 * 3 * (2 * 5 + 2) + 5 * (3 + 3 + 1) + 2 * 10 * 5
    assert multiply_adds([genome], [9], config).tolist() == [[first + last]]


def test_many_genomes_and_lengths_at_once() -> None:
    config = SparseBertConfig(hidden_size=8, head_size=2, layer_heads=(2, 2), layer_ffn_units=(6, 6))
    genomes = [config.genome, Genome.from_columns([0, 1], [0, 6], [10, 100])]
    together = multiply_adds(genomes, [3, 7, 20], config)
    alone = [[multiply_adds([genome], [length], config)[0, 0] for length in (3, 7, 20)] for genome in genomes]
    np.testing.assert_array_equal(together, alone)


def test_where_a_head_reads_every_token_the_last_layer_is_computed_for_all() -> None:
    genome = Genome.parse("h2.f8.k0.50-h2.f8.k1.00")
    config = CrossEncoderConfig(hidden_size=16, head_size=4, layer_heads=(2, 2), layer_ffn_units=(8, 8))
    whole = multiply_adds([genome], [9, 20], config, cls_only=False)
    assert np.array_equal(multiply_adds([genome], [9, 20], config.with_spans()), whole)
    assert (multiply_adds([genome], [9, 20], config) < whole).all()


def test_behaviours_that_are_not_read_are_not_counted() -> None:
    whole = multiply_adds([DENSE], [4, 6, 6], BASE)
    assert np.array_equal(multiply_adds([DENSE.replace(0, "behaviours", 5)], [4, 6, 9], BASE), whole)
