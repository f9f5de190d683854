"""A task: rows of text and label, split once and for all, and tokenised for a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.answers import read_answers
from sparsefront.models.data_file import draw_rows, frame_sha256, read_frame
from sparsefront.models.feature_checks import warnings_of
from sparsefront.models.features import Features
from sparsefront.models.histories import Histories
from sparsefront.models.history_events import EventTable
from sparsefront.models.labels import Labels, read_labels
from sparsefront.models.metrics import missing_kind
from sparsefront.models.rows import CLASSES, SPANS, VECTORS, TokenRows
from sparsefront.models.spans import NO_ANSWER
from sparsefront.models.split_rows import split_rows
from sparsefront.models.splits import TRAIN
from sparsefront.models.task_columns import check_columns, check_texts, read_besides
from sparsefront.models.task_file import SPLITS, ClassName, TaskFile
from sparsefront.models.task_histories import history_key, read_histories, read_tables
from sparsefront.models.tokens import (
    default_cache_dir,
    encode_texts,
    length_report,
    load_arrays,
    save_arrays,
    tokenizer_hash,
)
from sparsefront.spaces import InputError

CACHE_VERSION: Final = 1
BUILTIN_SOURCE: Final = "builtin"
BESIDES: Final = ("numeric", "categorical", "weight", "user")
"""Keys of a task file that name columns beside text and label."""
BUILTIN: Final[dict[str, Any]] = {
    "data": "builtin",
    "name": "ad_log",
    "text": ["query", "ad_title"],
    "label": {"column": "click", "kind": "binary"},
    "split": {"group": "query", "valid": 0.1, "test": 0.1},
    "max_length": 32,
}


class Task:
    """Rows with text, or an item and histories, a label and a split.

    ``frame`` holds every row and column; ``labels`` are what is learnt of them, ``split`` (rows,) int8 indexes
    ``SPLITS``; ``features`` say what the feature columns look like on the training rows; ``histories`` hold the texts
    of items and behaviours, and are ``None`` where rows have a text. Rows are numbered from 1 in messages, the header
    not counted. ``source`` is what :meth:`from_source` makes the same task of, ``None`` for rows from memory.
    """

    def __init__(
        self,
        *,
        spec: TaskFile,
        frame: pd.DataFrame,
        data_sha256: str,
        origin: str,
        name: str,
        source: str | None = None,
        tables: Mapping[str, EventTable] | None = None,
    ) -> None:
        self.spec: Final = spec
        self.frame: Final = frame
        self.name: Final = name
        self.source: Final = source
        self.data_sha256: Final = data_sha256
        self.token_report: dict[str, float] | None = None
        check_columns(frame, spec, origin)
        check_texts(frame, spec, origin)
        self.split: Final = split_rows(frame, spec.split, origin)
        self.labels: Final = _labels(frame, spec, origin, train=self.split == TRAIN)
        self._check_kinds(origin)
        features, encoded = Features.fit_encode(
            frame, numeric=spec.numeric, categorical=spec.categorical, origin=origin, train=self.split == TRAIN
        )
        self.features: Final = features
        self._feature_rows: Final = encoded if len(features) else None
        self._besides: Final = read_besides(frame, spec, self._feature_rows, origin, train=self.split == TRAIN)
        tables = tables or {}
        self.histories: Final = read_histories(frame, spec, tables, origin)
        self._events_sha256: Final = {name: table.sha256 for name, table in tables.items()}

    @classmethod
    def from_file(cls, path: str | Path) -> Task:
        """The task that a YAML file describes; ``InputError`` with one line when the file or its data is wrong."""
        path = Path(path)
        spec = TaskFile.read(path)
        data = spec.data_path(path.parent)
        text_columns = [*spec.text, *spec.item, *spec.categorical, *([spec.split.group] if spec.split.group else [])]
        text_columns += [name for one in spec.histories for name in (one.column, one.user) if name is not None]
        frame, sha256 = read_frame(data, text_columns=text_columns, max_rows=spec.max_rows, seed=spec.split.seed)
        return cls(
            spec=spec,
            frame=frame,
            data_sha256=sha256,
            origin=str(data) if len(frame) != spec.max_rows else f"{data}: of {len(frame)} rows drawn from it",
            name=spec.name or path.stem,
            source=str(path.resolve()),
            tables=read_tables(spec, path.parent),
        )

    @classmethod
    def from_frame(
        cls,
        frame: pd.DataFrame,
        content: Mapping[str, Any],
        *,
        source: str | None = None,
        events: Mapping[str, pd.DataFrame] | None = None,
    ) -> Task:
        """A task from rows in memory; ``content`` is what a task file would hold, ``data`` aside.

        ``events``: tables of histories that are in memory too, by the name that ``content`` calls them.
        """
        spec = TaskFile.parse({"data": "memory", **content}, "task")
        if spec.max_rows is not None and len(frame) > spec.max_rows:
            frame = draw_rows([frame], spec.max_rows, spec.split.seed)
        frame = frame.reset_index(drop=True)
        origin = spec.name or spec.data
        return cls(
            spec=spec,
            frame=frame,
            data_sha256=frame_sha256(frame, origin),
            origin=origin,
            name=origin,
            source=source,
            tables=read_tables(spec, Path(), events),
        )

    @classmethod
    def builtin(cls, *, rows: int = 5_000, seed: int = 0) -> Task:
        """The seeded ad log of ``models.ad_log``: needs no file, and the best reachable quality is known."""
        from sparsefront.models.ad_log import generate_ad_log

        content = {**BUILTIN, "split": {**BUILTIN["split"], "seed": seed}}
        return cls.from_frame(generate_ad_log(rows=rows, seed=seed), content, source=f"{BUILTIN_SOURCE}:{rows}:{seed}")

    @classmethod
    def from_source(cls, source: str) -> Task:
        """The task whose ``source`` this is: a task file or the built-in log. A task from memory has none."""
        kind, _, numbers = source.partition(":")
        if kind == BUILTIN_SOURCE:
            rows, seed = (int(number) for number in numbers.split(":"))
            return cls.builtin(rows=rows, seed=seed)
        return cls.from_file(source)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def target(self) -> NDArray[np.float32]:
        """(rows,) what a model is trained on: in [0, 1], or the index of the class; of spans 0 before tokenising."""
        return self.labels.target

    @property
    def positive(self) -> NDArray[np.bool_]:
        """(rows,) which rows count as positive; none where the label has no positive side."""
        return self.labels.positive

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """Names of the classes by index; none where the label is a number."""
        return self.labels.classes

    def indices(self, split: str) -> NDArray[np.int64]:
        """Places in ``frame`` of the rows of ``split``, rising: the order of ``tokenise()[split]``."""
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        return np.flatnonzero(self.split == SPLITS.index(split))

    @property
    def warnings(self) -> tuple[str, ...]:
        """A line per history, and per feature column as the training rows show it, that is probably not what it should
        be."""
        found = () if self.histories is None else tuple(self.histories.warnings())
        if self._feature_rows is None:
            return found
        train = self.indices("train")
        rows, frame = self._feature_rows.take(train), self.frame.iloc[train]
        return (*found, *warnings_of(self.features, rows, frame, self.positive[train]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the data and of every setting that decides what is trained on and how it is scored."""
        later = {key: value for key in BESIDES if (value := getattr(self.spec, key))}
        later |= {} if self.spec.protect == "none" else {"protect": self.spec.protect}
        later |= {} if self.histories is None else history_key(self.spec, self._events_sha256)
        return _sha256({**self._row_key(), **later, "max_length": self.spec.max_length, "metric": self.spec.metric})

    def report(self) -> dict[str, Any]:
        """What the task holds, ready for JSON: rows and labels by split, and token lengths once tokenised."""
        splits: dict[str, dict[str, Any]] = {}
        for name in SPLITS:
            index = self.indices(name)
            splits[name] = {"rows": len(index), "row_share": len(index) / len(self), **self._label_report(index)}
            if self.spec.split.group:
                splits[name]["groups"] = int(self.frame[self.spec.split.group].iloc[index].nunique())
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "rows": len(self),
            **({"classes": list(self.classes)} if self.classes else {}),
            **self._label_report(np.arange(len(self))),
            "metric": self.spec.metric,
            "max_length": self.spec.max_length,
            "splits": splits,
            **({"features": self.features.report()} if len(self.features) else {}),
            **({} if self.histories is None else {"histories": self.histories.report()}),
            **({"tokens": self.token_report} if self.token_report else {}),
        }

    def _label_report(self, index: NDArray[np.int64]) -> dict[str, Any]:
        """Of some rows: how many are of each class, or their mean target and, where there are any, positive ones."""
        target = self.target[index]
        if self.labels.answers is not None:
            begin, end = self.labels.answers[index].T
            return {"answer_characters_mean": float((end - begin).mean())}
        if self.classes:
            return {"class_counts": np.bincount(target.astype(np.int64), minlength=len(self.classes)).tolist()}
        rate = {} if self.spec.label.threshold is None else {"positive_rate": float(self.positive[index].mean())}
        return {**rate, "target_mean": float(target.mean())}

    def tokenise(self, tokenizer: Any, cache_dir: str | Path | None = None) -> dict[str, TokenRows]:
        """The rows of each split as tokens, from the cache when it holds them.

        ``tokenizer``: a Hugging Face fast tokenizer or a ``tokenizers.Tokenizer``; ``cache_dir``: default
        ``$SPARSEFRONT_CACHE`` or ``~/.cache/sparsefront``. A damaged cache file is written anew. Fills in
        ``token_report``.
        """
        if self.histories is not None:
            raise ValueError(f"task {self.name!r} has histories: encode histories.texts and call history_rows")
        key = _sha256(
            {
                **self._row_key(),
                "version": CACHE_VERSION,
                "max_length": self.spec.max_length,
                "tokenizer": tokenizer_hash(tokenizer),
            }
        )
        path = Path(cache_dir if cache_dir is not None else default_cache_dir()) / "tokens" / f"{key}.safetensors"
        arrays = load_arrays(path)
        rows = self._rows(arrays) if arrays is not None else None
        if arrays is None or rows is None:
            columns = [self.frame[name].tolist() for name in self.spec.text]
            arrays = encode_texts(tokenizer, columns, self.spec.max_length, answers=self.labels.answers)
            try:
                save_arrays(path, arrays)
            except OSError as error:
                raise InputError(
                    f"{path.parent}: cannot write the token cache: {error.strerror}; "
                    "expected a writable folder, $SPARSEFRONT_CACHE names another"
                ) from None
            rows = self._rows(arrays)
            if rows is None:
                raise ValueError("the tokenizer's rows do not match the task's")
        self.token_report = length_report(arrays["raw_lengths"], self.spec.max_length)
        if rows.spans:
            self.token_report["answers_cut_share"] = float((rows.target == NO_ANSWER).mean())
        return {name: rows.subset(self.indices(name)) for name in SPLITS}

    def history_rows(self, vectors: NDArray[np.float16]) -> dict[str, TokenRows]:
        """The rows of each split, made of the texts that :attr:`histories` number.

        ``vectors``: (distinct texts, width) finite, one of each of ``histories.texts``.
        """
        histories = self._asked_histories()
        if len(vectors) != len(histories.texts):
            raise ValueError(f"{len(histories.texts)} texts need as many vectors, got {len(vectors)}")
        labels, rows = self._label_arrays(), {}
        for name in SPLITS:
            index = self.indices(name)
            own = {key: array if key == CLASSES else array[index] for key, array in labels.items()}
            rows[name] = TokenRows.from_arrays({**histories.arrays_of(index), **own, VECTORS: vectors})
        return rows

    @property
    def length_tokens(self) -> int:
        """Of the longest row that is served: of words, or of behaviours and [CLS]."""
        return self.spec.max_length if self.histories is None else self.spec.max_behaviours + 1

    def lengths(self, tokenizer: Any) -> NDArray[np.int64]:
        """(rows,) tokens of each row, in the frame's order: of words, or of its longest history."""
        if self.histories is not None:
            return self.history_lengths
        found = np.empty(len(self), np.int64)
        for name, rows in self.tokenise(tokenizer).items():
            found[self.indices(name)] = rows.lengths
        return found

    @property
    def history_lengths(self) -> NDArray[np.int64]:
        """(rows,) behaviours of the longest history of each row and one, its [CLS]: what a latency depends on."""
        return self._asked_histories().lengths

    def _asked_histories(self) -> Histories:
        if self.histories is None:
            raise ValueError(f"task {self.name!r} has no histories: call tokenise")
        return self.histories

    def _label_arrays(self) -> dict[str, NDArray[Any]]:
        """Labels and what rows have beside them, under the names of :meth:`TokenRows.to_arrays`."""
        labels: dict[str, NDArray[Any]] = {"positive": self.positive, **self._besides}
        if self.labels.answers is None:
            labels["target"] = self.target
        else:
            labels[SPANS] = np.zeros(0, np.int64)
        if self.classes:
            labels[CLASSES] = np.array([len(self.classes)], np.int64)
        return labels

    def _rows(self, arrays: dict[str, NDArray[Any]]) -> TokenRows | None:
        """All rows in the frame's order, or None when the arrays are not those of this many rows."""
        tokens = {name: array for name, array in arrays.items() if name != "raw_lengths"}
        if "raw_lengths" not in arrays or arrays["raw_lengths"].shape != (len(self),):
            return None
        try:
            return TokenRows.from_arrays({**tokens, **self._label_arrays()})
        except ValueError:
            return None

    def _row_key(self) -> dict[str, Any]:
        spec = self.spec
        return {
            "data": self.data_sha256,
            "text": spec.text,
            "label": _as_first_written(spec.label.model_dump(), "classes", "start"),
            "split": _as_first_written(spec.split.model_dump(), "column"),
            **({} if spec.max_rows is None else {"max_rows": spec.max_rows}),
        }

    def _check_kinds(self, origin: str) -> None:
        """Refuse a split that lacks a kind of rows which the metric tells apart."""
        for name in SPLITS:
            rows = self.indices(name)
            missing = missing_kind(
                self.spec.metric,
                self.positive[rows],
                self.target[rows],
                with_classes=bool(self.classes),
                classes=self.classes,
            )
            if missing is not None:
                raise InputError(f"{origin}: split {name!r}: metric {self.spec.metric!r} needs {missing}")


def _as_first_written(section: dict[str, Any], *later: str) -> dict[str, Any]:
    """A section without the keys that came later and are not used: a task file's fingerprint outlives new keys."""
    return {key: value for key, value in section.items() if value is not None or key not in later}


def _sha256(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _labels(frame: pd.DataFrame, spec: TaskFile, origin: str, *, train: NDArray[np.bool_]) -> Labels:
    label, values = spec.label, frame[spec.label.column]
    if label.kind != "span":
        return read_labels(values, label, origin, train=train)
    starts = None if label.start is None else frame[label.start]
    return read_answers(values, starts, frame[spec.text[1]].tolist(), label, origin)
