"""How a search scales: real workers, simulated ones that sleep as long as recorded evaluations took, a lost machine.

Real workers evaluate a supernet that benchmarks/record_landscape.py has prepared: the built-in task's, whose
evaluations are short, and Home Depot's if it is there; a single one is the search's own process. Simulated ones sleep
for the seconds that the landscape's evaluations took, so that only the driver's share is measured; *busy* is the share
of the workers' time in which they computed, *busy while there is work* the same from when each has its first genome to
when the last one is asked for. The lost machine is one of two raylets on this one, killed in mid-search.

    python benchmarks/scaling.py [--quick] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import ray
from common import Target, save_picture, write_result
from landscape import Landscape
from numpy.typing import NDArray
from ray.cluster_utils import Cluster
from record_landscape import ad_log, home_depot
from sleeper import sleeper
from threadpoolctl import threadpool_limits

from sparsefront.search.explore import ahead_of, fitness_pool, sampler_of, space_of
from sparsefront.search.front import Evaluated
from sparsefront.search.loop import LoopReport, search_loop
from sparsefront.search.pool import EvaluationPool, RayPool
from sparsefront.search.prepare import Prepared
from sparsefront.search.sampler import ReinforcedEvolutionSampler
from sparsefront.search.settings import SearchSettings
from sparsefront.search.studies import open_study

REPOSITORY = Path(__file__).parent.parent
NAME, BUDGET_SHARE = "ad_log", 1 / 6
SIMULATED = (8, 16, 32, 64)
EACH = 60
"""Evaluations per simulated worker: at the end of a search workers run out of work, which is to be a small part."""
ROWS = 1500


def real(work: Path, task: str, prepared: Prepared, settings: SearchSettings, quick: bool) -> list[dict[str, Any]]:
    """Evaluations per second of the same search with one and with two workers, in turn."""
    budget_us = BUDGET_SHARE * prepared.measured.dense_us
    space = space_of(prepared.backbone.widths, settings)
    evaluations = 20 if quick else 60
    rows = []
    for repeat in range(1 if quick else 2):
        for workers in (1, 2):
            sampler = sampler_of(settings, space, prepared, [budget_us])
            with fitness_pool(prepared, settings.model_copy(update={"workers": workers, "search_rows": ROWS})) as pool:
                path = work / f"real-{task}-{workers}-{repeat}.db"
                report = searched(path, sampler, space, pool, prepared.measured.predict_many, budget_us, evaluations)
            rows.append({"cell": f"real, {task}", "workers": workers, "repeat": repeat, **figures(report, workers)})
            print(rows[-1], flush=True)
    return rows


def simulated(work: Path, quick: bool) -> list[dict[str, Any]]:
    """Workers that sleep, more than there are CPUs."""
    landscape = Landscape.load(NAME)
    rows = []
    for workers in SIMULATED[:1] if quick else SIMULATED:
        evaluations = (4 if quick else EACH) * workers
        ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            with RayPool(sleeper, recorded(landscape), workers=workers) as pool:
                report = searched_landscape(work / f"simulated-{workers}.db", landscape, pool, evaluations)
        finally:
            ray.shutdown()
        busy = busy_while_there_is_work(work / f"simulated-{workers}.db", workers)
        rows.append({"cell": "simulated", "workers": workers, **figures(report, workers), "busy_with_work": busy})
        print(rows[-1], flush=True)
    return rows


def lost_machine(work: Path, quick: bool) -> dict[str, Any]:
    """Two raylets, one killed when half of the evaluations are finished."""
    landscape = Landscape.load(NAME)
    evaluations = 40 if quick else 200
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    second = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    told: list[str] = []
    killed_at = 0.0

    def tell(one: Evaluated) -> None:
        nonlocal killed_at
        told.append(one.genome.key())
        if len(told) == evaluations // 2:
            killed_at = time.perf_counter()
            cluster.remove_node(second, allow_graceful=False)

    try:
        with RayPool(sleeper, recorded(landscape), workers=4) as pool:
            report = searched_landscape(work / "lost.db", landscape, pool, evaluations, on_result=tell)
            left = pool.size
    finally:
        ray.shutdown()
        cluster.shutdown()
    study = open_study(work / "lost.db", name="search")
    stored = Counter(
        trial.user_attrs["genome"] for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    )
    return {
        "cell": "lost machine", "evaluations": report.complete, "workers_left": left,
        "failed_attempts": report.failed_attempts, "seconds_after_the_kill": time.perf_counter() - killed_at,
        "lost": len(set(told) - stored.keys()), "twice": sum(count - 1 for count in stored.values()),
    }  # fmt: skip


def recorded(landscape: Landscape) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(evaluations,) seconds and quality."""
    return landscape.first["seconds"].to_numpy(), landscape.first["quality"].to_numpy()


