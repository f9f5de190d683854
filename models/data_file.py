"""Reading rows from CSV, TSV, Parquet or a folder of Parquet parts."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparsefront.models.history_texts import is_unicode, shown
from sparsefront.spaces import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""What counts as missing in a CSV, but for text columns, where "null" is a word like any other."""
CHUNK_ROWS = 65_536
NULLABLE = {
    pa.type_for_alias(name.lower()): pd.api.types.pandas_dtype(name)
    for name in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
}
"""pandas' integers that may be missing, by Arrow's."""
Keys = NDArray[np.float64]


def read_frame(
    path: Path,
    *,
    text_columns: Collection[str],
    max_rows: int | None = None,
    seed: int = 0,
    expected: str = "at least 3",
) -> tuple[pd.DataFrame, str]:
    """The rows at ``path`` with a fresh index, and the SHA-256 (hex) of the bytes they were read from.

    Args:
        path: a file or a folder of Parquet parts.
        text_columns: stay text whatever they look like: a query "0042" is not the number 42.
        max_rows: where there are more rows, so many are drawn from all of them at random, in their own order. Memory is
            then needed for these and for a piece of a file, however many there are.
        seed: of that draw.
        expected: what is told to one whose file has no rows.

    Raises:
        InputError: for what is missing, empty, damaged or of another kind.
    """
    parts = parts_of(path)
    digest = hashlib.sha256()
    for part in parts:
        if part.stat().st_size == 0:
            raise InputError(f"{part}: the file is empty; expected rows")
        try:
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{part}: cannot be read: {error.strerror}") from None
    separated, texts = parts[0].suffix.lower() in SEPARATORS, frozenset(text_columns)
    if max_rows is None:
        frame = _read_separated(parts[0], texts) if separated else _read_parquet(parts)
    elif separated:
        # Types are those of the rows that are drawn: the pieces of a file might not agree on them.
        drawn = draw_rows(separated_pieces(parts[0]), max_rows, seed)
        told = drawn.to_csv(index=False, sep=SEPARATORS[parts[0].suffix.lower()])
        frame = _read_separated(parts[0], texts, io.StringIO(told))
    else:
        frame = draw_rows(_parquet_pieces(parts), max_rows, seed)
    if not len(frame):
        raise InputError(f"{path}: there are no rows; expected {expected}")
    return frame, digest.hexdigest()


def frame_sha256(frame: pd.DataFrame, origin: str) -> str:
    """SHA-256 (hex) of rows in memory.

    Raises:
        InputError: a text holds half of a character, which no file can.
    """
    try:
        return hashlib.sha256(frame.to_json(orient="split", date_format="iso").encode()).hexdigest()
    except UnicodeEncodeError as error:
        for name in frame.columns:
            for row, value in enumerate(frame[name].tolist(), start=1):
                if isinstance(value, str) and not is_unicode(value):
                    raise InputError(
                        f"{origin}: row {row}: {name!r} is {shown(value)}; expected Unicode text"
                    ) from None
        raise InputError(f"{origin}: {shown(error.object)} is not Unicode") from None


