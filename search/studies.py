"""Opening a study: where every finished evaluation is kept."""

from __future__ import annotations

from pathlib import Path

import optuna
import sqlalchemy
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import StudyDirection

from sparsefront.search.front import require_directions
from sparsefront.search.journal import DriverJournal
from sparsefront.spaces import InputError

DIRECTIONS = (StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE)


def open_study(storage: str | Path | BaseStorage, *, name: str, sampler: BaseSampler | None = None) -> optuna.Study:
    """Create a two-objective study (quality up, latency_us down), or open the one of that name.

    Args:
        storage: a file (Optuna's journal, :class:`DriverJournal`), any Optuna URL (``postgresql://...``,
            ``sqlite:///...``), or a storage.
        name: the study's name in the storage.
        sampler: Optuna's default when None.

    Raises:
        InputError: the study is there with other directions, or the file is no study.
    """
    if not isinstance(storage, BaseStorage):
        storage = _storage(storage)
    try:  # Optuna's create_study(load_if_exists=True) writes to a journal even where it only loads
        study = optuna.load_study(storage=storage, study_name=name, sampler=sampler)
    except KeyError:
        study = optuna.create_study(storage=storage, study_name=name, sampler=sampler, directions=list(DIRECTIONS))
    try:
        require_directions(study)
    except ValueError as error:
        raise InputError(f"study {name!r}: {error}") from error
    return study


def _storage(place: str | Path) -> BaseStorage:
    if "://" not in str(place):
        path = Path(place).expanduser().absolute()
        try:
            return JournalStorage(DriverJournal(path))
        except (AssertionError, KeyError, TypeError, ValueError) as error:  # entries that are none of a study's
            if isinstance(error, InputError):
                raise
            raise InputError(f"cannot open a study in '{path}': damaged: {error!r}") from error
    try:
        return RDBStorage(str(place))
    except (sqlalchemy.exc.SQLAlchemyError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"cannot open a study in {str(place)!r}: {reason}") from error
