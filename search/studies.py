"""Opening a study: where every finished evaluation is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.study import StudyDirection

from sparsefront.search.front import require_directions
from sparsefront.spaces import InputError

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)
_TIMEOUT_SECONDS = 60


def open_study(storage: str | Path | BaseStorage, *, name: str, sampler: BaseSampler | None = None) -> optuna.Study:
    """Create a two-objective study (quality up, latency_us down), or open the one of that name.

    Args:
        storage: a file for SQLite, any Optuna URL (``postgresql://...``), or a storage.
        name: the study's name in the storage.
        sampler: Optuna's default when None.

    Raises:
        InputError: the study is there with other directions, or the file is no study.
    """
    if not isinstance(storage, BaseStorage):
        storage = _storage(storage)
    study = optuna.create_study(
        storage=storage, study_name=name, sampler=sampler, directions=list(DIRECTIONS), load_if_exists=True
    )
    try:
        require_directions(study)
    except ValueError as error:
        raise InputError(f"study {name!r}: {error}") from error
    return study


def _storage(place: str | Path) -> RDBStorage:
    text = str(place)
    url = text if "://" in text else f"sqlite:///{Path(text).expanduser().absolute()}"
    is_sqlite = url.startswith("sqlite:")
    # a reader (dashboard) may hold the file for a moment: wait for it instead of failing
    options: dict[str, Any] = {"connect_args": {"timeout": _TIMEOUT_SECONDS}} if is_sqlite else {}
    try:
        storage = RDBStorage(url, engine_kwargs=options, skip_table_creation=False)
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot open a study in {text!r}: {reason}") from error
    if is_sqlite:
        sqlalchemy.event.listen(storage.engine, "connect", _keep_log)
        storage.engine.dispose()  # connections from before the listener
    return storage


def _keep_log(connection: Any, _record: Any) -> None:
    """A write-ahead log: readers never block the driver, and one commit costs no disk flush.

    A killed process loses nothing; a power cut may lose the latest evaluations but never the file.
    """
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()
