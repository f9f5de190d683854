from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sparsefront.search.journal import DriverJournal
from sparsefront.search.studies import open_study
from sparsefront.spaces import InputError


@contextmanager
def room_for(path: Path, more_bytes: int) -> Iterator[None]:
    """Files may grow to the size of this one and so many bytes more, as on a disk that fills up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_study_is_created_and_found_again(tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.db", name="one")
    study.tell(study.ask(), [0.5, 10.0])
    assert len(open_study(tmp_path / "study.db", name="one").trials) == 1
    assert len(open_study(tmp_path / "study.db", name="two").trials) == 0


def test_an_url_is_optunas_own_storage(tmp_path: Path) -> None:
    study = open_study(f"sqlite:///{tmp_path}/study.sqlite", name="one")
    study.tell(study.ask(), [0.5, 10.0])
    assert len(open_study(f"sqlite:///{tmp_path}/study.sqlite", name="one").trials) == 1
    with pytest.raises(InputError, match=r"study.sqlite': it is an SQLite file; give it as sqlite:///"):
        open_study(tmp_path / "study.sqlite", name="one")


def test_optunas_own_reader_sees_what_the_driver_writes_and_does_not_stop_it(tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.db", name="one")
    backend = JournalFileBackend(str(tmp_path / "study.db"))
    (tmp_path / "study.db.lock").symlink_to(tmp_path / "study.db")  # as its writers hold it
    for count in (1, 2):
        trial = study.ask()
        trial.suggest_int("x", 0, 3)
        study.tell(trial, [0.5, 10.0])
        read = optuna.load_study(study_name="one", storage=JournalStorage(backend))
        assert [one.values for one in read.trials] == [[0.5, 10.0]] * count
        assert read.trials == study.trials


def test_two_open_studies_of_a_file_see_each_other(tmp_path: Path) -> None:
    first, second = (open_study(tmp_path / "study.db", name="one") for _ in range(2))
    first.tell(first.ask(), [0.5, 10.0])
    second.tell(second.ask(), [0.6, 11.0])
    assert [trial.number for trial in first.trials] == [0, 1]


def test_an_entry_that_a_kill_cut_off_is_left_out_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    study = open_study(path, name="one")
    study.tell(study.ask(), [0.5, 10.0])
    whole = path.read_bytes()
    cut_off = whole + whole.splitlines()[-1][:20]
    path.write_bytes(cut_off)
    again = open_study(path, name="one")
    assert len(again.trials) == 1
    assert path.read_bytes() == cut_off  # a reader changes nothing
    again.tell(again.ask(), [0.6, 11.0])
    assert path.read_bytes().startswith(whole)
    assert [trial.values for trial in open_study(path, name="one").trials] == [[0.5, 10.0], [0.6, 11.0]]


@pytest.mark.parametrize("more_bytes", [0, 10])
def test_an_entry_that_does_not_fit_the_disk_is_taken_back(tmp_path: Path, more_bytes: int) -> None:
    path = tmp_path / "study.db"
    study = open_study(path, name="one")
    trial = study.ask()
    whole = path.read_bytes()
    with room_for(path, more_bytes), pytest.raises(StorageInternalError, match=r"study.db: File too large"):
        study.tell(trial, [0.5, 10.0])
    assert path.read_bytes() == whole
    study.tell(trial, [0.5, 10.0])
    assert open_study(path, name="one").trials[0].values == [0.5, 10.0]


def test_entries_are_written_all_or_none(tmp_path: Path) -> None:
    journal = DriverJournal(tmp_path / "log")
    journal.append_logs([{"a": 1}, {"b": 2}])
    with room_for(tmp_path / "log", 10), pytest.raises(StorageInternalError):
        journal.append_logs([{"c": 3}, {"d": 4}])
    assert list(journal.read_logs(0)) == [{"a": 1}, {"b": 2}]
    assert list(journal.read_logs(1)) == [{"b": 2}]
    journal.append_logs([{"e": 5}])
    assert list(journal.read_logs(2)) == [{"e": 5}]


def test_refuses_another_objective(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/other.sqlite"
    optuna.create_study(storage=storage, study_name="one", direction="maximize")
    with pytest.raises(InputError, match="study 'one': the study's directions"):
        open_study(storage, name="one")


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("not a journal", "it is not a journal of Optuna's"),
        ('{"op_code": 0, "study_name"\n', "line 1 is damaged"),
        ('{"op_code": 4}\n', "damaged"),
        ("{}\n", "damaged"),
    ],
)
def test_refuses_a_file_that_is_no_study(tmp_path: Path, content: str, line: str) -> None:
    path = tmp_path / "study.db"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"study.db.*{line}"):
        open_study(path, name="one")
    assert path.read_text(encoding="utf-8") == content


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot open a study in '.*missing/study.db': No such file"):
        open_study(tmp_path / "missing" / "study.db", name="one")


def test_the_journal_is_json_lines(tmp_path: Path) -> None:
    open_study(tmp_path / "study.db", name="one")
    (line,) = (tmp_path / "study.db").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["study_name"] == "one"
