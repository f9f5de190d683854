"""Texts of a table, a piece at a time: columns of texts, or of lists of texts, of CSV, TSV or Parquet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sparsefront.models.data_file import (
    SEPARATORS,
    check_different,
    check_same_columns,
    parts_of,
    separated_pieces,
    unreadable,
)
from sparsefront.models.history_lists import list_of
from sparsefront.models.history_texts import is_unicode, shown
from sparsefront.spaces import InputError

PIECE_ROWS = 65_536
PIECE_TEXTS = 131_072
"""At most in a piece: a row of a history may have thousands."""


@dataclass(frozen=True)
class TextPiece:
    """Texts of so many ``rows`` of a table, in their order, without missing ones.

    Where rows have more than ``PIECE_TEXTS`` they are several pieces, and count with the last.
    """

    texts: list[str]
    rows: int


@dataclass(frozen=True)
class TextColumns:
    """Columns of a table that hold texts.

    Attributes:
        parts: files of the table.
        names: of the columns.
        rows: in all files; ``None`` where only reading them would tell.
        groups: how many row groups each part has; none where it is not Parquet.
    """

    parts: tuple[Path, ...]
    names: tuple[str, ...]
    rows: int | None
    groups: tuple[int, ...] = ()

    @classmethod
    def of(cls, path: Path, names: Sequence[str] = ()) -> TextColumns:
        """Those columns of a file or of a folder of Parquet parts; without names, the only one that holds texts.

        Raises:
            InputError: no such file, an unreadable one, parts that differ, no such column, one that holds no texts, or
                several where no name was given.
        """
        parts = parts_of(path)
        if parts[0].suffix.lower() in SEPARATORS:
            first = next(separated_pieces(parts[0]), pd.DataFrame())
            return cls(tuple(parts), _chosen(path, [str(one) for one in first.columns], names, []), None)
        schemas: list[pa.Schema] = []
        rows, groups = 0, []
        for part in parts:
            try:
                with pq.ParquetFile(part) as file:
                    schemas.append(file.schema_arrow)
                    rows += file.metadata.num_rows
                    groups.append(file.num_row_groups)
            except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
                raise unreadable(part, error) from None
            check_same_columns(part, schemas[-1].names, parts[0], schemas[0].names)
        others = [field.name for field in schemas[0] if not _is_text(field.type)]
        chosen = _chosen(path, schemas[0].names, names, others)
        for part, schema in zip(parts, schemas, strict=True):
            for name in chosen:
                kind = schema.field(name).type
                if not _is_text(kind):
                    raise InputError(f"{part}: column {name!r} holds {kind}; expected texts or lists of texts")
        return cls(tuple(parts), chosen, rows, tuple(groups))

    def pieces(self, piece_rows: int = PIECE_ROWS) -> Iterator[TextPiece]:
        """All texts, a piece of a file at a time."""
        for part in self.parts:
            if part.suffix.lower() in SEPARATORS:
                yield from self._separated(part)
                continue
            yield from parquet_pieces(part, self.names, piece_rows)

    def _separated(self, part: Path) -> Iterator[TextPiece]:
        for piece in separated_pieces(part):
            cells = (cell for name in self.names for cell in piece[name].tolist() if isinstance(cell, str))
            yield from _pieces((text for cell in cells for text in _texts_in(cell, part)), len(piece))


def _texts_in(cell: str, part: Path) -> list[str]:
    """The texts of a list in JSON, as a history may stand in a column of texts, or the one text that a cell is."""
    listed = list_of(cell) if cell.lstrip().startswith("[") else None
    if listed is None or not all(isinstance(one, str) for one in listed):
        return [cell]
    for text in listed:
        if not is_unicode(text):
            raise InputError(f"{part}: a list holds {shown(text)}; expected texts")
    return listed


def parquet_pieces(
    part: Path, names: Sequence[str], piece_rows: int = PIECE_ROWS, *, group: int | None = None
) -> Iterator[TextPiece]:
    """Texts of columns of a Parquet file, or of one of its row groups, a piece at a time.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with pq.ParquetFile(part) as file:
            groups = list(range(file.num_row_groups)) if group is None else [group]
            rows = min(piece_rows, _rows_of_a_piece(file.metadata, names, groups))
            for batch in file.iter_batches(rows, row_groups=groups, columns=list(names)):
                texts = (text for name in names for text in texts_of(batch.column(name), part))
                yield from _pieces(texts, batch.num_rows)
    except InputError:
        raise
    except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
        raise unreadable(part, error) from None


def _rows_of_a_piece(metadata: pq.FileMetaData, names: Sequence[str], groups: Sequence[int]) -> int:
    """Rows that have ``PIECE_TEXTS`` texts, if all have as many as they have on average."""
    rows = values = 0
    for group in groups:
        about = metadata.row_group(group)
        rows += about.num_rows
        for number in range(about.num_columns):
            column = about.column(number)
            if column.path_in_schema.startswith(tuple(f"{name}." for name in names)):  # what lists hold
                values += column.num_values
    return max(1, PIECE_TEXTS * rows // max(values, rows, 1))


def _pieces(texts: Iterator[str], rows: int) -> Iterator[TextPiece]:
    """These texts of so many rows, ``PIECE_TEXTS`` at a time."""
    piece = list(islice(texts, PIECE_TEXTS))
    while following := list(islice(texts, PIECE_TEXTS)):
        yield TextPiece(piece, 0)
        piece = following
    yield TextPiece(piece, rows)


def texts_of(column: pa.Array, part: Path) -> Iterator[str]:
    """The texts of a column of a file that holds texts, lists in JSON or lists of texts, without missing ones."""
    kind = column.type
    cells = not _is_list(kind)
    while _is_list(kind):
        column = column.flatten()
        kind = column.type
    there = column.drop_null()
    for start in range(0, len(there), PIECE_TEXTS):
        texts = there.slice(start, PIECE_TEXTS).to_pylist()
        yield from (text for cell in texts for text in _texts_in(cell, part)) if cells else texts


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _chosen(path: Path, there: list[str], names: Sequence[str], others: list[str]) -> tuple[str, ...]:
    check_different(path, there)
    for name in names:
        if name not in there:
            raise InputError(f"{path}: no column {name!r}; there are {', '.join(there)}")
    if names:
        return tuple(dict.fromkeys(names))
    texts = [name for name in there if name not in others]
    if len(texts) != 1:
        raise InputError(
            f"{path}: {len(texts)} columns hold texts ({', '.join(texts) or 'none'}); "
            "expected --column NAME, once or several times"
        )
    return (texts[0],)
