"""Scores of rows: their order, their precision, and a model left as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.models.tiny import make_model, make_rows

from sparsefront.models.scoring import chosen_of, no_logits, score_batches, score_rows, scoring_batches
from sparsefront.spaces import Genome

DENSE = Genome.uniform(2, heads=3, ffn_units=20)


def alone(lengths: list[int], genome: Genome) -> list[float]:
    """Logits of the rows, one model call each, in their own order."""
    model, rows = make_model(DENSE), make_rows(lengths)
    found = []
    with torch.no_grad():
        for row in range(len(rows)):
            part = slice(rows.offsets[row], rows.offsets[row + 1])
            ids, types = (torch.from_numpy(array[part]).long()[None] for array in (rows.input_ids, rows.token_type_ids))
            found.append(model(ids, token_type_ids=types, genome=genome).logits.item())
    return found


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 100))
def test_logits_come_in_the_rows_own_order(lengths: list[int], tokens_per_batch: int) -> None:
    logits = score_rows(make_model(DENSE), make_rows(lengths), tokens_per_batch=tokens_per_batch, precision="fp32")
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, alone(lengths, DENSE), atol=1e-5)


def test_the_genome_asked_for_is_run() -> None:
    lengths = [7, 3, 12]
    genome = Genome.parse("h1.f5.k1.00-h2.f0.k1.00")
    logits = score_rows(make_model(DENSE), make_rows(lengths), genome=genome, precision="fp32")
    np.testing.assert_allclose(logits, alone(lengths, genome), atol=1e-5)
    slim = score_rows(make_model(DENSE).slim(genome), make_rows(lengths), precision="fp32")
    np.testing.assert_allclose(logits, slim, atol=1e-5)
    assert not np.allclose(logits, alone(lengths, DENSE), atol=1e-3)


def test_bf16_is_close_and_not_equal() -> None:
    model, rows = make_model(DENSE), make_rows([7, 3, 12, 5])
    exact = score_rows(model, rows, precision="fp32")
    rounded = score_rows(model, rows, precision="bf16")
    assert rounded.dtype == np.float32
    assert (exact != rounded).any()
    np.testing.assert_allclose(rounded, exact, atol=0.2)


@pytest.mark.parametrize("training", [False, True])
def test_the_model_is_left_in_its_mode_and_scored_without_dropout(training: bool) -> None:
    model, rows = make_model(DENSE).train(training), make_rows([7, 3])
    seen: list[tuple[int, int]] = []
    logits = score_rows(
        model, rows, tokens_per_batch=1, precision="fp32", progress=lambda done, total: seen.append((done, total))
    )
    assert model.training is training
    np.testing.assert_allclose(logits, alone([7, 3], DENSE), atol=1e-5)
    assert seen == [(1, 2), (2, 2)]


def test_no_rows_have_no_logits() -> None:
    assert score_rows(make_model(DENSE), make_rows([])).shape == (0,)
    assert score_rows(make_model(DENSE, outputs=3), make_rows([])).shape == (0, 3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(1, 100))
def test_every_output_has_a_logit_of_each_row(lengths: list[int], tokens_per_batch: int) -> None:
    """Those of a model of one output, three times over: with each row of the head alone."""
    model, rows = make_model(DENSE, outputs=3), make_rows(lengths, classes=3)
    logits = score_rows(model, rows, tokens_per_batch=tokens_per_batch, precision="fp32")
    assert logits.shape == (len(lengths), 3) and logits.dtype == np.float32
    for output in range(3):
        one = make_model(DENSE)
        state = {
            **model.state_dict(),
            "head.weight": model.head.weight[[output]],
            "head.bias": model.head.bias[[output]],
        }
        one.load_state_dict(state)
        np.testing.assert_allclose(logits[:, output], score_rows(one, rows, precision="fp32"), atol=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [20, 4096])
def test_batches_that_are_kept_give_the_same_bits(tokens_per_batch: int) -> None:
    model, rows = make_model(DENSE), make_rows([7, 3, 12, 5, 9])
    batches = list(scoring_batches(rows, torch.device("cpu"), tokens_per_batch=tokens_per_batch))
    for genome in (DENSE, Genome.parse("h1.f5.k0.50-h2.f0.k1.00")):
        logits = np.empty(len(rows), np.float32)
        score_batches(model, batches, logits, genome=genome, precision="fp32")
        expected = score_rows(model, rows, genome=genome, tokens_per_batch=tokens_per_batch, precision="fp32")
        np.testing.assert_array_equal(logits, expected)


@pytest.mark.parametrize("outputs", [1, 3])
def test_chosen_rows_alone_are_scored_and_the_others_left(outputs: int) -> None:
    model, rows = make_model(DENSE, outputs=outputs), make_rows([7, 3, 12, 5, 9, 4])
    batches = list(scoring_batches(rows, torch.device("cpu"), tokens_per_batch=30))
    chosen = np.array([True, False, False, True, False, True])
    expected = score_rows(model, rows, tokens_per_batch=30, precision="fp32")
    logits = np.full_like(no_logits(model, rows), np.nan)
    parts = [chosen_of(batch, chosen) for batch in batches]
    score_batches(model, [part for part in parts if len(part.index)], logits, precision="fp32")
    assert np.isnan(logits[~chosen]).all()
    np.testing.assert_allclose(logits[chosen], expected[chosen], atol=1e-6)
    assert [part.input_ids.shape[1] for part in parts] == [batch.input_ids.shape[1] for batch in batches]
