"""From an answer column to the characters of the second text that it stands at, and from those to tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sparsefront.models.labels import Labels, shown_value
from sparsefront.models.spans import NO_ANSWER, Ints, span_index
from sparsefront.models.task_file import LabelSpec
from sparsefront.spaces import InputError


def read_answers(
    values: pd.Series[Any], starts: pd.Series[Any] | None, texts: Sequence[str], spec: LabelSpec, origin: str
) -> Labels:
    """The labels of a column of answers; ``starts``: where each begins in its text, or None for where it stands first.

    Targets are made when the task is tokenised.
    """
    places = np.zeros((len(values), 2), np.int64)
    for row, (answer, text) in enumerate(zip(values.tolist(), texts, strict=True)):
        where = f"{origin}: row {row + 1}: label {spec.column!r} is {shown_value(answer)}"
        if not isinstance(answer, str) or not answer.strip():
            raise InputError(f"{where}; expected an answer: words of the second text")
        if starts is None:
            begin = text.find(answer)
            if begin < 0:
                raise InputError(f"{where}; expected words of the second text, where it does not stand")
        else:
            begin = _whole(starts.iloc[row], spec, f"{origin}: row {row + 1}")
            if text[begin : begin + len(answer)] != answer:
                raise InputError(f"{where}; at character {begin} of the second text stands something else")
        begin += len(answer) - len(answer.lstrip())
        places[row] = begin, begin + len(answer.strip())
    none = np.zeros(len(values), np.bool_)
    return Labels(target=np.zeros(len(values), np.float32), positive=none, answers=places)


def _whole(value: Any, spec: LabelSpec, where: str) -> int:
    """A place in a text; whole numbers may come as floats: one missing cell makes them so."""
    number = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not number or not (value >= 0 and value == value // 1):  # fails for NaN too
        raise InputError(f"{where}: start {spec.start!r} is {shown_value(value)}; expected a whole number from 0")
    return int(value)


def token_spans(encodings: Iterable[Any], answers: Ints) -> NDArray[np.float32]:
    """Targets (rows,) of tokenised pairs; :data:`NO_ANSWER` where not all of the answer is among a row's tokens.

    Args:
        encodings: of the ``tokenizers`` library, one per row.
        answers: (rows, 2) characters of the second text, the end not counted in.
    """
    ends = np.zeros((len(answers), 2), np.int64)
    for row, (encoding, (begin, end)) in enumerate(zip(encodings, answers.tolist(), strict=True)):
        tokens = [encoding.char_to_token(place, 1) for place in (begin, end - 1)]
        ends[row] = NO_ANSWER if None in tokens else tokens
    return span_index(ends[:, 0], ends[:, 1])
