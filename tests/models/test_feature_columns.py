"""Cells of feature columns: numbers, categories, and what is neither."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.models.feature_columns import hash_of, read_hashes, read_numbers
from sparsefront.spaces import InputError

cells = st.one_of(st.none(), st.booleans(), st.integers(-(2**40), 2**40), st.floats(-1e30, 1e30), st.text(max_size=5))


def told_apart(values: Any) -> list[int]:
    """Which rows are alike, by the first row of their kind; -1 where a value is missing."""
    _, at = read_hashes(pd.Series(values), "c", "rows")
    return [-1 if place < 0 else at.tolist().index(place) for place in at.tolist()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (pd.Series([1, 2]), [1, 2]),
        (pd.Series([True, False]), [1, 0]),
        (pd.Series([1, None], dtype="Int64"), [1, np.nan]),
        (
            pd.Series([True, None, Decimal("2.5"), "3", " ", np.float32(4)], dtype=object),
            [1, np.nan, 2.5, 3, np.nan, 4],
        ),
        (pd.Series([], dtype=object), []),
    ],
)
def test_numbers_of_every_type_of_column(values: pd.Series[Any], expected: list[float]) -> None:
    np.testing.assert_array_equal(read_numbers(values, "c", "rows"), expected)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("tall", "'tall'; expected a number or no value"),
        (pd.Timestamp("2026-01-02"), "Timestamp('2026-01-02 00:00:00'); expected a number or no value"),
        ([1.0], "[1.0]; expected a number or no value"),
        (np.inf, "inf; expected a finite number below 3.4e38"),
        (-1e39, "-1e+39; expected a finite number below 3.4e38"),
        ("-inf", "-inf; expected a finite number below 3.4e38"),
        (10**400, "inf; expected a finite number below 3.4e38"),
        (-(10**400), "-inf; expected a finite number below 3.4e38"),
        (Decimal("1e400"), "inf; expected a finite number below 3.4e38"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(value: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_numbers(pd.Series([1.0, value], dtype=object), "age", "rows.csv")
    assert str(caught.value) == f"rows.csv: row 2: numeric 'age' is {told}"


def test_a_column_of_dates_is_no_feature() -> None:
    dates = pd.Series(pd.to_datetime(["2026-01-02"]))
    with pytest.raises(InputError, match="row 1: numeric 'day' is Timestamp"):
        read_numbers(dates, "day", "rows")
    with pytest.raises(InputError, match="row 1: categorical 'day' is Timestamp"):
        read_hashes(dates, "day", "rows")


def test_values_are_told_apart_by_what_they_say() -> None:
    assert told_apart([3, 3.0, "3", "3.00", Decimal(3), np.int8(3)]) == [0] * 6
    assert told_apart(pd.Series([1, True, "true", "1"], dtype=object)) == [0, 1, 1, 0]
    assert told_apart(["a", " a", "A", "", "  ", None]) == [0, 0, 2, -1, -1, -1]
    assert told_apart([0.5, "0.5", np.nan, Decimal("NaN"), Decimal("0.5")]) == [0, 0, -1, -1, 0]
    assert told_apart(pd.Series([True, None], dtype="boolean")) == [0, -1]
    assert told_apart(pd.Series(["x", None], dtype="category")) == [0, -1]
    assert told_apart(["00501", "501", "v1.0", "1.0.0"]) == [0, 1, 2, 3]


def test_a_list_is_no_category() -> None:
    with pytest.raises(InputError) as caught:
        read_hashes(pd.Series(["a", ["b"]], dtype=object), "tags", "rows.parquet")
    assert str(caught.value) == (
        "rows.parquet: row 2: categorical 'tags' is ['b']; expected text, a number, a boolean or no value"
    )


@pytest.mark.parametrize("value", ["1E+28", "-1E+28", "1E+999999", "Infinity", "-Infinity"])
def test_a_decimal_of_too_many_digits_is_no_category(value: str) -> None:
    for cells in ([Decimal("1.5"), Decimal(value)], ["a", Decimal(value)]):
        with pytest.raises(InputError) as caught:
            read_hashes(pd.Series(cells, dtype=object), "id", "rows.parquet")
        line = f"categorical 'id' is Decimal('{value}'); expected a decimal below 1e28, or text"
        assert str(caught.value) == f"rows.parquet: row 2: {line}"
    most = 10**28 - 1
    assert told_apart([most, Decimal(most), Decimal(most - 1), Decimal(-most), 10**400, None]) == [0, 0, 2, 3, 4, -1]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (pd.Series([1, 2**60 + 1, None]), "1.152921504606847e+18"),
        (pd.Series([1, -(2**53), None]), "-9007199254740992.0"),
        (pd.Series([1, 2.0**53, None], dtype="Float64"), "9007199254740992.0"),
        (pd.DataFrame([{"ad": 1}, {"ad": 2**60 + 1}, {}])["ad"], "1.152921504606847e+18"),
    ],
)
def test_identifiers_that_pandas_may_have_rounded_are_refused(values: pd.Series[Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_hashes(values, "ad", "requests")
    assert str(caught.value) == (
        f"requests: row 2: categorical 'ad' is {told}; expected integers or text, or floats below 2**53: beyond it "
        "they hold not every whole number"
    )


def test_whole_numbers_of_any_size_are_told_apart() -> None:
    largest = 2**53 - 1
    assert told_apart([largest, largest - 1, np.nan, str(largest)]) == [0, 1, -1, 0]
    assert told_apart(pd.Series([float(largest), largest - 1.0, np.nan])) == [0, 1, -1]
    assert told_apart([2**60, 2**60 + 1, str(2**60)]) == [0, 1, 0]
    assert told_apart(pd.Series([2**60, 2**60 + 1, None], dtype="Int64")) == [0, 1, -1]
    assert told_apart(pd.Series([2**64 - 1, 2**64 - 2, None], dtype="UInt64")) == [0, 1, -1]


@given(st.lists(cells, max_size=30))
def test_a_row_alone_gets_the_hash_that_it_has_among_others(values: list[Any]) -> None:
    hashes, at = read_hashes(pd.Series(values, dtype=object), "c", "rows")
    assert (hashes[1:] > hashes[:-1]).all()
    for place, value in zip(at.tolist(), values, strict=True):
        own, alone = read_hashes(pd.Series([value], dtype=object), "c", "rows")
        assert (place < 0) == (alone[0] < 0)
        assert place < 0 or hashes[place] == own[alone[0]]


def test_half_a_character_is_a_category_like_any_other() -> None:
    assert told_apart(pd.Series(["\ud800", "\ud801", "\ud800", "\U00010000"], dtype=object)) == [0, 1, 0, 3]


def test_hashes_are_the_same_on_every_machine() -> None:
    assert hash_of("sofa") == 0xECC9DB2DE554D391
