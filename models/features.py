"""Features: what the columns beside the text look like on the training rows, and other rows in those terms.

Fitted once and stored with a model, which then needs raw values and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sparsefront.models.feature_columns import Hashes, read_hashes, read_numbers
from sparsefront.spaces import InputError

MISSING: Final = 0
UNSEEN: Final = 1
FIRST_BUCKET: Final = 2
"""Ids of a categorical value: none, one that training rows do not have (often enough), and the others."""
BINS: Final = 16
BUCKETS: Final = 50_000
MIN_COUNT: Final = 2
LEAST_PIECE: Final = 1e-37
"""Length of a piece from which on one over it is a float32."""
_COLUMNS: Final = "columns"


@dataclass(frozen=True, eq=False)
class FeatureRows:
    """Feature values of rows: ``numeric`` (rows, numeric columns) float32, NaN where a value is missing;
    ``categorical`` (rows, categorical columns) int32 ids."""

    numeric: NDArray[np.float32]
    categorical: NDArray[np.int32]

    def __post_init__(self) -> None:
        for name, dtype in (("numeric", np.float32), ("categorical", np.int32)):
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 2:
                raise ValueError(f"{name} must be (rows, columns) {dtype.__name__}, got {array.dtype} {array.shape}")
        if len(self.numeric) != len(self.categorical):
            raise ValueError(f"{len(self.numeric)} rows of numbers need as many ids, got {len(self.categorical)}")

    def __len__(self) -> int:
        return len(self.numeric)

    def take(self, rows: NDArray[np.int64]) -> FeatureRows:
        """The rows at these places."""
        return FeatureRows(self.numeric[rows], self.categorical[rows])


@dataclass(frozen=True, eq=False)
class NumericColumn:
    """A numeric column.

    Attributes:
        name: of the column.
        edges: (edges,) float32, rising: quantiles of the training rows, between which a value is encoded piecewise
            linearly (Gorishniy et al. 2022, arXiv 2203.05556). At least two.
    """

    name: str
    edges: NDArray[np.float32]

    @classmethod
    def fit(cls, name: str, numbers: NDArray[np.float64], bins: int) -> NumericColumn:
        """From (rows,) training values, NaN where one is missing."""
        known = numbers[~np.isnan(numbers)]
        quantiles = np.quantile(known, np.linspace(0, 1, bins + 1)) if len(known) else np.zeros(1)
        edges = _apart(np.unique(quantiles.astype(np.float32)))
        return cls(name, edges if len(edges) > 1 else _beside(edges[0]))


def _apart(edges: NDArray[np.float32]) -> NDArray[np.float32]:
    """Those that rise by enough."""
    kept = [edges[0]]
    for edge in edges[1:]:
        if edge - kept[-1] >= LEAST_PIECE:
            kept.append(edge)
    return np.array(kept, np.float32)


def _beside(edge: np.float32) -> NDArray[np.float32]:
    """Two edges about the only value of a column: one apart, or as far as numbers of that size must be."""
    low = min(edge, np.nextafter(np.finfo(np.float32).max, np.float32(0)))
    return np.array([low, max(low + np.float32(1), np.nextafter(low, np.float32(np.inf)))], np.float32)


@dataclass(frozen=True, eq=False)
class CategoricalColumn:
    """A categorical column.

    Attributes:
        name: of the column.
        known: (known,) hashes, rising, of the values that enough training rows have.
        buckets: ids that those share: one each, if there are no more of them than was allowed.
    """

    name: str
    known: Hashes
    buckets: int

    @classmethod
    def fit(
        cls, name: str, hashes: Hashes, at: NDArray[np.int64], *, buckets: int, min_count: int
    ) -> CategoricalColumn:
        """From what :func:`read_hashes` says of the training rows."""
        counts = np.bincount(at[at >= 0], minlength=len(hashes))
        known = np.sort(hashes[counts >= min_count])
        return cls(name, known, max(1, min(buckets, len(known))))

    @property
    def ids(self) -> int:
        """How many different ids there are."""
        return FIRST_BUCKET + self.buckets

    @property
    def collision_share(self) -> float:
        """Share of the known values that share their id with another one."""
        if len(self.known) <= self.buckets:
            return 0.0
        per_bucket = np.bincount((self.known % np.uint64(self.buckets)).astype(np.int64), minlength=self.buckets)
        return float(1 - (per_bucket == 1).sum() / len(self.known))

    def encode(self, hashes: Hashes, at: NDArray[np.int64]) -> NDArray[np.int32]:
        """(rows,) ids of what :func:`read_hashes` says of any rows."""
        place = np.searchsorted(self.known, hashes)
        seen = np.append(self.known, np.uint64(0))[place] == hashes
        seen &= place < len(self.known)
        bucket = place if len(self.known) <= self.buckets else hashes % np.uint64(self.buckets)
        ids = np.where(seen, FIRST_BUCKET + bucket.astype(np.int64), UNSEEN)
        return np.append(ids, MISSING)[at].astype(np.int32)


@dataclass(frozen=True, eq=False)
class Features:
    """All feature columns of a task, in the order of its file."""

    numeric: tuple[NumericColumn, ...] = ()
    categorical: tuple[CategoricalColumn, ...] = ()

    @classmethod
    def fit_encode(
        cls,
        frame: pd.DataFrame,
        *,
        numeric: Sequence[str] = (),
        categorical: Sequence[str] = (),
        origin: str,
        train: NDArray[np.bool_] | None = None,
        bins: int = BINS,
        buckets: int = BUCKETS,
        min_count: int = MIN_COUNT,
    ) -> tuple[Features, FeatureRows]:
        """Features of training rows alone, and all rows in their terms: every cell is read once.

        Args:
            frame: rows.
            numeric: columns of numbers.
            categorical: columns of values that are only equal or not.
            origin: the file that an error names.
            train: (rows,) which are training rows; all by default.
            bins: pieces of a number's encoding, fewer where quantiles coincide.
            buckets: most ids of a column, beside those of missing and of unseen values.
            min_count: rows that a value must have to get an id; others teach the model what an unseen value means.
        """
        cells = _Cells.read(frame, numeric, categorical, origin)
        chosen = np.ones(len(frame), np.bool_) if train is None else train
        found = cls(
            tuple(NumericColumn.fit(name, values[chosen], bins) for name, values in cells.numbers.items()),
            tuple(
                CategoricalColumn.fit(name, values, at[chosen], buckets=buckets, min_count=min_count)
                for name, (values, at) in cells.hashes.items()
            ),
        )
        return found, found._encoded(cells)

    @classmethod
    def fit(cls, frame: pd.DataFrame, **options: Any) -> Features:
        """Those of :meth:`fit_encode`."""
        return cls.fit_encode(frame, **options)[0]

    def __len__(self) -> int:
        return len(self.numeric) + len(self.categorical)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all columns, the numeric ones first."""
        return (*(one.name for one in self.numeric), *(one.name for one in self.categorical))

    def encode(self, frame: pd.DataFrame, origin: str) -> FeatureRows:
        """Rows of a table in the terms of the training rows. Columns that are no features are not looked at.

        Raises:
            InputError: a column that is missing, or a cell that is no number or no category.
        """
        numeric, categorical = ([one.name for one in columns] for columns in (self.numeric, self.categorical))
        return self._encoded(_Cells.read(frame, numeric, categorical, origin))

    def _encoded(self, cells: _Cells) -> FeatureRows:
        numbers = [cells.numbers[one.name] for one in self.numeric]
        ids = [one.encode(*cells.hashes[one.name]) for one in self.categorical]
        return FeatureRows(
            np.stack(numbers, axis=1).astype(np.float32) if numbers else np.zeros((cells.rows, 0), np.float32),
            np.stack(ids, axis=1) if ids else np.zeros((cells.rows, 0), np.int32),
        )

    def report(self) -> dict[str, dict[str, Any]]:
        """Per column what a model gets to know of it; ready for JSON."""
        numeric = {one.name: {"kind": "numeric", "bins": len(one.edges) - 1} for one in self.numeric}
        return numeric | {
            one.name: {
                "kind": "categorical",
                "known_values": len(one.known),
                "ids": one.ids,
                "collision_share": one.collision_share,
            }
            for one in self.categorical
        }

    def save(self, path: Path) -> None:
        """Write as safetensors."""
        arrays: dict[str, NDArray[Any]] = {f"numeric.{i}": one.edges for i, one in enumerate(self.numeric)}
        arrays |= {f"categorical.{i}": one.known for i, one in enumerate(self.categorical)}
        columns = {
            "numeric": [one.name for one in self.numeric],
            "categorical": [[one.name, one.buckets] for one in self.categorical],
        }
        save_file(arrays, path, metadata={_COLUMNS: json.dumps(columns)})

    @classmethod
    def load(cls, path: Path) -> Features:
        """Inverse of :meth:`save`; ``InputError`` for a file that is missing, damaged or something else."""
        try:
            with safe_open(path, framework="numpy") as file:
                columns = json.loads((file.metadata() or {})[_COLUMNS])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls._from(columns, arrays)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected the feature statistics of a model") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            line = " ".join(str(error).split())
            raise InputError(f"{path}: damaged, or not the feature statistics of a model: {line}") from error

    @classmethod
    def _from(cls, columns: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Features:
        numeric = [NumericColumn(str(name), arrays[f"numeric.{i}"]) for i, name in enumerate(columns["numeric"])]
        categorical = [
            CategoricalColumn(str(name), arrays[f"categorical.{i}"], int(buckets))
            for i, (name, buckets) in enumerate(columns["categorical"])
        ]
        if len(arrays) != len(numeric) + len(categorical):
            raise ValueError(f"{len(arrays)} arrays are not those of {len(numeric) + len(categorical)} columns")
        for one in numeric:
            if one.edges.dtype != np.float32 or one.edges.ndim != 1 or not (np.diff(one.edges) > 0).all():
                raise ValueError(f"edges of {one.name!r} must rise")
            if len(one.edges) < 2 or not np.isfinite(one.edges).all():
                raise ValueError(f"edges of {one.name!r} must be at least two finite numbers")
        for other in categorical:
            known = other.known
            if known.dtype != np.uint64 or known.ndim != 1 or not (known[1:] > known[:-1]).all() or other.buckets < 1:
                raise ValueError(f"values of {other.name!r} must be hashes that rise")
        return cls(tuple(numeric), tuple(categorical))


@dataclass(frozen=True, eq=False)
class _Cells:
    """What a table says in its feature columns, by name."""

    rows: int
    numbers: dict[str, NDArray[np.float64]]
    hashes: dict[str, tuple[Hashes, NDArray[np.int64]]]

    @classmethod
    def read(cls, frame: pd.DataFrame, numeric: Sequence[str], categorical: Sequence[str], origin: str) -> _Cells:
        numbers = {name: read_numbers(_column(frame, name, origin), name, origin) for name in numeric}
        hashes = {name: read_hashes(_column(frame, name, origin), name, origin) for name in categorical}
        return cls(len(frame), numbers, hashes)


def _column(frame: pd.DataFrame, name: str, origin: str) -> pd.Series[Any]:
    if name not in frame.columns:
        known = ", ".join(map(str, frame.columns))
        raise InputError(f"{origin}: no column {name!r}, which is a feature; there are {known}")
    column = frame[name]
    if isinstance(column, pd.DataFrame):
        raise InputError(f"{origin}: column {name!r} stands there twice; expected different names")
    return column
