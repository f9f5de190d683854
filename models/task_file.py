"""The task file: YAML that says which rows, columns, label, split and metric make a task."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from sparsefront.models.history_spec import MOST_HISTORIES, HistorySpec
from sparsefront.models.sections import ColumnName, Columns, Section, Texts
from sparsefront.models.selection import Protect
from sparsefront.spaces import InputError

SPLITS = ("train", "valid", "test")
DEFAULT_SHARE = 0.1
Metric = Literal[
    "auc",
    "average_precision",
    "log_loss",
    "pearson",
    "spearman",
    "pearson_spearman",
    "accuracy",
    "f1",
    "macro_f1",
    "matthews",
    "span_f1",
    "exact_match",
]
Share = Annotated[float, Field(gt=0, lt=1, allow_inf_nan=False)]
ClassName = int | str
_RANKED: tuple[Metric, ...] = ("auc", "average_precision")
_CORRELATED: tuple[Metric, ...] = ("pearson_spearman", "pearson", "spearman")


def _class_names(value: Any) -> Any:
    """Names of classes, all of one kind; YAML's booleans and broken numbers are none."""
    if not isinstance(value, list):
        return value  # the type is refused by the field
    for one in value:
        if isinstance(one, bool) or not isinstance(one, (int, str)):
            raise ValueError(
                f"a class is a whole number or text, got {one!r} (in YAML, quote words such as yes and no)"
            )
    if len({type(one) for one in value}) > 1:
        raise ValueError(f"classes must be all whole numbers or all text, got {value}")
    if len(set(value)) < len(value):
        raise ValueError(f"classes must differ, got {value}")
    return value


class LabelSpec(Section):
    """Which column is the label and how it is read.

    ``binary``: 0, 1 or booleans. ``soft``: in [0, 1], positive from ``positive`` (default 0.5). ``graded``: in
    ``range`` [lo, hi], trained on ``(grade - lo) / (hi - lo)``; positive from the grade ``positive``, which only
    metrics that count positives need. ``class``: whole numbers or text, one of ``classes`` (in this order; the sorted
    values of the training rows by default). ``span``: an answer, word for word as it stands in the second text, at the
    character in the column ``start`` (counted from 0; where it stands first by default).
    """

    column: ColumnName
    kind: Literal["binary", "soft", "graded", "class", "span"]
    range: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(min_length=2, max_length=2)] | None = (
        None
    )
    positive: Annotated[float, Field(allow_inf_nan=False)] | None = None
    classes: Annotated[list[ClassName], BeforeValidator(_class_names), Field(min_length=2)] | None = None
    start: ColumnName | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "graded":
            if self.range is None:
                raise ValueError("a graded label needs range: [lowest, highest]")
            if self.range[0] >= self.range[1]:
                raise ValueError(f"range must be [lowest, highest], got {self.range}")
        elif self.range is not None:
            raise ValueError(f"range belongs to graded labels, not to {self.kind} ones")
        if self.kind == "binary" and self.positive is not None:
            raise ValueError("positive belongs to soft and graded labels; a binary label is positive at 1")
        if self.kind in ("class", "span") and self.positive is not None:
            raise ValueError(f"positive belongs to soft and graded labels; no {self.kind} is the positive one")
        if self.kind != "span" and self.start is not None:
            raise ValueError(f"start belongs to spans, not to {self.kind} labels")
        if self.kind != "class" and self.classes is not None:
            raise ValueError(f"classes belong to class labels, not to {self.kind} ones")
        low, high = self.bounds
        if self.threshold is not None and not low < self.threshold <= high:
            raise ValueError(f"positive must be above {low:g} and at most {high:g}, got {self.threshold:g}")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Lowest and highest label, where labels are numbers."""
        return (self.range[0], self.range[1]) if self.range is not None else (0.0, 1.0)

    @property
    def threshold(self) -> float | None:
        """The lowest label that counts as positive; ``None`` where none does."""
        return 0.5 if self.positive is None and self.kind in ("binary", "soft") else self.positive

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Those that such a label can be scored by; the first is the default."""
        if self.kind == "class":
            return ("accuracy", "macro_f1", "matthews")
        if self.kind == "span":
            return ("span_f1", "exact_match")
        if self.kind == "binary":
            return (*_RANKED, "log_loss", "accuracy", "f1", "matthews")
        ranked = () if self.threshold is None else _RANKED
        return (*ranked, *_CORRELATED, "log_loss")


