"""Features as words of the text: what NumBERT shows to a text model that knows nothing of features."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sparsefront.models.task import Task

TOKENS_PER_FEATURE = 6
"""By which rows are cut later."""


def worded(task: Task) -> Task:
    """The task with its features' values as words in front of the first text; rows are split as they were."""
    frame, names, first = task.frame, task.features.names, task.spec.text[0]
    cells = zip(*([_word(name, value) for value in frame[name].tolist()] for name in names), strict=True)
    column = f"{first}, {', '.join(names)}"
    texts = [f"{' '.join(row)} . {text}" for row, text in zip(cells, frame[first], strict=True)]
    content = task.spec.model_dump(exclude={"data", "numeric", "categorical"}, exclude_none=True)
    content["text"] = [column, *task.spec.text[1:]]
    content["max_length"] = min(512, task.spec.max_length + TOKENS_PER_FEATURE * len(names))
    return Task.from_frame(frame.assign(**{column: texts}), content)


def _word(name: str, value: Any) -> str:
    if pd.isna(value):
        return f"{name.rsplit('_', 1)[-1]} unknown"
    shown = f"{value:.2g}" if isinstance(value, float) else str(value)
    return f"{name.rsplit('_', 1)[-1]} {shown}"
