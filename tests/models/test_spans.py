"""Spans: targets, the likeliest answers, their metrics and their loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.models.tiny import make_model, make_span_rows

from sparsefront.models.loss import label_loss
from sparsefront.models.metrics import quality
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.spans import (
    MOST_ANSWER_TOKENS,
    MOST_TOKENS,
    NO_ANSWER,
    NO_TOKEN,
    ends_of,
    overlaps,
    span_index,
    told_spans,
)
from sparsefront.models.training import TrainOptions, mix_targets, train
from sparsefront.models.uncertainty import paired_error, standard_error
from sparsefront.spaces import Genome

GENOME = Genome.parse("h3.f20.k0.60-h3.f20.k1.00")


def logits_of(rows: int, tokens: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, tokens, 2)).astype(np.float32)


@given(st.lists(st.tuples(st.integers(0, MOST_TOKENS - 1), st.integers(0, MOST_TOKENS - 1)), min_size=1))
def test_any_span_is_a_number_and_comes_back(spans: list[tuple[int, int]]) -> None:
    first, last = np.array(spans, np.int64).T
    back = ends_of(span_index(first, last))
    assert np.array_equal(back[0], first) and np.array_equal(back[1], last)


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 4), tokens=st.integers(2, 40), seed=st.integers(0, 1000))
def test_the_likeliest_answer_is_that_of_all_pairs(rows: int, tokens: int, seed: int) -> None:
    logits = logits_of(rows, tokens, seed)
    pairs = [
        (first, last) for first in range(1, tokens) for last in range(first, min(first + MOST_ANSWER_TOKENS, tokens))
    ]
    first, last = told_spans(logits)
    for row in range(rows):
        best = max(float(logits[row, a, 0] + logits[row, b, 1]) for a, b in pairs)
        assert (first[row], last[row]) in pairs
        assert logits[row, first[row], 0] + logits[row, last[row], 1] == pytest.approx(best)


def test_a_row_of_one_token_has_no_answer_to_tell() -> None:
    first, last = told_spans(logits_of(2, 1, 0))
    assert first.tolist() == last.tolist() == [0, 0]


def test_metrics_count_tokens_by_place() -> None:
    target = span_index(np.array([2, 2, 5, NO_ANSWER]), np.array([4, 4, 5, NO_ANSWER]))
    logits = np.full((4, 8, 2), NO_TOKEN, np.float32)
    for row, (first, last) in enumerate([(2, 4), (3, 6), (1, 1), (1, 2)]):
        logits[row, first, 0] = logits[row, last, 1] = 1
    assert overlaps(target, logits).tolist() == pytest.approx([1, 2 * 2 / (3 + 4), 0, 0])
    none = np.zeros(4, bool)
    assert quality("exact_match", none, target, logits) == 0.25
    assert quality("span_f1", none, target, logits) == pytest.approx((1 + 4 / 7) / 4)
    assert standard_error("exact_match", none, target, logits) == pytest.approx(np.sqrt(0.25 * 0.75 / 4))
    assert paired_error("span_f1", none, target, logits, logits) == 0


@pytest.mark.parametrize("metric", ["auc", "accuracy", "log_loss"])
def test_spans_are_scored_by_no_other_metric(metric: str) -> None:
    with pytest.raises(ValueError, match="does not fit logits of shape"):
        quality(metric, np.zeros(3, bool), np.zeros(3), logits_of(3, 5, 0))


def test_the_loss_is_the_mean_of_both_ends() -> None:
    logits = torch.from_numpy(logits_of(3, 6, 1))
    target = torch.from_numpy(span_index(np.array([0, 2, 4]), np.array([0, 3, 5])))
    each = [
        -(logits[row, :, 0].log_softmax(0)[first] + logits[row, :, 1].log_softmax(0)[last]) / 2
        for row, (first, last) in enumerate([(0, 0), (2, 3), (4, 5)])
    ]
    expected = torch.stack(each)
    torch.testing.assert_close(label_loss(logits, target), expected.mean())
    torch.testing.assert_close(label_loss(logits, target, reduction="sum"), expected.sum())
    mixed = mix_targets(target.numpy(), logits.numpy() + 1, 0.0)
    torch.testing.assert_close(label_loss(logits, torch.from_numpy(mixed)), expected.mean())
    own = mix_targets(target.numpy(), logits.numpy(), 1.0)  # a teacher that says the same: the loss is its entropy
    entropy = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(label_loss(logits, torch.from_numpy(own)), entropy)
    half = mix_targets(target.numpy(), logits.numpy(), 0.5)
    assert half.sum(axis=1) == pytest.approx(np.ones((3, 2)), abs=1e-5)


def test_logits_of_rows_stand_at_their_tokens_and_have_no_chance_elsewhere() -> None:
    rows = make_span_rows([9, 4, 12, 1])
    model = make_model(GENOME, outputs=2, per_token=True)
    logits = score_rows(model, rows, precision="fp32", tokens_per_batch=20)
    assert logits.shape == rows.logits_shape == (4, 12, 2)
    for row, length in enumerate([9, 4, 12, 1]):
        second = rows.token_type_ids[rows.offsets[row] : rows.offsets[row + 1]] == 1
        chance = (logits[row] > NO_TOKEN).all(axis=1)
        assert chance[0] and np.array_equal(chance[1:length], second[1:]) and not chance[length:].any()
        alone = score_rows(model, rows.subset([row]), precision="fp32")
        np.testing.assert_allclose(logits[row, :length], alone[0], atol=1e-5)


def test_training_learns_spans() -> None:
    rows = make_span_rows([12] * 64, marked=True)
    model = make_model(GENOME, scale=0.1, outputs=2, per_token=True)
    before = quality("span_f1", rows.positive, rows.target, score_rows(model, rows, precision="fp32"))
    train(model, rows, TrainOptions(epochs=60, learning_rate=3e-3, tokens_per_batch=192, precision="fp32"))
    after = quality("span_f1", rows.positive, rows.target, score_rows(model, rows, precision="fp32"))
    assert before < 0.5 and after > 0.8


def test_rows_and_models_of_unlike_kinds_are_refused() -> None:
    rows = make_span_rows([9, 4])
    with pytest.raises(ValueError, match="rows with spans need a model whose head reads every token"):
        train(make_model(GENOME), rows, TrainOptions())


def test_rows_with_spans_survive_arrays_and_subsets() -> None:
    rows = make_span_rows([9, 4, 6])
    back = TokenRows.from_arrays(rows.subset([2, 0]).to_arrays())
    assert back.spans and back.target.tolist() == rows.target[[2, 0]].tolist()
    assert [kind.tolist() for kind in back.kinds] == [[0, 1]]


@pytest.mark.parametrize(
    ("first", "last", "line"),
    [(3, 2, "row 0 must lie in its 4 tokens, got 3 to 2"), (1, 4, "row 0 must lie in its 4 tokens, got 1 to 4")],
)
def test_a_span_outside_its_row_is_refused(first: int, last: int, line: str) -> None:
    arrays = make_span_rows([4]).to_arrays()
    arrays["target"] = span_index(np.array([first]), np.array([last]))
    with pytest.raises(ValueError, match=line):
        TokenRows.from_arrays(arrays)
    arrays["target"] = np.array([np.nan], np.float32)
    with pytest.raises(ValueError, match="index of a span"):
        TokenRows.from_arrays(arrays)