def parts_of(path: Path) -> list[Path]:
    """The files of a table; ``InputError`` where there is none or it is of another kind."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; expected CSV, TSV, Parquet or a folder of Parquet parts")
    if path.is_dir():
        parts = sorted(part for part in path.glob("*.parquet") if part.is_file())
        if not parts:
            raise InputError(f"{path}: no *.parquet file in this folder")
        return parts
    if path.suffix.lower() not in {*SEPARATORS, ".parquet"}:
        raise InputError(f"{path}: unknown extension {path.suffix!r}; expected .csv, .tsv, .parquet or a folder")
    return [path]


def draw_rows(pieces: Iterable[pd.DataFrame], count: int, seed: int) -> pd.DataFrame:
    """So many rows of all pieces, each as likely as any other, in their order: those of the smallest random keys.

    How the rows are cut into pieces does not matter.
    """
    rng = np.random.default_rng(seed)
    kept: list[pd.DataFrame] = []
    keys, limit = np.zeros(0), 1.0
    for piece in pieces:
        drawn = rng.random(len(piece))
        below = drawn < limit
        keys = np.append(keys, drawn[below])
        kept.append(piece[below])
        if len(keys) >= 2 * count:
            frame, keys = _smallest(kept, keys, count)
            kept, limit = [frame], float(keys.max())
    return _smallest(kept, keys, count)[0] if kept else pd.DataFrame()


def _smallest(kept: list[pd.DataFrame], keys: Keys, count: int) -> tuple[pd.DataFrame, Keys]:
    """The rows with the smallest keys, in their order, as one frame, and those keys."""
    frame = pd.concat(kept, ignore_index=True)
    if len(keys) <= count:
        return frame, keys
    chosen = np.sort(np.argpartition(keys, count)[:count])
    return frame.iloc[chosen].reset_index(drop=True), keys[chosen]


def _parquet_pieces(parts: list[Path]) -> Iterator[pd.DataFrame]:
    first = _parquet_names(parts[0])
    for part in parts:
        check_same_columns(part, _parquet_names(part), parts[0], first)
        try:
            with pq.ParquetFile(part) as file:
                for batch in file.iter_batches(CHUNK_ROWS):
                    yield _frame_of(pa.Table.from_batches([batch]))
        except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
            raise unreadable(part, error) from None


def _parquet_names(part: Path) -> list[str]:
    try:
        names: list[str] = pq.read_schema(part).names
    except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
        raise unreadable(part, error) from None
    check_different(part, names)
    return names


def _frame_of(table: pa.Table) -> pd.DataFrame:
    """A table in pandas' own types, but for integers of which some are missing: as floats, which they would become,
    those beyond 2**53 would be others."""
    frame: pd.DataFrame = table.to_pandas(types_mapper=NULLABLE.get)
    nullable = [name for name, kind in frame.dtypes.items() if kind in NULLABLE.values()]
    return frame.astype({name: str(frame[name].dtype).lower() for name in nullable if not frame[name].hasnans})


def separated_pieces(path: Path) -> Iterator[pd.DataFrame]:
    """Every cell as the text that it is."""
    separator = SEPARATORS[path.suffix.lower()]
    try:
        _header(path)
        with pd.read_csv(
            path, sep=separator, encoding="utf-8-sig", dtype="str", keep_default_na=False, chunksize=CHUNK_ROWS
        ) as pieces:
            yield from pieces
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise _no_table(path, error) from None


def _read_separated(path: Path, text_columns: frozenset[str], source: io.StringIO | None = None) -> pd.DataFrame:
    """From a file, or from what was drawn of it."""
    separator = SEPARATORS[path.suffix.lower()]
    try:
        header = _header(path)
        return pd.read_csv(
            path if source is None else source,
            sep=separator,
            encoding="utf-8-sig",
            dtype={name: "str" for name in header if name in text_columns},
            keep_default_na=False,
            na_values={name: MISSING for name in header if name not in text_columns},
            low_memory=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise _no_table(path, error) from None


def _header(path: Path) -> list[str]:
    """The names that pandas gives columns; ``InputError`` where it would rename one that stands there twice, or take
    the first of more fields for an index."""
    separator = SEPARATORS[path.suffix.lower()]
    first = pd.read_csv(
        path, sep=separator, encoding="utf-8-sig", header=None, nrows=1, dtype="str", keep_default_na=False
    )
    check_different(path, [name for name in first.iloc[0].tolist() if name])
    row = pd.read_csv(path, sep=separator, encoding="utf-8-sig", nrows=1, dtype="str", keep_default_na=False)
    if not isinstance(row.index, pd.RangeIndex):  # later rows of more fields cannot be parsed
        raise InputError(f"{path}: rows have more fields than the header's {len(row.columns)} names")
    return [str(name) for name in row.columns]


def _no_table(path: Path, error: Exception) -> InputError:
    kind = "TSV" if SEPARATORS[path.suffix.lower()] == "\t" else "CSV"
    return InputError(f"{path}: not a UTF-8 {kind} file: {' '.join(str(error).split())}")


def unreadable(part: Path, error: Exception) -> InputError:
    """What pyarrow says of a file, as one line."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return InputError(f"{part}: not a readable Parquet file: {reason}")


def check_different(path: Path, names: list[str]) -> None:
    """``InputError`` for a name that several columns have."""
    for name, count in Counter(names).items():
        if count > 1:
            raise InputError(f"{path}: column {name!r} stands there twice; expected different names")


def check_same_columns(part: Path, names: list[str], first: Path, expected: list[str]) -> None:
    """``InputError`` where a part has other columns than the first one."""
    if names != expected:
        raise InputError(f"{part}: its columns {names} differ from {first.name}'s {expected}")


def _read_parquet(parts: list[Path]) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for part in parts:
        _parquet_names(part)
        try:
            frames.append(_frame_of(pq.read_table(part, partitioning=None)))
        except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
            raise unreadable(part, error) from None
        check_same_columns(part, list(frames[-1].columns), parts[0], list(frames[0].columns))
    return pd.concat(frames, ignore_index=True)
