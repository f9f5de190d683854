"""Reading rows from CSV, TSV, Parquet or a folder of Parquet parts."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

import pandas as pd

from sparsefront.spaces import InputError

SEPARATORS = {".csv": ",", ".tsv": "\t"}
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None"]
"""What counts as missing in a CSV, but for text columns, where "null" is a word like any other."""


def read_frame(path: Path, *, text_columns: Collection[str]) -> tuple[pd.DataFrame, str]:
    """The rows at ``path`` with a fresh index, and the SHA-256 (hex) of the bytes they were read from.

    ``text_columns`` stay text whatever they look like: a query "0042" is not the number 42.
    """
    parts = _parts(path)
    digest = hashlib.sha256()
    for part in parts:
        if part.stat().st_size == 0:
            raise InputError(f"{part}: the file is empty; expected rows")
        try:
            with part.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{part}: cannot be read: {error.strerror}") from None
    if parts[0].suffix.lower() in SEPARATORS:
        frame = _read_separated(parts[0], frozenset(text_columns))
    else:
        frame = _read_parquet(parts)
    if not len(frame):
        raise InputError(f"{path}: there are no rows; expected at least 3")
    return frame, digest.hexdigest()


def _parts(path: Path) -> list[Path]:
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


def _read_separated(path: Path, text_columns: frozenset[str]) -> pd.DataFrame:
    separator = SEPARATORS[path.suffix.lower()]
    try:
        header = [str(name) for name in pd.read_csv(path, sep=separator, nrows=0, encoding="utf-8-sig").columns]
        frame = pd.read_csv(
            path,
            sep=separator,
            encoding="utf-8-sig",
            dtype={name: "str" for name in header if name in text_columns},
            keep_default_na=False,
            na_values={name: MISSING for name in header if name not in text_columns},
            low_memory=False,
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        kind = "TSV" if separator == "\t" else "CSV"
        raise InputError(f"{path}: not a UTF-8 {kind} file: {' '.join(str(error).split())}") from None
    if not isinstance(frame.index, pd.RangeIndex):  # pandas takes surplus fields for an index
        raise InputError(f"{path}: rows have more fields than the header's {len(header)} names")
    return frame


def _read_parquet(parts: list[Path]) -> pd.DataFrame:
    frames: list[pd.DataFrame] = []
    for part in parts:
        try:
            frames.append(pd.read_parquet(part, engine="pyarrow", partitioning=None))
        except (ValueError, OSError, NotImplementedError) as error:  # what pyarrow's own errors derive from
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{part}: not a readable Parquet file: {reason}") from None
        if list(frames[-1].columns) != list(frames[0].columns):
            raise InputError(
                f"{part}: its columns {list(frames[-1].columns)} differ from {parts[0].name}'s "
                f"{list(frames[0].columns)}"
            )
    return pd.concat(frames, ignore_index=True)