def _share_by_default(data: dict[str, Any]) -> float | None:
    return DEFAULT_SHARE if data.get("column") is None else None


class SplitSpec(Section):
    """How rows are split: by ``column``, whose values are train, valid and test; by ``group`` (no group crosses a
    split); by ``time`` (latest rows are test, those before them valid); or at random when none is given.

    ``valid`` and ``test`` are shares of all rows. With ``column`` there is no ``test``, and ``valid`` is the share of
    the training rows that is held back where the column has no valid ones: whole groups if ``group`` is given too.
    """

    column: ColumnName | None = None
    group: ColumnName | None = None
    time: ColumnName | None = None
    valid: Share | None = Field(default_factory=_share_by_default)
    test: Share | None = Field(default_factory=_share_by_default)
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.group is not None and self.time is not None:
            raise ValueError(f"give group or time, not both; got group {self.group!r} and time {self.time!r}")
        if self.column is not None:
            self._fits_a_column()
        elif self.valid is None or self.test is None:
            raise ValueError(f"valid and test must be shares of the rows, got {self.valid} and {self.test}")
        elif self.valid + self.test >= 1:
            raise ValueError(f"valid + test must be below 1, got {self.valid:g} + {self.test:g}")
        return self

    @property
    def shares(self) -> tuple[float, float]:
        """Of the valid and of the test rows, 0 where no share is asked."""
        return self.valid or 0.0, self.test or 0.0

    def _fits_a_column(self) -> None:
        if self.time is not None:
            raise ValueError(f"give column or time, not both; got column {self.column!r} and time {self.time!r}")
        if self.test is not None:
            raise ValueError(f"column {self.column!r} says which rows are test; got test: {self.test:g} as well")
        if self.group is not None and self.valid is None:
            raise ValueError(
                f"with column {self.column!r}, group {self.group!r} only holds back valid rows; give valid: SHARE, or "
                "no group"
            )


