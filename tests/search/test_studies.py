from __future__ import annotations

import sqlite3
from pathlib import Path

import optuna
import pytest

from sparsefront.search.studies import open_study
from sparsefront.spaces import InputError


def test_a_study_is_created_and_found_again(tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.db", name="one")
    study.tell(study.ask(), [0.5, 10.0])
    for place in (tmp_path / "study.db", f"sqlite:///{tmp_path}/study.db"):
        assert len(open_study(place, name="one").trials) == 1
    assert len(open_study(tmp_path / "study.db", name="two").trials) == 0


def test_a_reader_does_not_stop_the_writer(tmp_path: Path) -> None:
    study = open_study(tmp_path / "study.db", name="one")
    reader = sqlite3.connect(tmp_path / "study.db")
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    study.tell(study.ask(), [0.5, 10.0])
    assert reader.execute("SELECT count(*) FROM trials").fetchone() == (0,)
    reader.rollback()
    assert reader.execute("SELECT count(*) FROM trials").fetchone() == (1,)
    reader.close()


def test_refuses_another_objective_and_a_file_that_is_no_study(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path}/other.db"
    optuna.create_study(storage=storage, study_name="one", direction="maximize")
    with pytest.raises(InputError, match="study 'one': the study's directions"):
        open_study(storage, name="one")
    (tmp_path / "notes.db").write_text("not a database, but long enough to be read as one " * 50)
    with pytest.raises(InputError, match=r"cannot open a study in '.*notes.db'"):
        open_study(tmp_path / "notes.db", name="one")
