"""Tokenised rows: subsets, stratified samples and batches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.models.features import FeatureRows
from sparsefront.models.rows import TokenRows


def make_rows(lengths: list[int], seed: int = 0) -> TokenRows:
    rng = np.random.default_rng(seed)
    total = sum(lengths)
    target = rng.random(len(lengths)).astype(np.float32)
    return TokenRows(
        input_ids=rng.integers(1, 1000, size=total).astype(np.int32),
        token_type_ids=rng.integers(0, 2, size=total).astype(np.int8),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        target=target,
        positive=target >= 0.5,
    )


def make_classes(classes: list[int], count: int, seed: int = 0) -> TokenRows:
    """Rows of these classes, of ``count`` in all."""
    plain = make_rows([2] * len(classes), seed)
    target, positive = np.array(classes, np.float32), np.zeros(len(classes), bool)
    return replace(plain, target=target, positive=positive, classes=count)


def tokens_of(rows: TokenRows, row: int) -> list[int]:
    return [int(i) for i in rows.input_ids[rows.offsets[row] : rows.offsets[row + 1]]]


many_lengths = st.lists(st.integers(1, 20), min_size=0, max_size=60)


@given(many_lengths, st.one_of(st.none(), st.integers(0, 5)), st.booleans(), st.integers(1, 50))
def test_batches_are_a_partition_of_the_rows(lengths: list[int], seed: int | None, in_tokens: bool, limit: int) -> None:
    rows = make_rows(lengths)
    size: dict[str, Any] = {"tokens_per_batch" if in_tokens else "batch_size": limit}
    batches = list(rows.batches(**size, shuffle_seed=seed, pad_token_id=7))
    assert sorted(int(i) for batch in batches for i in batch.index) == list(range(len(rows)))
    for batch in batches:
        assert batch.input_ids.shape == batch.attention_mask.shape == batch.token_type_ids.shape
        assert batch.input_ids.dtype == batch.attention_mask.dtype == batch.index.dtype == np.int64
        assert batch.attention_mask.sum(axis=1).max() == batch.input_ids.shape[1], "padded beyond the longest row"
        assert len(batch) == 1 or (batch.input_ids.size if in_tokens else len(batch)) <= limit
        for place, row in enumerate(batch.index):
            real = batch.attention_mask[place].astype(bool)
            assert list(batch.input_ids[place][real]) == tokens_of(rows, int(row))
            assert (batch.input_ids[place][~real] == 7).all()
            assert batch.target[place] == rows.target[row]


def test_unshuffled_batches_come_sorted_by_length() -> None:
    rows = make_rows([5, 1, 9, 3, 3, 8])
    order = np.concatenate([batch.index for batch in rows.batches(batch_size=4)])
    assert order.tolist() == [1, 3, 4, 0, 5, 2]


def test_shuffled_batches_depend_on_the_seed_alone_and_pad_little() -> None:
    rows = make_rows(np.random.default_rng(0).integers(5, 60, size=2000).tolist())
    first, again, other = (
        [batch.index.tolist() for batch in rows.batches(tokens_per_batch=1024, shuffle_seed=seed)] for seed in (1, 1, 2)
    )
    assert first == again != other
    used = sum(
        batch.attention_mask.sum() / batch.input_ids.size for batch in rows.batches(batch_size=16, shuffle_seed=0)
    )
    assert used / 125 > 0.9


def test_padding_to_a_multiple_leaves_few_shapes() -> None:
    rows = make_rows(np.random.default_rng(0).integers(5, 45, size=2000).tolist())
    for seed in (None, 0):
        batches = list(rows.batches(tokens_per_batch=256, shuffle_seed=seed, pad_to_multiple_of=8))
        assert {batch.input_ids.shape[1] for batch in batches} == {8, 16, 24, 32, 40, 44}  # no row is longer than 44
        assert all(batch.input_ids.size <= 256 for batch in batches)
        full = [batch.input_ids.shape for batch in batches if batch.input_ids.size > 256 - batch.input_ids.shape[1]]
        assert len(full) > 0.8 * len(batches) and len(set(full)) <= 6
        for batch in batches:
            assert batch.attention_mask.sum(axis=1).tolist() == rows.lengths[batch.index].tolist()


def test_batches_asks_for_exactly_one_limit_and_a_sensible_multiple() -> None:
    rows = make_rows([3])
    refused: tuple[dict[str, Any], ...] = ({}, {"batch_size": 2, "tokens_per_batch": 3}, {"batch_size": 0})
    for limits in refused:
        with pytest.raises(ValueError, match="tokens_per_batch"):
            rows.batches(**limits)
    with pytest.raises(ValueError, match="pad_to_multiple_of"):
        rows.batches(batch_size=1, pad_to_multiple_of=0)


@given(many_lengths, st.integers(1, 60), st.sampled_from([None, 3]), st.booleans(), st.sampled_from([1, 20, 60]))
def test_rows_of_one_length_are_not_padded_where_there_are_enough(
    lengths: list[int], limit: int, shuffle_seed: int | None, in_tokens: bool, unpadded_from: int
) -> None:
    rows = make_rows(lengths)
    size: dict[str, Any] = {"tokens_per_batch" if in_tokens else "batch_size": limit}
    batches = list(rows.batches(**size, shuffle_seed=shuffle_seed, unpadded_from=unpadded_from))
    assert sorted(int(one) for batch in batches for one in batch.index) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or (batch.input_ids.size if in_tokens else len(batch)) <= limit
    if shuffle_seed is None:  # else the rows of a length may stand in several parts
        tokens_of_length = {length: length * lengths.count(length) for length in lengths}
        padded = [lengths[row] for batch in batches if not batch.attention_mask.all() for row in batch.index]
        assert all(tokens_of_length[length] < unpadded_from for length in padded)
    if unpadded_from == 1:
        assert all(batch.attention_mask.all() for batch in batches)


@given(many_lengths.filter(bool), st.data())
def test_subset_keeps_tokens_and_labels(lengths: list[int], data: st.DataObject) -> None:
    rows = make_rows(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20))
    part = rows.subset(chosen)
    assert len(part) == len(chosen)
    assert part.lengths.tolist() == [lengths[i] for i in chosen]
    for place, row in enumerate(chosen):
        assert tokens_of(part, place) == tokens_of(rows, row)
        assert part.target[place] == rows.target[row] and part.positive[place] == rows.positive[row]


def test_subset_refuses_rows_that_are_not_there() -> None:
    with pytest.raises(ValueError, match=r"indices must be in 0\.\.1, got -1\.\.1"):
        make_rows([2, 2]).subset([1, -1])


@given(st.integers(1, 80), st.integers(0, 3))
def test_stratified_keeps_the_positive_rate(n: int, seed: int) -> None:
    rows = make_rows([2] * 100)
    sample = rows.stratified(n, seed)
    assert len(sample) == n
    assert abs(sample.positive.sum() - n * rows.positive_rate) <= 1
    assert n < 2 or 0 < sample.positive.sum() < n


def test_stratified_draws_each_row_once_and_returns_all_rows_when_asked_for_more() -> None:
    rows = make_rows([1] * 50)
    unique = TokenRows.from_arrays({**rows.to_arrays(), "input_ids": np.arange(50, dtype=np.int32)})
    assert len(set(unique.stratified(30, 0).input_ids.tolist())) == 30
    assert unique.stratified(50, 0) is unique
    with pytest.raises(ValueError, match="n must be at least 1, got 0"):
        unique.stratified(0, 0)


def drawn_by_positive_rate(rows: TokenRows, n: int, seed: int) -> list[float]:
    """Targets of what was drawn before there were classes: a sample of old must stay what it is."""
    rng = np.random.default_rng(seed)
    positives, negatives = np.flatnonzero(rows.positive), np.flatnonzero(~rows.positive)
    wanted = round(n * rows.positive_rate)
    if n >= 2 and len(positives) and len(negatives):
        wanted = min(max(wanted, 1), n - 1)
    wanted = min(max(wanted, n - len(negatives)), len(positives))
    chosen = [rng.choice(positives, wanted, replace=False), rng.choice(negatives, n - wanted, replace=False)]
    return [float(one) for one in rows.target[np.sort(np.concatenate(chosen))]]


@given(st.integers(2, 60), st.floats(0, 1), st.integers(0, 3), st.data())
def test_samples_of_positive_and_negative_rows_are_what_they_always_were(
    size: int, rate: float, seed: int, data: st.DataObject
) -> None:
    plain = make_rows([1] * size, seed)
    rows = replace(plain, positive=np.random.default_rng(seed).random(size) < rate)
    n = data.draw(st.integers(1, size - 1))
    assert rows.stratified(n, seed).target.tolist() == drawn_by_positive_rate(rows, n, seed)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.integers(0, 3), st.data())
def test_a_sample_of_classes_has_the_share_of_each(classes: list[int], seed: int, data: st.DataObject) -> None:
    rows = make_classes(classes, 5)
    n = data.draw(st.integers(1, len(classes) - 1))
    sample = rows.stratified(n, seed)
    assert len(sample) == n and sample.classes == 5
    there, drawn = (np.bincount(one.target.astype(int), minlength=5) for one in (rows, sample))
    assert (drawn <= there).all()
    if n >= (there > 0).sum():
        assert (drawn[there > 0] > 0).all()
    else:
        assert (np.abs(drawn - n * there / len(rows)) <= 1).all()
    if drawn[there > 0].min() > 1:  # none was given to a class that would have got none
        assert (np.abs(drawn - n * there / len(rows)) <= 1).all()


def test_kinds_are_positive_and_negative_rows_or_the_classes_the_last_first() -> None:
    assert [kind.tolist() for kind in make_classes([0, 2, 0, 1, 2], 4).kinds] == [[], [1, 4], [3], [0, 2]]
    rows = replace(make_rows([1, 1, 1]), positive=np.array([False, True, False]))
    assert [kind.tolist() for kind in rows.kinds] == [[1], [0, 2]]
    assert [len(kind) for kind in replace(rows, positive=np.zeros(3, bool)).kinds] == [0, 3]


def test_rows_know_what_logits_a_model_gives_them() -> None:
    assert make_rows([1, 2]).logits_shape == (2,)
    assert make_classes([0, 1, 2], 3).logits_shape == (3, 3)


def test_arrays_of_classes_round_trip_and_others_are_what_they_were() -> None:
    assert list(make_rows([3, 4]).to_arrays()) == ["input_ids", "token_type_ids", "offsets", "target", "positive"]
    rows = make_classes([0, 1, 1], 2)
    again = TokenRows.from_arrays(rows.to_arrays())
    assert again.classes == 2 and again.target.tolist() == [0, 1, 1]
    assert again.subset([2, 0]).classes == 2
    for wrong in (np.array([2], np.int32), np.array([2, 2]), np.array(2)):
        with pytest.raises(ValueError, match="classes must be one int64, got"):
            TokenRows.from_arrays({**rows.to_arrays(), "classes": wrong})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "classes must be 0 or at least 2, got 1"),
        ({"classes": -3}, "classes must be 0 or at least 2, got -3"),
        ({"target": np.array([0, 2], np.float32)}, r"target must be the index of one of 2 classes, got 2\.0"),
        ({"target": np.array([0.5, 1], np.float32)}, r"target must be the index of one of 2 classes, got 0\.5"),
        ({"target": np.array([1, np.nan], np.float32)}, "target must be the index of one of 2 classes, got nan"),
        ({"positive": np.array([True, False])}, "no row of 2 classes is positive, got 1"),
        ({"classes": 0, "target": np.array([0, 2], np.float32)}, r"target must be in \[0, 1\], got 0\.0 to 2\.0"),
    ],
)
def test_wrong_classes_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(make_classes([0, 1], 2), **change)


def test_arrays_round_trip() -> None:
    rows = make_rows([3, 4, 1])
    again = TokenRows.from_arrays(rows.to_arrays())
    for name, array in rows.to_arrays().items():
        assert np.array_equal(array, again.to_arrays()[name]) and array.dtype == again.to_arrays()[name].dtype


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": np.zeros(4)}, "input_ids must be a flat int32 array, got float64"),
        ({"offsets": np.array([0, 4], np.int64)}, "2 targets need 3 offsets"),
        ({"offsets": np.array([0, 2, 9], np.int64)}, "offsets must run from 0 to 4 tokens"),
        ({"offsets": np.array([0, 4, 4], np.int64)}, "every row must have at least one token"),
        ({"target": np.array([0, 1.5], np.float32)}, r"target must be in \[0, 1\], got 0.0 to 1.5"),
        ({"target": np.array([0, np.nan], np.float32)}, r"target must be in \[0, 1\], got nan"),
        ({"extra": np.zeros(1)}, "arrays must be"),
    ],
)
def test_wrong_arrays_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenRows.from_arrays({**make_rows([2, 2]).to_arrays(), **change})


def with_features(rows: TokenRows) -> TokenRows:
    """Each row's features, weight and user are made of its place, so that they can be found again."""
    places = np.arange(len(rows))
    features = FeatureRows(np.stack([places, -places], 1).astype(np.float32), (places[:, None] * 3).astype(np.int32))
    return replace(rows, features=features, weight=places.astype(np.float32), user=(places // 2).astype(np.int32))


@given(many_lengths.filter(bool), st.data())
def test_features_weights_and_users_stay_with_their_rows(lengths: list[int], data: st.DataObject) -> None:
    rows = with_features(make_rows(lengths))
    chosen = np.array(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20)), np.int64)
    part = rows.subset(chosen)
    assert part.features is not None and part.weight is not None and part.user is not None
    assert part.features.numeric[:, 0].tolist() == chosen.tolist() == part.weight.tolist()
    assert part.user.tolist() == (chosen // 2).tolist()
    for batch in rows.batches(batch_size=4, shuffle_seed=1):
        assert batch.features is not None and (batch.features.categorical[:, 0] == batch.index * 3).all()
    again = TokenRows.from_arrays(rows.to_arrays())
    assert again.to_arrays().keys() == rows.to_arrays().keys()
    assert all(np.array_equal(again.to_arrays()[name], array) for name, array in rows.to_arrays().items())


def test_rows_without_features_say_nothing_of_them() -> None:
    rows = make_rows([2, 3])
    assert rows.features is None and next(iter(rows.batches(batch_size=2))).features is None
    assert rows.subset([1]).weight is None and rows.subset([1]).user is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"features": FeatureRows(np.zeros((1, 1), np.float32), np.zeros((1, 0), np.int32))}, "those of 1"),
        ({"weight": np.ones(2)}, "weight must be"),
        ({"weight": np.ones(3, np.float32)}, "weight must be"),
        ({"weight": np.array([1, -1], np.float32)}, "weight must be at least 0 and finite, got -1.0 to 1.0"),
        ({"weight": np.array([1, np.nan], np.float32)}, "weight must be at least 0 and finite"),
        ({"user": np.zeros(2, np.int64)}, "user must be"),
    ],
)
def test_features_weights_and_users_must_fit_the_rows(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(make_rows([2, 3]), **change)


def test_half_of_the_feature_arrays_is_refused() -> None:
    arrays = with_features(make_rows([2, 3])).to_arrays()
    del arrays["categorical"]
    with pytest.raises(ValueError, match="arrays must be"):
        TokenRows.from_arrays(arrays)


def with_vectors(rows: TokenRows, texts: int = 1000, width: int = 3) -> TokenRows:
    """The same ids, as numbers of texts with random vectors."""
    vectors = np.random.default_rng(1).normal(size=(texts, width)).astype(np.float16)
    return replace(rows, vectors=vectors)


@given(many_lengths.filter(bool), st.data())
def test_vectors_are_one_array_of_all_rows_samples_and_batches(lengths: list[int], data: st.DataObject) -> None:
    rows = with_vectors(make_rows(lengths))
    part = rows.subset(data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=20)))
    assert part.vectors is rows.vectors and rows.stratified(2, 0).vectors is rows.vectors
    for batch in rows.batches(batch_size=4, pad_token_id=7):
        assert batch.vectors is rows.vectors
        assert (batch.input_ids[batch.attention_mask == 0] == 0).all(), "padding is the number of a text"
    again = TokenRows.from_arrays(rows.to_arrays())
    assert again.vectors is rows.vectors and again.input_ids.tolist() == rows.input_ids.tolist()
    assert make_rows(lengths).vectors is None and "vectors" not in make_rows(lengths).to_arrays()


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (np.zeros((9, 2), np.float32), r"vectors must be \(texts, width\) float16, got float32 of shape \(9, 2\)"),
        (np.zeros(9, np.float16), r"vectors must be \(texts, width\) float16"),
        (np.zeros((9, 0), np.float16), r"vectors must be \(texts, width\) float16"),
        (np.zeros((2, 2), np.float16), r"input_ids must be in 0\.\.1, got 0\.\.2"),
        (np.array([[0, 0], [0, np.nan], [0, 0]], np.float16), "vectors must be finite, that of text 1 is not"),
        (np.array([[0, 0], [0, 0], [-np.inf, 0]], np.float16), "vectors must be finite, that of text 2 is not"),
    ],
)
def test_wrong_vectors_are_refused(vectors: Any, told: str) -> None:
    rows = replace(make_rows([2, 1]), input_ids=np.array([0, 2, 1], np.int32))
    with pytest.raises(ValueError, match=told):
        replace(rows, vectors=vectors)
    with pytest.raises(ValueError, match=told):
        TokenRows.from_arrays({**rows.to_arrays(), "vectors": vectors})


def test_negative_numbers_of_texts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"input_ids must be in 0\.\.999, got -1\.\.3"):
        with_vectors(replace(make_rows([2]), input_ids=np.array([3, -1], np.int32)))


def test_vectors_are_checked_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparsefront.models.rows.CHECKED_TEXTS", 4)
    rows = with_vectors(make_rows([2, 1]))
    assert rows.vectors is not None
    wrong = rows.vectors.copy()
    wrong[998] = np.inf
    with pytest.raises(ValueError, match="that of text 998 is not"):
        replace(rows, vectors=wrong)