class TaskFile(Section):
    """A validated task file.

    ``data`` is taken relative to the file's folder and, when it is not there, to the current one. A model reads
    ``text``, or an ``item`` (a text, of two columns joined by a blank) beside ``histories`` of texts. ``protect`` says
    which tokens pruning takes last beside [CLS]: ``separators``, or those of the ``first`` of two texts, such as a
    question. ``numeric`` and ``categorical`` name the columns beside the text that a model may know; each must be known
    before what the label tells of. ``weight`` names a column that says how much a row counts in training, and ``user``
    whose row it is. Of more than ``max_rows`` rows so many are drawn at random by the seed of the split, while the data
    is read piece by piece.
    """

    data: Annotated[str, Field(min_length=1)]
    text: Texts = Field(default_factory=list)
    item: Texts = Field(default_factory=list)
    histories: Annotated[list[HistorySpec], Field(max_length=MOST_HISTORIES)] = Field(default_factory=list)
    label: LabelSpec
    numeric: Columns = Field(default_factory=list)
    categorical: Columns = Field(default_factory=list)
    weight: ColumnName | None = None
    user: ColumnName | None = None
    split: SplitSpec = SplitSpec()
    max_rows: Annotated[int, Field(ge=3)] | None = None
    max_length: Annotated[int, Field(ge=4, le=512)] = 48
    protect: Protect = "none"
    metric: Metric = Field(default_factory=lambda data: data["label"].metrics[0])
    name: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_read()
        if self.protect == "first" and len(self.text) == 1:
            raise ValueError(f"protect: 'first' is one of two texts, got the only text {self.text[0]!r}")
        if self.label.kind == "span" and len(self.text) == 1:
            raise ValueError(f"a span stands in the second of two texts, got the only text {self.text[0]!r}")
        for article, key, names in (("a", "text", self.text), ("an", "item", self.item)):
            if len(set(names)) != len(names):
                raise ValueError(f"the two {key} columns must differ, got {names}")
            if self.label.column in names:
                raise ValueError(f"the label column {self.label.column!r} is also {article} {key} column")
        for key in ("numeric", "categorical"):
            self._check_features(key, getattr(self, key))
        if self.metric not in self.label.metrics:
            counts = self.label.kind == "graded" and self.metric in _RANKED
            raise ValueError(
                f"metric: got {self.metric!r}; a {self.label.kind} label{' without positive' if counts else ''} is "
                f"scored by {', '.join(self.label.metrics[:-1])} or {self.label.metrics[-1]}"
            )
        return self

    def _check_read(self) -> None:
        """Text, or item and histories."""
        if self.text and (self.item or self.histories):
            other = "item" if self.item else "histories"
            raise ValueError(f"give text, or item and histories; got text {self.text} and {other}")
        if self.text:
            return
        for key in ("item", "histories"):
            if not getattr(self, key):
                both = not (self.item or self.histories)
                raise ValueError("give text, or item and histories; got none" if both else f"key {key!r} is missing")
        if self.protect != "none":
            raise ValueError(f"protect: {self.protect!r} goes with text, not with histories")
        if self.label.kind == "span":
            raise ValueError("a span stands in the second of two texts; it does not go with histories")
        sources = [one.source for one in self.histories]
        for place, one in enumerate(self.histories):
            if one.source in sources[:place]:
                raise ValueError(f"histories: {one.name!r} is named twice")
            if one.column == self.label.column:
                raise ValueError(f"histories: {one.column!r} is the label; a history must be known before it")

    def _check_features(self, key: str, names: list[str]) -> None:
        if len(set(names)) != len(names):
            raise ValueError(f"{key}: column {max(names, key=names.count)!r} is named twice")
        if self.label.column in names:
            raise ValueError(f"{key}: {self.label.column!r} is the label; a feature must be known before it")
        if names and self.label.kind == "span":
            raise ValueError(f"{key}: features do not go with a span label, got {names}")

    @classmethod
    def read(cls, path: str | Path) -> TaskFile:
        """The task file at ``path``; ``InputError`` with one line when it is missing or wrong."""
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected a YAML task file") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text ({type(error).__name__}); expected a YAML file") from None
        try:
            content = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            place = f"line {mark.line + 1}: " if mark is not None else ""
            problem = getattr(error, "problem", None) or "it cannot be parsed"
            raise InputError(f"{path}: {place}not valid YAML: {problem}") from None
        if not isinstance(content, dict):
            got = "an empty file" if content is None else type(content).__name__
            raise InputError(f"{path}: got {got}; expected a YAML mapping with the keys data, text and label")
        return cls.parse(content, path)

    @classmethod
    def parse(cls, content: dict[Any, Any], path: str | Path) -> TaskFile:
        """A task file from its content; ``path`` is what an error names."""
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise InputError(f"{path}: {_one_line(error)}") from None

    def data_path(self, folder: Path) -> Path:
        """Where the data is: under ``folder`` if it exists there, else relative to the current folder."""
        return found_at(self.data, folder)

    def event_paths(self, folder: Path) -> dict[str, Path]:
        """Where the event tables of histories are, by what the file says; as for the data."""
        return {one.events: found_at(one.events, folder) for one in self.histories if one.events is not None}

    @property
    def max_behaviours(self) -> int:
        """The most behaviours that any history of a row has; 0 without histories."""
        return max((one.max for one in self.histories), default=0)


def found_at(name: str, folder: Path) -> Path:
    """Under ``folder`` if it exists there, else relative to the current folder."""
    beside = folder / name
    return beside if beside.exists() or not Path(name).exists() else Path(name)


_SECTIONS: dict[str, type[Section]] = {"label": LabelSpec, "split": SplitSpec, "histories": HistorySpec}


def nearest(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` when a known name resembles ``name``, else the known names."""
    names = [str(item) for item in known]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; expected one of {', '.join(names)}"


def _one_line(error: ValidationError) -> str:
    """The first fault of a validation as ``key: value: what was expected``."""
    fault = error.errors(include_url=False)[0]
    key = ".".join(str(part + 1 if isinstance(part, int) else part) for part in fault["loc"])  # as rows, from 1
    match fault["type"]:
        case "extra_forbidden":
            known = _SECTIONS[str(fault["loc"][0])].model_fields if len(fault["loc"]) > 1 else TaskFile.model_fields
            return f"unknown key {key!r}{nearest(str(fault['loc'][-1]), known)}"
        case "missing":
            return f"key {key!r} is missing"
        case "model_type":
            return f"{key}: got {fault['input']!r}; expected keys and their values"
        case "value_error":
            return f"{key + ': ' if key else ''}{fault['ctx']['error']}"
        case _:
            return f"{key}: got {fault['input']!r}; {fault['msg'][:1].lower()}{fault['msg'][1:]}"
