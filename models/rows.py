"""Tokenised rows: ragged token arrays with their labels, and the padded batches made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import InitVar, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sparsefront.models.features import FeatureRows
from sparsefront.models.spans import ends_of

DTYPES: Final[dict[str, str]] = {
    "input_ids": "int32",
    "token_type_ids": "int8",
    "offsets": "int64",
    "target": "float32",
    "positive": "bool",
}
CLASSES: Final = "classes"
"""Name of the array, of one number, that rows with classes have besides."""
SPANS: Final = "spans"
"""Name of the empty array that rows with spans have besides."""
FEATURES: Final = ("numeric", "categorical")
"""Names of the arrays that rows with features have besides."""
BESIDES: Final[dict[str, str]] = {"weight": "float32", "user": "int32"}
"""Names of further arrays, of one entry per row, that rows may have."""
VECTORS: Final = "vectors"
"""Name of the array, one for all rows, that rows made of looked-up texts have besides."""
CHECKED_TEXTS: Final = 65_536
"""Of so many texts at a time vectors are checked: there may be more of them than memory holds twice."""
MEGA_CHUNK_BATCHES: Final = 32
"""Shuffled rows are sorted by length inside chunks of about so many batches: little padding, yet random batches."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows padded to the longest of them.

    ``input_ids``, ``token_type_ids`` and ``attention_mask``: (batch, tokens) int64; ``target``: (batch,) float32;
    ``index``: (batch,) int64, where each row stands in the ``TokenRows`` that made the batch; ``features``: those of
    the rows, where they have some; ``vectors``: those of ``TokenRows``, the same array, where ids are numbers of texts.
    """

    input_ids: NDArray[np.int64]
    token_type_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    target: NDArray[np.float32]
    index: NDArray[np.int64]
    features: FeatureRows | None = None
    vectors: NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenRows:
    """Tokenised rows without padding: the tokens of row ``i`` are ``input_ids[offsets[i]:offsets[i + 1]]``.

    ``input_ids``: (total tokens,) int32, ``token_type_ids``: (total tokens,) int8, ``offsets``: (rows + 1,) int64,
    ``target``: (rows,) float32, what a model is trained on: in [0, 1], or the index of the class where there are
    ``classes`` (how many; 0 where the label is a number), or of the span where there are ``spans``
    (:mod:`sparsefront.models.spans`); ``positive``: (rows,) bool, what metrics of positive rows count: none of them
    where there are classes or spans; ``features``: what is known beside the text; ``weight``: (rows,) float32, how much
    each row counts in training, all alike by default; ``user``: (rows,) int32, whose row it is. Plain arrays, so that
    Ray's object store and safetensors hold them without copies or pickle.

    With ``vectors``, (distinct texts, width) float16 and finite, shared by all rows, ``input_ids`` are numbers of
    texts: of a row first the behaviours of its first history, the newest first, with type 0, then those of the second,
    with type 1, and so on; at last its item, whose type is the number of histories. Who made rows of rows that were
    checked says ``vectors_checked``: that the vectors are finite is then not asked again.
    """

    input_ids: NDArray[np.int32]
    token_type_ids: NDArray[np.int8]
    offsets: NDArray[np.int64]
    target: NDArray[np.float32]
    positive: NDArray[np.bool_]
    classes: int = 0
    spans: bool = False
    features: FeatureRows | None = None
    weight: NDArray[np.float32] | None = None
    user: NDArray[np.int32] | None = None
    vectors: NDArray[np.float16] | None = None
    vectors_checked: InitVar[bool] = False

    def __post_init__(self, vectors_checked: bool) -> None:
        for name, dtype in DTYPES.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != 1:
                raise ValueError(f"{name} must be a flat {dtype} array, got {array.dtype} of shape {array.shape}")
        rows = len(self.target)
        if len(self.offsets) != rows + 1 or len(self.positive) != rows:
            raise ValueError(
                f"{rows} targets need {rows + 1} offsets and {rows} positives, got {len(self.offsets)} and "
                f"{len(self.positive)}"
            )
        total = len(self.input_ids)
        if self.offsets[0] != 0 or self.offsets[-1] != total or len(self.token_type_ids) != total:
            raise ValueError(
                f"offsets must run from 0 to {total} tokens, got {self.offsets[0]} to {self.offsets[-1]} and "
                f"{len(self.token_type_ids)} token types"
            )
        if rows and np.diff(self.offsets).min() < 1:
            raise ValueError("every row must have at least one token")
        self._check_besides()
        if self.vectors is not None:
            self._check_vectors(self.vectors, finite=vectors_checked)
        if self.spans:
            self._check_spans()
        elif self.classes:
            self._check_classes()
        elif rows and not (self.target.min() >= 0 and self.target.max() <= 1):  # written so that NaN fails too
            raise ValueError(f"target must be in [0, 1], got {self.target.min()} to {self.target.max()}")

    def _check_besides(self) -> None:
        if self.features is not None and len(self.features) != len(self):
            raise ValueError(f"{len(self)} rows need as many features, got those of {len(self.features)}")
        for name, dtype in BESIDES.items():
            array = getattr(self, name)
            if array is not None and (array.dtype != dtype or array.shape != (len(self),)):
                raise ValueError(f"{name} must be ({len(self)},) {dtype}, got {array.dtype} of shape {array.shape}")
        weight = self.weight
        if weight is not None and len(weight) and not (np.isfinite(weight).all() and weight.min() >= 0):
            raise ValueError(f"weight must be at least 0 and finite, got {weight.min()} to {weight.max()}")

    def _check_vectors(self, vectors: NDArray[np.float16], *, finite: bool) -> None:
        """``finite``: whether they are known to be."""
        if vectors.dtype != np.float16 or vectors.ndim != 2 or not vectors.shape[1]:
            raise ValueError(f"vectors must be (texts, width) float16, got {vectors.dtype} of shape {vectors.shape}")
        if self.spans:
            raise ValueError("rows with spans are made of words, not of vectors")
        ids = self.input_ids
        if len(ids) and not (ids.min() >= 0 and ids.max() < len(vectors)):
            raise ValueError(f"input_ids must be in 0..{len(vectors) - 1}, got {ids.min()}..{ids.max()}")
        for start in range(0, 0 if finite else len(vectors), CHECKED_TEXTS):
            good = np.isfinite(vectors[start : start + CHECKED_TEXTS]).all(axis=1)
            if not good.all():
                raise ValueError(f"vectors must be finite, that of text {start + int(good.argmin())} is not")

    def _check_spans(self) -> None:
        if self.classes or self.positive.any():
            raise ValueError("rows with spans have neither classes nor positive ones")
        if not len(self):
            return
        if not (self.target.min() >= 0 and (self.target == np.floor(self.target)).all()):  # fails for NaN too
            raise ValueError(f"target must be the index of a span, got {self.target.min()}")
        first, last = ends_of(self.target)
        wrong = (first > last) | (last >= self.lengths)
        if wrong.any():
            row = int(wrong.argmax())
            raise ValueError(
                f"the span of row {row} must lie in its {self.lengths[row]} tokens, got {first[row]} to {last[row]}"
            )

    def _check_classes(self) -> None:
        if self.classes < 2:
            raise ValueError(f"classes must be 0 or at least 2, got {self.classes}")
        whole = (self.target >= 0) & (self.target < self.classes) & (self.target == np.floor(self.target))
        if not whole.all():
            wrong = self.target[int(whole.argmin())]
            raise ValueError(f"target must be the index of one of {self.classes} classes, got {wrong}")
        if self.positive.any():
            raise ValueError(f"no row of {self.classes} classes is positive, got {int(self.positive.sum())}")

    def __len__(self) -> int:
        return len(self.target)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, special tokens included: (rows,)."""
        return np.diff(self.offsets)

    @property
    def positive_rate(self) -> float:
        """Share of positive rows; 0 when there are none at all."""
        return float(self.positive.mean()) if len(self) else 0.0

    @property
    def kinds(self) -> list[NDArray[np.int64]]:
        """Places of the rows of each kind, rising: positive and negative ones, or those of each class, the last first.

        A kind may have no rows, as have the positive ones where a label has no positive side. Rows with spans are of
        one kind.
        """
        if self.spans:
            return [np.arange(len(self))]
        kind = self.target if self.classes else self.positive
        return [np.flatnonzero(kind == number) for number in reversed(range(self.classes or 2))]

    @property
    def logits_shape(self) -> tuple[int, ...]:
        """Of the logits of a model of these rows: (rows,), or (rows, classes), or (rows, tokens of the longest, 2)."""
        if self.spans:
            return (len(self), int(self.lengths.max(initial=1)), 2)
        return (len(self), self.classes) if self.classes else (len(self),)

    def subset(self, indices: Any) -> TokenRows:
        """The rows at ``indices`` (integers, repeats allowed), in that order."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(chosen) and not (chosen.min() >= 0 and chosen.max() < len(self)):
            raise ValueError(f"indices must be in 0..{len(self) - 1}, got {chosen.min()}..{chosen.max()}")
        lengths = self.lengths[chosen]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        # Token t of the result is token (t - where its row starts there) of the same row here.
        tokens = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) + np.repeat(self.offsets[chosen], lengths)
        return TokenRows(
            input_ids=self.input_ids[tokens],
            token_type_ids=self.token_type_ids[tokens],
            offsets=offsets,
            target=self.target[chosen],
            positive=self.positive[chosen],
            classes=self.classes,
            spans=self.spans,
            features=None if self.features is None else self.features.take(chosen),
            weight=None if self.weight is None else self.weight[chosen],
            user=None if self.user is None else self.user[chosen],
            vectors=self.vectors,
            vectors_checked=True,
        )

    def stratified(self, n: int, seed: int) -> TokenRows:
        """``n`` random rows, of each kind as many as its share, to the nearest row; all rows when there are no more."""
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        if n >= len(self):
            return self
        rng = np.random.default_rng(seed)
        kinds = [kind for kind in self.kinds if len(kind)]
        wanted = _shared_out(n, np.array([len(kind) for kind in kinds]))
        chosen = [rng.choice(kind, size=size, replace=False) for kind, size in zip(kinds, wanted.tolist(), strict=True)]
        return self.subset(np.sort(np.concatenate(chosen)))

    def batches(
        self,
        *,
        tokens_per_batch: int | None = None,
        batch_size: int | None = None,
        shuffle_seed: int | None = None,
        pad_token_id: int = 0,
        pad_to_multiple_of: int = 1,
        unpadded_from: int | None = None,
    ) -> Iterator[Batch]:
        """Every row once, in batches of rows of similar length, each padded to its own longest row.

        With ``pad_to_multiple_of`` batches are padded up to a multiple, though never beyond the longest row of all, and
        hold rows of one such length as far as possible: few different shapes, for kernels that are compiled per shape.
        With ``unpadded_from`` rows of one length that have so many tokens together get batches of their own, in which
        nothing is padded: fewer would not be worth a batch.

        Give ``batch_size`` (rows) or ``tokens_per_batch`` (rows times the longest row, padding included; a single row
        that is longer is a batch of its own). Without a ``shuffle_seed`` rows come sorted by length; with one their
        order is random but for the sorting inside mega-chunks, and so is the order of batches.
        """
        if (tokens_per_batch is None) == (batch_size is None):
            raise ValueError("give either tokens_per_batch or batch_size")
        limit = tokens_per_batch if batch_size is None else batch_size
        if limit is None or limit < 1:
            raise ValueError(f"tokens_per_batch and batch_size must be at least 1, got {limit}")
        if pad_to_multiple_of < 1:
            raise ValueError(f"pad_to_multiple_of must be at least 1, got {pad_to_multiple_of}")
        lengths = self.lengths
        padded = np.minimum(-(-lengths // pad_to_multiple_of) * pad_to_multiple_of, lengths.max(initial=0))
        return self._batches(padded, limit, batch_size is None, shuffle_seed, pad_token_id, unpadded_from)

    def _batches(
        self,
        lengths: NDArray[np.int64],
        limit: int,
        in_tokens: bool,
        shuffle_seed: int | None,
        pad_token_id: int,
        unpadded_from: int | None,
    ) -> Iterator[Batch]:
        """``lengths``: (rows,) tokens that each row takes up, padding included."""
        if shuffle_seed is None:
            groups = _cut(np.argsort(lengths, kind="stable"), lengths, limit, in_tokens, unpadded_from)
        else:
            rng = np.random.default_rng(shuffle_seed)
            order = rng.permutation(len(self))
            mean_tokens = max(1.0, float(lengths.mean())) if len(self) else 1.0
            chunk = max(1, int(MEGA_CHUNK_BATCHES * (limit / mean_tokens if in_tokens else limit)))
            groups = []
            for start in range(0, len(order), chunk):
                part = order[start : start + chunk]
                groups += _cut(part[np.argsort(lengths[part], kind="stable")], lengths, limit, in_tokens, unpadded_from)
            groups = [groups[i] for i in rng.permutation(len(groups))]
        for group in groups:
            yield self._pad(group, int(lengths[group].max()), pad_token_id)

    def _pad(self, index: NDArray[np.int64], tokens: int, pad_token_id: int) -> Batch:
        position = np.arange(tokens)
        mask = position < self.lengths[index][:, None]
        # Places past a row's end point at its first token and are overwritten by the mask.
        source = self.offsets[index][:, None] + np.where(mask, position, 0)
        if self.vectors is not None:
            pad_token_id = 0  # the number of a text, as all are
        return Batch(
            input_ids=np.where(mask, self.input_ids[source], pad_token_id).astype(np.int64),
            token_type_ids=np.where(mask, self.token_type_ids[source], 0).astype(np.int64),
            attention_mask=mask.astype(np.int64),
            target=self.target[index],
            index=index,
            features=None if self.features is None else self.features.take(index),
            vectors=self.vectors,
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name: for safetensors and for Ray's object store."""
        arrays = {name: getattr(self, name) for name in DTYPES}
        arrays |= {name: array for name in BESIDES if (array := getattr(self, name)) is not None}
        if self.features is not None:
            arrays |= {name: getattr(self.features, name) for name in FEATURES}
        if self.vectors is not None:
            arrays[VECTORS] = self.vectors
        if self.spans:
            return {**arrays, SPANS: np.zeros(0, np.int64)}
        return {**arrays, CLASSES: np.array([self.classes], np.int64)} if self.classes else arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> TokenRows:
        """Rows from what ``to_arrays`` returned; ``ValueError`` when a name, a type or a size is off."""
        besides = {name: arrays[name] for name in BESIDES if name in arrays}
        features = [arrays[name] for name in FEATURES if name in arrays]
        optional = {CLASSES, SPANS, VECTORS, *BESIDES, *(FEATURES if len(features) == len(FEATURES) else ())}
        if set(arrays) - optional != set(DTYPES):
            raise ValueError(f"arrays must be {sorted(DTYPES)}, got {sorted(arrays)}")
        classes = arrays.get(CLASSES, np.zeros(1, np.int64))
        if classes.shape != (1,) or classes.dtype != np.int64:
            raise ValueError(f"{CLASSES} must be one int64, got {classes.dtype} of shape {classes.shape}")
        return cls(
            **{name: arrays[name] for name in DTYPES},
            **besides,
            classes=int(classes[0]),
            spans=SPANS in arrays,
            features=FeatureRows(*features) if features else None,
            vectors=arrays.get(VECTORS),
            vectors_checked=False,
        )


