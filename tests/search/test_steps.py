from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sparsefront.search.steps import RECORD, difference, read_json, run_step, step_seconds, write_json
from sparsefront.spaces import InputError


def test_a_step_is_built_once_and_its_seconds_are_kept(tmp_path: Path) -> None:
    calls: list[Path] = []

    def build(target: Path) -> dict[str, Any]:
        calls.append(target)
        (target / "weights").write_text("heavy")
        time.sleep(0.05)
        return {"loss": 0.5}

    folder = tmp_path / "teacher"
    assert run_step(folder, {"seed": 0, "pair": (1, 2)}, build) == {"loss": 0.5}
    seconds = step_seconds(folder)
    assert run_step(folder, {"seed": 0, "pair": (1, 2)}, build) == {"loss": 0.5}
    assert len(calls) == 1 and (folder / "weights").read_text() == "heavy"
    assert 0.05 <= seconds < 5 and step_seconds(folder) == seconds
    assert [child.name for child in tmp_path.iterdir()] == ["teacher"]


def test_an_interrupted_build_leaves_nothing_that_looks_finished(tmp_path: Path) -> None:
    def interrupted(target: Path) -> dict[str, Any]:
        (target / "half").write_text("a")
        (target / "folder").mkdir()
        raise KeyboardInterrupt

    folder = tmp_path / "teacher"
    with pytest.raises(KeyboardInterrupt):
        run_step(folder, {}, interrupted)
    assert not folder.exists()
    run_step(folder, {}, lambda target: {"files": len(list(target.iterdir()))})
    assert json.loads((folder / RECORD).read_text())["result"] == {"files": 0}


def test_two_that_want_the_same_step_build_it_once(tmp_path: Path) -> None:
    built: list[int] = []

    def build(target: Path) -> dict[str, Any]:
        time.sleep(0.2)
        built.append(1)
        return {"built": len(built)}

    results: list[dict[str, Any]] = []
    threads = [threading.Thread(target=lambda: results.append(run_step(tmp_path / "s", {}, build))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{"built": 1}] * 3
    assert [child.name for child in tmp_path.iterdir()] == ["s"]


def test_other_inputs_are_refused_in_a_short_line(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    options = {f"option{number}": number for number in range(30)}
    run_step(folder, {"task": "a" * 64, "options": {**options, "epochs": 1.0}}, lambda target: {})
    with pytest.raises(InputError, match=r"was made with options\.epochs=1\.0, asked 2\.0; choose") as raised:
        run_step(folder, {"task": "a" * 64, "options": {**options, "epochs": 2.0}}, lambda target: {})
    assert len(str(raised.value)) < len(str(folder)) + 80
    with pytest.raises(InputError, match=r'was made with task="a{14}\.\.\.a{29}", asked "b{14}\.\.\.b{29}";'):
        run_step(folder, {"task": "b" * 64, "options": {**options, "epochs": 1.0}}, lambda target: {})


def test_difference_names_added_and_removed_keys() -> None:
    assert difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert difference({"a": {"b": 1}}, {"a": {}}) == "was made with a.b=1, asked null"
    assert difference({}, {"c": None}) == "was made with c=null, asked null"


@pytest.mark.parametrize("text", ["", '{"inputs": {', "[1]", '{"inputs": {}}', '{"inputs": 1, "result": 2}'])
def test_a_damaged_record_is_named(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / RECORD).write_text(text)
    with pytest.raises(InputError, match=RECORD):
        run_step(folder, {}, lambda target: {})


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": 1}
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