def searched_landscape(
    path: Path,
    landscape: Landscape,
    pool: EvaluationPool,
    evaluations: int,
    on_result: Callable[[Evaluated], None] | None = None,
) -> LoopReport:
    """Our sampler on a landscape's table."""
    space, predict_many = landscape.space("joint"), landscape.table.predict_many
    budget_us = BUDGET_SHARE * float(predict_many([space.largest])[0])
    sampler = ReinforcedEvolutionSampler(
        space=space, predict_many=predict_many, budget_us=budget_us, importance=landscape.importance, seed=0
    )
    return searched(path, sampler, space, pool, predict_many, budget_us, evaluations, on_result)


def searched(
    path: Path, sampler: Any, space: Any, pool: EvaluationPool, predict_many: Any, budget_us: float, evaluations: int,
    on_result: Callable[[Evaluated], None] | None = None,
) -> LoopReport:  # fmt: skip
    """A new study on disk."""
    path.unlink(missing_ok=True)
    study = open_study(path, name="search", sampler=sampler)
    with threadpool_limits(limits=1):  # as a search of the command line has it
        return search_loop(
            study, space, pool, predict_many=predict_many, budget_us=budget_us, evaluations=evaluations,
            ahead=ahead_of(pool), on_result=on_result,
        )  # fmt: skip


def figures(report: LoopReport, workers: int) -> dict[str, float]:
    """Of a finished search."""
    return {
        "evaluations_per_second": report.evaluations / report.seconds,
        "seconds_per_evaluation": report.computing_seconds / report.evaluations,
        "busy": report.computing_seconds / (report.seconds * workers),
        "sampler_ms": report.sampler_ms,
        "overhead_ms": report.overhead_ms,
    }


def busy_while_there_is_work(path: Path, workers: int) -> float:
    """Share of the workers' time in which they computed, from the first genome of the last of them to the last ask."""
    trials = open_study(path, name="search").get_trials(states=(optuna.trial.TrialState.COMPLETE,))
    asked = sorted(one.datetime_start.timestamp() for one in trials if one.datetime_start)
    ended = np.array([one.datetime_complete.timestamp() for one in trials if one.datetime_complete])
    begun = ended - np.array([one.user_attrs["seconds"] for one in trials])
    first, last = asked[workers - 1], asked[-1]
    computed = np.clip(np.minimum(ended, last) - np.maximum(begun, first), 0, None).sum()
    return float(computed / (workers * (last - first)))


def targets_of(rows: list[dict[str, Any]]) -> list[Target]:
    """What is claimed of the three parts."""
    many = [row for row in rows if row["cell"] == "simulated"][-1]
    lost = rows[-1]
    overhead = max(row["overhead_ms"] for row in rows if "overhead_ms" in row)
    thinking = max(row["overhead_ms"] + row["sampler_ms"] for row in rows if "overhead_ms" in row)
    return [
        *(
            Target(f"{cell}: two workers against one, evaluations per second", ">=", 1.85, gain_of_two(rows, cell))
            for cell in dict.fromkeys(row["cell"] for row in rows if "repeat" in row)
        ),
        Target(f"{many['workers']} simulated workers, share of their time computing", ">=", 0.95, many["busy"]),
        Target(
            f"{many['workers']} simulated workers, the same while there is work", ">=", 0.95, many["busy_with_work"]
        ),
        Target("driver's time per evaluation beside the sampler's, largest of all, ms", "<=", 3.0, overhead),
        Target("driver's time per evaluation with the sampler's, largest of all, ms", "<=", 3.0, thinking),
        Target("lost machine: evaluations lost or twice", "<=", 0.0, float(lost["lost"] + lost["twice"])),
    ]


def gain_of_two(rows: list[dict[str, Any]], cell: str) -> float:
    """Rate of two workers over that of one, medians of the repeats."""
    one, two = (
        np.median(
            [row["evaluations_per_second"] for row in rows if (row["cell"], row.get("workers")) == (cell, workers)]
        )
        for workers in (1, 2)
    )
    return float(two / one)


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Share of the workers' time in which they computed."""
    for cell in dict.fromkeys(row["cell"] for row in rows if "workers" in row):
        found = [row for row in rows if row["cell"] == cell]
        axes.plot([row["workers"] for row in found], [row["busy"] for row in found], "o", label=f"{cell} workers")
    axes.axhline(0.95, color="grey", lw=0.7)
    axes.set(xscale="log", xlabel="workers", ylabel="share of their time computing", ylim=(0, 1.02))
    axes.legend()


def main() -> None:
    """All three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer evaluations, eight simulated workers")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-scaling")
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    landscapes = REPOSITORY / "runs" / "benchmark-landscapes"
    rows = real(work, "ad_log", *ad_log(landscapes / "ad_log"), quick)
    if arguments.data.exists() and not quick:
        rows += real(work, "home_depot", *home_depot(landscapes / "home_depot", arguments.data, quick), quick)
    rows += [*simulated(work, quick), lost_machine(work, quick)]
    write_result("scaling", rows, targets_of(rows), [0], quick)
    save_picture("scaling", quick, lambda _, axes: draw(axes, rows))


if __name__ == "__main__":
    main()