def _shared_out(n: int, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """(kinds,) rows of each kind that make ``n`` together, fewer than there are: each its share to the nearest row.

    Every kind gets one where that is possible: a metric of ranking needs both kinds, however rare one is.
    """
    ends = np.round(n * (np.cumsum(sizes) / sizes.sum())).astype(np.int64)
    wanted: NDArray[np.int64] = np.diff(ends, prepend=0)
    if n >= len(sizes):
        for kind in np.flatnonzero(wanted == 0):
            wanted[wanted.argmax()] -= 1
            wanted[kind] = 1
    return wanted


def _cut(
    order: NDArray[np.int64], lengths: NDArray[np.int64], limit: int, in_tokens: bool, unpadded_from: int | None
) -> list[NDArray[np.int64]]:
    """Consecutive groups of ``order``, whose lengths rise, that stay within the limit; first those of one length."""
    if unpadded_from is not None and len(order):
        same = np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1)
        large = [len(part) * int(lengths[part[0]]) >= unpadded_from for part in same]
        rest = [part for part, alone in zip(same, large, strict=True) if not alone]
        parts = [part for part, alone in zip(same, large, strict=True) if alone]
        parts += [np.concatenate(rest)] if rest else []
        return [group for part in parts for group in _cut(part, lengths, limit, in_tokens, None)]
    if not in_tokens:
        return [order[start : start + limit] for start in range(0, len(order), limit)]
    groups: list[NDArray[np.int64]] = []
    start = 0
    for end, length in enumerate(lengths[order].tolist()):
        if end > start and (end - start + 1) * length > limit:  # lengths rise, so this row would be the longest
            groups.append(order[start:end])
            start = end
    return [*groups, order[start:]] if len(order) else groups
