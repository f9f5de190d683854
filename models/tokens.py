"""Tokenising text columns, with a cache of safetensors files that never trusts what it finds."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from sparsefront.models.answers import token_spans
from sparsefront.models.spans import Ints

CHUNK_ROWS: Final = 8192
PERCENTILES: Final = (50, 90, 95, 99)


def plain_backend(tokenizer: Any) -> Tokenizer:
    """A private copy of a tokenizer's backend, without the truncation and padding that earlier calls left on it.

    ``tokenizer``: a Hugging Face fast tokenizer or a ``tokenizers.Tokenizer``.
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not isinstance(backend, Tokenizer):
        raise ValueError(f"the tokenizer must be a fast one, got {type(tokenizer).__name__}")
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_padding()
    copy.no_truncation()
    return copy


def tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 (hex) of everything that decides how text becomes tokens."""
    return hashlib.sha256(plain_backend(tokenizer).to_str().encode()).hexdigest()


class CuttingTokenizer:
    """Rows of one text column or of a pair as tokens, cut where there are too many.

    One serves many calls: to copy a vocabulary takes as long as to tokenise a thousand short texts.

    Args:
        tokenizer: as :func:`plain_backend` takes it.
        max_length: tokens of a row, special ones included; the longer text of a pair loses its last ones first.

    Raises:
        ValueError: no room for a token besides the special ones.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._plain, self._max_length = plain_backend(tokenizer), max_length
        self._check(pair=False)
        self._cutting = plain_backend(self._plain)
        self._cutting.enable_truncation(max_length, strategy="longest_first")

    def encode(self, columns: Sequence[Sequence[str]], *, answers: Ints | None = None) -> dict[str, NDArray[Any]]:
        """Tokens of each row.

        Returns ``input_ids`` (total,) int32, ``token_type_ids`` (total,) int8, ``offsets`` (rows + 1,) int64 and
        ``raw_lengths`` (rows,) int32: tokens before they were cut. With ``answers`` (rows, 2), characters of the second
        text, also ``target`` (rows,) float32, as :func:`sparsefront.models.answers.token_spans` makes them.
        """
        if len(columns) not in (1, 2):
            raise ValueError(f"one text column or a pair is needed, got {len(columns)}")
        self._check(pair=len(columns) == 2)
        rows: list[Any] = list(columns[0]) if len(columns) == 1 else list(zip(*columns, strict=True))
        ids: list[NDArray[np.int32]] = []
        types: list[NDArray[np.int8]] = []
        targets: list[NDArray[np.float32]] = []
        lengths, raw_lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int32)
        for start in range(0, len(rows), CHUNK_ROWS):
            encodings = self._plain.encode_batch(rows[start : start + CHUNK_ROWS])
            raw_lengths[start : start + len(encodings)] = [len(encoding) for encoding in encodings]
            long = [place for place, encoding in enumerate(encodings) if len(encoding) > self._max_length]
            cut = self._cutting.encode_batch([rows[start + place] for place in long])
            for place, encoding in zip(long, cut, strict=True):
                encodings[place] = encoding
            lengths[start : start + len(encodings)] = [len(encoding) for encoding in encodings]
            ids.append(np.fromiter((i for encoding in encodings for i in encoding.ids), np.int32))
            if answers is not None:
                targets.append(token_spans(encodings, answers[start : start + len(encodings)]))
            types.append(np.fromiter((t for encoding in encodings for t in encoding.type_ids), np.int8))
        return {
            "input_ids": np.concatenate(ids) if ids else np.zeros(0, np.int32),
            "token_type_ids": np.concatenate(types) if types else np.zeros(0, np.int8),
            "offsets": np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            "raw_lengths": raw_lengths,
            **({} if answers is None else {"target": np.concatenate(targets)}),
        }

    def _check(self, *, pair: bool) -> None:
        special = self._plain.num_special_tokens_to_add(pair)
        if self._max_length <= special:
            raise ValueError(
                f"max_length must be above the tokenizer's {special} special tokens, got {self._max_length}"
            )


def encode_texts(
    tokenizer: Any, columns: Sequence[Sequence[str]], max_length: int, *, answers: Ints | None = None
) -> dict[str, NDArray[Any]]:
    """:meth:`CuttingTokenizer.encode`, once."""
    return CuttingTokenizer(tokenizer, max_length).encode(columns, answers=answers)


def length_report(raw_lengths: NDArray[np.int32], max_length: int) -> dict[str, float]:
    """Percentiles of tokens a row before truncation, and the share of rows that ``max_length`` truncates."""
    report = {f"p{p}": float(np.percentile(raw_lengths, p)) for p in PERCENTILES}
    return {**report, "max": float(raw_lengths.max()), "truncated_share": float((raw_lengths > max_length).mean())}


def default_cache_dir() -> Path:
    """``$SPARSEFRONT_CACHE``, else ``sparsefront`` in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    if own := os.environ.get("SPARSEFRONT_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsefront"


def load_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Arrays that ``save_arrays`` wrote, or None when the file is absent, damaged or somebody else's."""
    try:
        with safe_open(path, framework="numpy") as stored:
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
            digest = (stored.metadata() or {}).get("sha256")
    except (SafetensorError, OSError, ValueError, TypeError, KeyError):
        return None
    return arrays if digest == _digest(arrays) else None


def save_arrays(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """Write ``arrays`` so that a reader sees the whole file or none; a checksum of the content goes with it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=".part")
    os.close(handle)
    try:
        save_file(arrays, temporary, metadata={"sha256": _digest(arrays)})
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.data)
    return digest.hexdigest()
