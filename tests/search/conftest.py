"""One finished run of a tiny task, made through the command line and shared by the tests of ``search``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tests.search.tiny import write_backbone, write_task

from sparsefront.search.cli import main
from sparsefront.search.ending import CANDIDATES
from sparsefront.search.measured import DENSE, TABLES
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Silent
from sparsefront.search.run import Run
from sparsefront.search.run_result import FINALISTS, RESULT


class Notes(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Outcome]


@dataclass(frozen=True)
class Finished:
    """A finished run: its folder, the command that made it, and what the command printed."""

    folder: Path
    command: list[str]
    report: dict[str, Any]

    @property
    def at(self) -> dict[str, Any]:
        """The entry of its only budget."""
        row: dict[str, Any] = self.report["budgets"][0]
        return row

    @property
    def export(self) -> Path:
        """The export of its winner."""
        return self.folder / "export"

    def copy(self, target: Path) -> Path:
        """A copy of the folder, to be damaged."""
        shutil.copytree(self.folder, target)
        return target


@pytest.fixture(scope="session", autouse=True)
def token_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Token caches of these tests stand in a folder of their own."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEFRONT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this test run have in common."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return folder / "shared"


def once(folder: Path, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to ask for it makes."""
    folder.parent.mkdir(exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{folder.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)  # of a process whose try failed
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session")
def backbone(shared: Path) -> Path:
    """A tiny BERT checkpoint."""
    return once(shared / "backbone", write_backbone)


@pytest.fixture(scope="session")
def task_file(shared: Path) -> Path:
    """A tiny task."""
    return once(shared / "task", write_task) / "task.yaml"


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, shared: Path, backbone: Path, task_file: Path, token_cache: Path
) -> Finished:
    """A finished search; read-only. It is made once, and every process has a copy."""
    out = tmp_path_factory.mktemp("runs") / "tiny"

    def make(folder: Path) -> None:
        command = search_command(task_file, backbone, folder / "run", evaluations=12)
        done, _ = completed(command, folder / "run")
        (folder / "printed").write_text(done.stdout.replace(str(folder / "run"), "{out}"))

    made = once(shared / "finished", make)
    shutil.copytree(made / "run", out)
    report = json.loads((made / "printed").read_text().replace("{out}", str(out)))
    return Finished(out, search_command(task_file, backbone, out, evaluations=12), report)


TRIES = 3


def completed(command: list[str], folder: Path) -> tuple[subprocess.CompletedProcess[str], int]:
    """A search run to its end, again where the machine was too busy; and how many tries that took."""
    tries, loud = 0, True
    while loud and tries < TRIES:
        done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=300, check=False)
        tries, loud = tries + 1, was_loud(done.stderr, folder)
    assert done.returncode == 0, done.stderr
    return done, tries


def was_loud(error: str, folder: Path) -> bool:
    """Whether a run ended because the machine was too busy for its few microseconds; if so, does what the line says."""
    if "profile again when it is quiet" in error:
        return True  # the same command does
    if "this table is NOT exact" in error and "even the smallest genome" in error:
        for name in (TABLES, DENSE):
            shutil.rmtree(folder / name, ignore_errors=True)  # a run of what was prepared elsewhere has no table
        return True
    if (folder / RESULT).is_file() and "uniform_refused" in (folder / RESULT).read_text():
        (folder / RESULT).unlink()
        return True
    if "is the machine busy? remove" not in error:
        return False
    for name in (CANDIDATES, FINALISTS):
        shutil.rmtree(folder / name)
    return True


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs a command in this process."""

    def run(*arguments: object) -> Outcome:
        words = [str(one) for one in arguments]
        folder = (
            Path(words[words.index("--out") + 1]) if words[0] in ("search", "tokens") and "--out" in words else None
        )
        for _ in range(TRIES):
            outcome = tried(*words)
            if folder is None or not was_loud(outcome.err, folder):
                break
        return outcome

    def tried(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["sparsefront", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        assert ended.value.code is None or isinstance(ended.value.code, int)
        return Outcome(ended.value.code or 0, printed.out, printed.err)

    return run


@pytest.fixture(scope="session")
def prepared(finished: Finished) -> Prepared:
    """Table, teacher and supernet of the finished run."""
    run = Run.reopen(finished.folder)
    return run.prepare(run.measure())


def search_command(task: Path, backbone: Path, out: Path, *, evaluations: int) -> list[str]:
    """A small search for a budget that holds on a busy machine too."""
    arguments = f"--budget-share 0.8 --evaluations {evaluations} --workers 1 --finalists 2 --json".split()
    return [
        *(sys.executable, "-m", "sparsefront", "search", str(task), "--backbone", str(backbone), "--out", str(out)),
        *arguments,
    ]
