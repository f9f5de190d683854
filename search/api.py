"""One call from Python: what ``sparsefront search`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsefront.models.backbone import load_backbone
from sparsefront.models.task import Task
from sparsefront.search.progress import Reporter
from sparsefront.search.run import Run
from sparsefront.search.run_result import RunResult, export_winners
from sparsefront.search.settings import PrepareSettings, SearchSettings


def search(
    task: Task | str | Path | None = None,
    *,
    out: str | Path,
    backbone: str = "minilm",
    preparation: PrepareSettings | None = None,
    prepared: str | Path | None = None,
    store: str | Path | None = None,
    address: str | None = None,
    reporter: Reporter | None = None,
    **settings: Any,
) -> RunResult:
    """Search within one or several latency budgets, fine-tune and measure finalists; an interrupted call continues.

    Args:
        task: a task file, a :class:`Task`, or nothing for the built-in ad log.
        out: run folder.
        backbone: ``minilm``, a Hugging Face BERT folder, or a hub name.
        preparation: how table, teacher and supernet are made.
        prepared: run folder whose table, teacher and supernet are used instead of its own.
        store: of the behaviours of a task that has histories; one beside the prepared steps by default.
        address: of a running Ray cluster; this machine by default.
        reporter: told about progress; silent by default.
        settings: fields of :class:`SearchSettings`, ``budget_us`` or ``budget_share`` (a number or a tuple) among them.

    Raises:
        InputError: one line that says what is wrong with the input.
    """
    if task is None:
        task = Task.builtin()
    elif not isinstance(task, Task):
        task = Task.from_file(task)
    run = Run(
        Path(out),
        task=task,
        backbone=load_backbone(backbone),
        settings=SearchSettings.check(**settings),
        preparation=preparation,
        shared=None if prepared is None else Path(prepared),
        store=None if store is None else Path(store),
        address=address,
        reporter=reporter,
    )
    result = run.execute()
    export_winners(result, run.finish_late)
    return result
