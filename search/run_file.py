"""The file that says what a run is: ``run.json``, written before anything is built."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from sparsefront.models.task import Task
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.spaces import InputError

RUN = "run.json"


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TaskRef(_Section):
    """A task: ``source`` is what it can be read again from, ``None`` for rows that a program has given."""

    name: str
    source: str | None
    fingerprint: str
    metric: str


class BackboneRef(_Section):
    """A backbone: ``source`` is its folder, made absolute, or what else it is loaded by."""

    name: str
    source: str
    fingerprint: str


class RunFile(_Section):
    """What a run is.

    Attributes:
        sparsefront: version that wrote it last.
        task: what is learned.
        backbone: what is pruned.
        search: settings of the search.
        prepare: settings of latency table, teacher and supernet.
        shared: folder that holds those three; ``None`` for the run folder itself, which may therefore be moved.
        store: of the behaviours of a task that has histories; ``None`` for one beside those three.
    """

    sparsefront: str
    task: TaskRef
    backbone: BackboneRef
    search: SearchSettings
    prepare: PrepareSettings
    shared: str | None
    store: str | None = None

    @classmethod
    def read(cls, folder: Path) -> RunFile:
        """That of a run folder; ``InputError`` names what is missing or wrong."""
        path = folder / RUN
        if not folder.is_dir():
            raise InputError(f"{folder}: no such run folder")
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise InputError(f"{folder}: is not a run folder (no {RUN})") from error
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path}: damaged: {key + ': ' if key else ''}{first['msg']}") from error

    def prepared_folder(self, folder: Path) -> Path:
        """Where the latency table, the teacher and the supernet of the run in ``folder`` stand."""
        return folder if self.shared is None else Path(self.shared)


def task_at(source: str | None) -> Task:
    """The task of a :class:`TaskRef`'s source; ``InputError`` when its file or data is gone."""
    if source is None:
        raise InputError("the rows were given by a program and are in no file; do this from Python")
    return Task.from_source(source)
