"""Texts of tables: which columns hold them, and what they say, a piece at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sparsefront.models.text_columns import TextColumns, parquet_pieces
from sparsefront.spaces import InputError


def write(path: Path, frame: pd.DataFrame) -> None:
    """As CSV or as Parquet, by the name."""
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)


def texts_of(columns: TextColumns, piece_rows: int = 2) -> list[str]:
    return [text for piece in columns.pieces(piece_rows) for text in piece.texts]


@pytest.mark.parametrize(
    ("kind", "cells", "texts"),
    [
        (pa.string(), ["a", None, "", "null"], ["a", "", "null"]),
        (pa.large_string(), ["a", "é"], ["a", "é"]),
        (pa.dictionary(pa.int32(), pa.string()), ["a", "b", "a", None], ["a", "b", "a"]),
        (pa.list_(pa.string()), [["a", None], [], None, ["b", "a"]], ["a", "b", "a"]),
        (pa.large_list(pa.large_string()), [["a"], ["b"]], ["a", "b"]),
        (pa.list_(pa.list_(pa.string())), [[["a"], ["b", "c"]], [None]], ["a", "b", "c"]),
    ],
)
def test_parquet_columns_of_texts_and_of_lists(
    tmp_path: Path, kind: pa.DataType, cells: list[Any], texts: list[str]
) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"number": pa.array(range(len(cells))), "words": pa.array(cells, kind)})
    pq.write_table(table, path, row_group_size=3)
    for columns in (TextColumns.of(path), TextColumns.of(path, ["words", "words"])):
        assert columns.names == ("words",) and columns.rows == len(cells)
        assert texts_of(columns) == texts
    assert sum(columns.groups) == -(-len(cells) // 3)
    by_group = [parquet_pieces(path, ["words"], group=group) for group in range(columns.groups[0])]
    assert [text for pieces in by_group for piece in pieces for text in piece.texts] == texts
    for wrong, line in (("number", "column 'number' holds int64; expected texts"), ("no", "no column 'no'; there are")):
        with pytest.raises(InputError, match=line):
            TextColumns.of(path, ["words", wrong])


def test_several_columns_and_parts(tmp_path: Path) -> None:
    for part, rows in enumerate((["a", "b", "c"], ["d"])):
        frame = pd.DataFrame({"title": rows, "history": [[one, one.upper()] for one in rows], "price": 1.0})
        frame.to_parquet(tmp_path / f"{part}.parquet")
    columns = TextColumns.of(tmp_path, ["history", "title"])
    assert texts_of(columns) == ["a", "A", "b", "B", "a", "b", "c", "C", "c", "d", "D", "d"]
    assert columns.rows == 4 and columns.groups == (1, 1)
    with pytest.raises(InputError, match=r"2 columns hold texts \(title, history\); expected --column NAME"):
        TextColumns.of(tmp_path)
    pd.DataFrame({"title": [1], "history": [["a"]], "price": 1.0}).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: column 'title' holds int64; expected texts"):
        TextColumns.of(tmp_path, ["title"])
    pd.DataFrame({"else": ["a"]}).to_parquet(tmp_path / "2.parquet")
    with pytest.raises(InputError, match=r"2\.parquet: its columns \['else'\] differ from 0\.parquet's"):
        TextColumns.of(tmp_path, ["title"])


def test_cells_of_separated_files_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_text("query\tclick\n0042\t1\nnull\t0\n\t1\n", encoding="utf-8")
    columns = TextColumns.of(path, ["query"])
    assert texts_of(columns) == ["0042", "null", ""] and columns.rows is None and columns.groups == ()
    with pytest.raises(InputError, match=r"2 columns hold texts \(query, click\)"):
        TextColumns.of(path)
    path.write_text("query\n0042\n", encoding="utf-8")
    assert TextColumns.of(path).names == ("query",)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_cells_that_are_lists_in_json_are_as_many_texts(ending: str, tmp_path: Path) -> None:
    cells = ['["red hat", "blue, cheap hat"]', "[]", "", ' ["é"]', "[red] hat", "[1]", '["a", null]', '"a"']
    path = tmp_path / f"rows.{ending}"
    write(path, pd.DataFrame({"history": cells, "item": "green hat"}))
    expected = ["red hat", "blue, cheap hat", "", "é", "[red] hat", "[1]", '["a", null]', '"a"']
    assert texts_of(TextColumns.of(path, ["history"])) == expected
    assert texts_of(TextColumns.of(path, ["item", "history"]), len(cells)) == [*["green hat"] * len(cells), *expected]
    write(path, pd.DataFrame({"history": ['["\\ud800"]']}))
    with pytest.raises(InputError, match=rf"rows\.{ending}: a list holds .*ud800.*; expected texts"):
        texts_of(TextColumns.of(path))


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_long_lists_are_several_pieces_whose_rows_are_counted_once(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparsefront.models.text_columns.PIECE_TEXTS", 10)
    lists = [[f"{row} {place}" for place in range(length)] for row, length in enumerate([35, 2, 0, 10, 10, 1, 4])]
    path = tmp_path / f"rows.{ending}"
    if ending == "csv":
        pd.DataFrame({"words": [json.dumps(one) for one in lists]}).to_csv(path, index=False)
    else:
        pq.write_table(pa.table({"words": lists}), path)
    pieces = list(TextColumns.of(path).pieces())
    assert [text for piece in pieces for text in piece.texts] == [text for one in lists for text in one]
    assert sum(piece.rows for piece in pieces) == len(lists)
    assert max(len(piece.texts) for piece in pieces) == 10


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with pytest.raises(InputError, match="no such file or folder"):
        TextColumns.of(path)
    pd.DataFrame({"words": [f"word {number}" for number in range(5_000)]}).to_parquet(path)
    columns, whole = TextColumns.of(path), path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"rows\.parquet: not a readable Parquet file"):
        TextColumns.of(path)
    path.write_bytes(whole[:100] + b"\xff" * 5_000 + whole[5_100:])
    with pytest.raises(InputError, match=r"rows\.parquet: not a readable Parquet file"):
        texts_of(columns)
    (tmp_path / "rows.csv").write_bytes(b"")
    with pytest.raises(InputError, match=r"rows\.csv: not a UTF-8 CSV file"):
        TextColumns.of(tmp_path / "rows.csv")
