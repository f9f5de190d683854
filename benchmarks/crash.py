"""Fifty SIGKILLs at random moments over one search: what has been finished stays, and is there once.

One in five strikes at a random moment of the start, the others at one of the evaluations. A search on a recorded
landscape (study file, Ray actors that take as long as real evaluations) is started again and again by the same command,
and killed: its driver, one of its actors, or the raylet. Every evaluation that the driver was told of is written down
by itself; at the end each must be in the study once, and the front in the result file must be that of the stored
trials.

    python benchmarks/crash.py [--quick] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from common import Target, save_picture, write_result
from landscape import Landscape
from optuna.trial import TrialState

from sparsefront.search.front import front_of
from sparsefront.search.loop import search_loop
from sparsefront.search.pool import RayPool
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.steps import write_json
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome

REPOSITORY = Path(__file__).parent.parent
NAME, BUDGET_SHARE, SECONDS = "ad_log", 1 / 6, 0.4
STARTING_SHARE = 0.2
TOLD, STUDY, RESULT = "told.txt", "study.db", "result.json"
VICTIMS = ("driver", "driver", "driver", "actor", "raylet")


def build(name: str) -> Callable[[Genome], dict[str, float]]:
    """In an actor: a recorded quality, drawn by the genome, after a while."""
    quality = Landscape.load(name).first["quality"].to_numpy()

    def fitness(genome: Genome) -> dict[str, float]:
        time.sleep(SECONDS)
        return {"quality": float(quality[np.random.default_rng(list(genome.key().encode())).integers(len(quality))])}

    return fitness


def drive(work: Path, evaluations: int) -> None:
    """The search that is killed; the same call goes on."""
    landscape = Landscape.load(NAME)
    space, predict_many = landscape.space("joint"), landscape.table.predict_many
    budget_us = BUDGET_SHARE * float(predict_many([space.largest])[0])
    sampler = ReinforcedEvolutionSampler(
        space=space, predict_many=predict_many, budget_us=budget_us, importance=landscape.importance, seed=0
    )
    study = open_study(work / STUDY, name="search", sampler=sampler)
    with RayPool(build, NAME, workers=2) as pool, (work / TOLD).open("a", encoding="utf-8") as told:
        search_loop(
            study, space, pool, predict_many=predict_many, budget_us=budget_us, evaluations=evaluations, ahead=1,
            on_result=lambda one: print(one.genome.key(), time.time(), file=told, flush=True),
        )  # fmt: skip
    write_json(work / RESULT, {"front": [[one.genome.key(), one.quality] for one in front_of(study)]})


def wait_for_a_moment(driver: subprocess.Popen[bytes], told: Path, rng: random.Random) -> None:
    """Until a random moment of the start, or of the evaluations after it."""
    known = told.stat().st_size if told.exists() else 0
    if rng.random() < STARTING_SHARE:
        time.sleep(rng.uniform(0.5, 10.0))
        return
    while driver.poll() is None and (told.stat().st_size if told.exists() else 0) == known:
        time.sleep(0.1)
    time.sleep(rng.uniform(0.0, 6.0))


def kill_one(driver: psutil.Process, rng: random.Random) -> str:
    """SIGKILL the driver or something below it; what there is none of yet, the driver stands in for."""
    kind = rng.choice(VICTIMS)
    below = driver.children(recursive=True)
    found = {
        "driver": [driver],
        "actor": [one for one in below if "_Worker" in command_of(one)],
        "raylet": [one for one in below if command_of(one).split(" ")[0].endswith("raylet")],
    }[kind]
    if not found:
        kind, found = "driver", [driver]
    rng.choice(found).send_signal(signal.SIGKILL)
    return kind


def command_of(process: psutil.Process) -> str:
    """Its command line; nothing of one that has just ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def main() -> None:
    """Kill and restart, then let it end, then look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five kills, 250 evaluations")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-crash")
    arguments = parser.parse_args()
    kills, evaluations = (5, 250) if arguments.quick else (50, 900)
    work = arguments.work / ("quick" if arguments.quick else "full")
    if arguments.drive:
        drive(work, evaluations)
        return
    if work.exists():
        for path in work.iterdir():
            path.unlink()
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *sys.argv, "--drive"]
    rng, killed, starts = random.Random(0), list[tuple[str, float]](), 0
    started = time.time()
    driver = None
    while not (work / RESULT).exists():
        if driver is None or driver.poll() is not None:
            with (work / "log.txt").open("a", encoding="utf-8") as log:
                driver = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            starts += 1
        if len(killed) < kills:
            wait_for_a_moment(driver, work / TOLD, rng)
            if driver.poll() is None:
                with suppress(psutil.Error):  # it ended by itself just now
                    killed.append((kill_one(psutil.Process(driver.pid), rng), time.time() - started))
                time.sleep(0.5)
        else:
            driver.wait()
    kinds = dict(Counter(kind for kind, _ in killed))
    found = {**checked(work, evaluations), "kills": kinds, "starts": starts, "seconds": time.time() - started}
    write_result("crash", [found], targets_of(found, kills), [0], arguments.quick)
    told = [float(line.split()[1]) - started for line in (work / TOLD).read_text(encoding="utf-8").splitlines()]
    save_picture("crash", arguments.quick, lambda _, axes: draw(axes, told, killed))


def draw(axes: Any, told: list[float], killed: list[tuple[str, float]]) -> None:
    """Finished evaluations against time, with the kills."""
    axes.plot(sorted(told), range(1, len(told) + 1), color="black", label="finished evaluations")
    for kind, colour in (("driver", "tab:red"), ("actor", "tab:orange"), ("raylet", "tab:blue")):
        for number, at in enumerate(at for name, at in killed if name == kind):
            axes.axvline(at, color=colour, lw=0.7, label=f"SIGKILL of {kind}" if not number else None)
    axes.set(xlabel="seconds", ylabel="finished evaluations")
    axes.legend(fontsize=8)


def checked(work: Path, evaluations: int) -> dict[str, Any]:
    """What is in the study against what the drivers were told."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = open_study(work / STUDY, name="search")
    states = Counter(trial.state.name.lower() for trial in study.trials)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    stored = Counter(trial.user_attrs["genome"] for trial in complete)
    told = {line.split()[0] for line in (work / TOLD).read_text(encoding="utf-8").splitlines()}
    shown = json.loads((work / RESULT).read_text(encoding="utf-8"))["front"]
    return {
        "wanted": evaluations, "states": dict(states), "told": len(told), "lost": len(told - stored.keys()),
        "twice": sum(count - 1 for count in stored.values()),
        "front_differs": int(shown != [[one.genome.key(), one.quality] for one in front_of(study)]),
    }  # fmt: skip


def targets_of(found: dict[str, Any], kills: int) -> list[Target]:
    """Nothing lost, nothing twice."""
    complete = found["states"].get("complete", 0)
    return [
        Target("SIGKILLs", ">=", float(kills), float(sum(found["kills"].values()))),
        Target("finished evaluations that are not in the study", "<=", 0.0, float(found["lost"])),
        Target("evaluations that are in the study twice", "<=", 0.0, float(found["twice"])),
        Target("complete trials", ">=", float(found["wanted"]), float(complete)),
        Target("complete trials, no more than asked", "<=", float(found["wanted"]), float(complete)),
        Target("trials left running", "<=", 0.0, float(found["states"].get("running", 0))),
        Target("front of the result differs from that of the trials", "<=", 0.0, float(found["front_differs"])),
    ]


if __name__ == "__main__":
    main()
