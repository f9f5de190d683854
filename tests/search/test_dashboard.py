from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.search.landscape import Landscape

from sparsefront.search.baselines import RandomSampler
from sparsefront.search.loop import search_loop
from sparsefront.search.pool import SerialPool
from sparsefront.search.studies import open_study

pytest.importorskip("optuna_dashboard")


def asked(url: str, enough: Callable[[Any], bool]) -> Any:
    """What the dashboard answers, as soon as it is enough."""
    deadline, found = time.monotonic() + 60, None
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                found = json.load(answer)
        except OSError:
            found = None
        if found is not None and enough(found):
            return found
        time.sleep(0.2)
    raise AssertionError(f"{url}: {found}")


def test_the_dashboard_shows_a_running_search(tmp_path: Path) -> None:
    path, landscape = tmp_path / "study.db", Landscape()
    sampler = RandomSampler(
        space=landscape.space, predict_many=landscape.predict_many, budget_us=landscape.budget_us, seed=0
    )
    study = open_study(path, name="search", sampler=sampler)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "import sys; from optuna_dashboard._cli import main; sys.argv[0] = 'optuna-dashboard'; sys.exit(main())"
    dashboard = subprocess.Popen([sys.executable, "-c", command, str(path), "--host", "127.0.0.1", "--port", str(port)])
    try:
        url, shown = f"http://127.0.0.1:{port}/api/studies", []

        def fitness(genome: Any) -> dict[str, float]:
            if len(study.get_trials(deepcopy=False)) in (3, 6):  # the search runs, and waits for this evaluation
                found = asked(url, lambda answer: bool(answer["study_summaries"]))
                number = found["study_summaries"][0]["study_id"]
                finished = len(study.get_trials(deepcopy=False)) - 1
                told = asked(f"{url}/{number}?after=0", lambda answer: len(answer["trials"]) >= finished)
                shown.append([trial["state"] for trial in told["trials"]].count("Complete"))
            return landscape.fitness(genome)

        search_loop(
            study, landscape.space, SerialPool(fitness), predict_many=landscape.predict_many,
            budget_us=landscape.budget_us, evaluations=8,
        )  # fmt: skip
    finally:
        dashboard.kill()
        dashboard.wait()
    assert shown == [2, 5]
