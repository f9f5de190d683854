"""Samplers against each other on recorded landscapes: what users have already, ours, and ours with parts taken away.

Every method starts from the same seeds, runs in the same loop (what is predicted over the budget is never evaluated,
and nothing twice), and sees evaluations with the measured noise. What counts is the noise-free quality of the genome
that it would choose, which is the best of a few that are scored again on all validation rows, as a run does, and the
hypervolume of the front that it would show. The ablations stop at 250 evaluations, where they are compared.

A finished search is kept in the work folder, and with the report in results/samplers.parquet, so that another machine
goes on where this one has stopped; one that other code or another landscape has made is made again.

    python benchmarks/samplers.py [--quick] [--report] [--work FOLDER] [--processes COUNT] [--seeds COUNT]
        [--landscapes NAME ...] [--methods NAME ...]
"""

from __future__ import annotations

import argparse
import ast
import functools
import hashlib
import itertools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import torch
from common import RESULTS, Target, write_result
from landscape import LANDSCAPES, Landscape
from optuna.samplers import BaseSampler
from rivals import LocalSearch, ParetoEvolution, RegularisedEvolution, optuna_sampler, uniform_space
from threadpoolctl import threadpool_limits

from sparsefront.search.baselines import RandomSampler
from sparsefront.search.candidates import RESCORED
from sparsefront.search.feasible import FeasibleSpace, PredictMany
from sparsefront.search.front import evaluated_of, hypervolume, nondominated
from sparsefront.search.loop import search_loop
from sparsefront.search.mutator import MutatorOptions
from sparsefront.search.pool import SerialPool
from sparsefront.search.reward import Reward
from sparsefront.search.sampler import EvolutionOptions, ReinforcedEvolutionSampler
from sparsefront.search.seeds import enqueue_seeds
from sparsefront.search.studies import open_study
from sparsefront.spaces import SearchSpace

REPOSITORY = Path(__file__).parent.parent
BUDGET_SHARE = 1 / 6
FIRST_SEED = 100
"""Smaller seeds were looked at while the sampler's settings were chosen, on the built-in task's landscape."""
QUALITY_REF = 0.5
"""The hypervolume's reference point is an AUC of one half, and the budget; it is given as a share of the box up to the
dense model's quality."""
EVALUATIONS, AT, EVERY = 500, (100, 250, 500), 10
ABLATED_EVALUATIONS = 250
SPACES = ("weights", "joint")
PLAIN, FEW = EvolutionOptions(critic=False), EvolutionOptions(children=8)
OURS: dict[str, dict[str, Any]] = {
    "ours": {},
    "random mutation": {"mutator": MutatorOptions(learn=False)},
    "reward without latency": {"reward": Reward(under=0.0)},
    "reward without hypervolume": {"reward": Reward(hypervolume_weight=0.0)},
    "state without shares": {"mutator": MutatorOptions(shares=False)},
    "state without the critic's word": {"mutator": MutatorOptions(hints=False)},
    "8 children": {"evolution": FEW},
    "8 children, random mutation": {"evolution": FEW, "mutator": MutatorOptions(learn=False)},
    "no critic": {"evolution": PLAIN},
    "no critic, random mutation": {"evolution": PLAIN, "mutator": MutatorOptions(learn=False)},
}
RIVALS: dict[str, Callable[..., BaseSampler]] = {
    "random": RandomSampler,
    "uniform sweep": RandomSampler,
    "regularised evolution": RegularisedEvolution,
    "pareto evolution": ParetoEvolution,
    "local search": LocalSearch,
}
OPTUNA = ("tpe", "nsga2", "nsga3")
LEARNED = (
    ("ours", "random mutation"),
    ("8 children", "8 children, random mutation"),
    ("no critic", "no critic, random mutation"),
)
"""Pairs that differ in nothing but whether the mutator learns."""
GUIDED = ("ours", "no critic, random mutation")
"""Mutation guided by all that was learned, by policy and critic, and by nothing."""
METHODS = (*OURS, *RIVALS, *OPTUNA)
Cell = tuple[str, str, str, int]
HERE, SEARCH = Path(__file__).parent, REPOSITORY / "search"
COMMON_CODE = (HERE / "landscape.py", SEARCH / "feasible.py", SEARCH / "seeds.py", SEARCH / "curves.py")
RIVALS_CODE = (HERE / "rivals.py", SEARCH / "baselines.py")
OUR_CODE = tuple(
    SEARCH / f"{name}.py" for name in ("axes", "critic", "front", "judge", "mutator", "policy", "reward", "sampler")
)


@functools.cache
def landscape_of(name: str) -> Landscape:
    """Fitted once per process."""
    return Landscape.load(name)


def sampler_of(
    method: str, landscape: Landscape, space: SearchSpace, predict_many: PredictMany, budget_us: float, seed: int
) -> BaseSampler:
    """A sampler by its name in the report."""
    if method in OPTUNA:
        return optuna_sampler(method, seed=seed)
    if method in RIVALS:
        return RIVALS[method](space=space, predict_many=predict_many, budget_us=budget_us, seed=seed)
    return ReinforcedEvolutionSampler(
        space=space,
        predict_many=predict_many,
        budget_us=budget_us,
        importance=landscape.importance,
        seed=seed,
        **OURS[method],
    )


def searched(cell: Cell, evaluations: int) -> dict[str, Any]:
    """One search: what its user would have at every tenth evaluation."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)
    name, preset, method, seed = cell
    landscape = landscape_of(name)
    space = landscape.space(preset)
    if method == "uniform sweep":
        space = uniform_space(space)
    predict_many = landscape.table.predict_many
    dense_us = float(predict_many([landscape.space("joint").largest])[0])
    budget_us = BUDGET_SHARE * dense_us
    sampler = sampler_of(method, landscape, space, predict_many, budget_us, seed)
    study = open_study(optuna.storages.InMemoryStorage(), name="search", sampler=sampler)
    if method not in OURS:
        enqueue_seeds(
            study, FeasibleSpace(space=space, predict_many=predict_many, budget_us=budget_us), landscape.importance
        )
    pool = SerialPool(lambda genome: {"quality": landscape.evaluated(genome, seed=seed)})
    with threadpool_limits(limits=1):  # one search per processor
        report = search_loop(
            study, space, pool, predict_many=predict_many, budget_us=budget_us, evaluations=evaluations
        )
    found = sorted(evaluated_of(study), key=lambda one: one.number)
    seen, us = np.array([one.quality for one in found]), np.array([one.latency_us for one in found])
    true = landscape.quality([one.genome for one in found])
    again = landscape.rescored([one.genome for one in found], seed=seed)
    box = (landscape.about["dense_quality"] - QUALITY_REF) * budget_us
    best, volume = [], []
    for count in range(EVERY, evaluations + 1, EVERY):
        shown = nondominated(seen[:count], us[:count])
        few = np.argsort(-seen[:count], kind="stable")[:RESCORED]
        best.append(float(true[few[int(np.argmax(again[few]))]]))
        area = hypervolume(true[:count][shown], us[:count][shown], quality_ref=QUALITY_REF, latency_ref_us=budget_us)
        volume.append(area / box)
    return {
        "landscape": name, "space": preset, "method": method, "seed": seed, "evaluations": len(found),
        "best": best, "hypervolume": volume, "winner": found[few[int(np.argmax(again[few]))]].genome.key(),
        "made_by": made_by(name, method in OURS), "duplicates_avoided": report.duplicates_avoided,
        "rejected_infeasible": report.rejected_infeasible,
    }  # fmt: skip


def evaluations_of(method: str, evaluations: int) -> int:
    """An ablation is compared in the middle of a search, and stops there."""
    ablated = method in OURS and method != "ours"
    return min(evaluations, ABLATED_EVALUATIONS) if ablated else evaluations


@functools.cache
def made_by(landscape: str, ours: bool) -> str:
    """Digest of the landscape and of the code that a search on it depends on, comments and layout aside."""
    digest = hashlib.sha256()
    for path in sorted(one for one in (LANDSCAPES / landscape).rglob("*") if one.is_file()):
        digest.update(path.read_bytes())
    for path in (*COMMON_CODE, *(OUR_CODE if ours else RIVALS_CODE)):
        digest.update(ast.dump(ast.parse(path.read_text(encoding="utf-8"))).encode())
    return digest.hexdigest()[:16]


def kept(path: Path, files: dict[Cell, Path]) -> dict[Cell, dict[str, Any]]:
    """Finished searches of the stored report and of the work folder, as far as they are of today's code."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files.values() if file.exists()]
    if path.exists():
        found = [*pd.read_parquet(path).to_dict("records"), *found]
    return {
        (one["landscape"], one["space"], one["method"], one["seed"]): one
        for one in found
        if one["made_by"] == made_by(one["landscape"], one["method"] in OURS)
    }


def rows_of(cells: list[dict[str, Any]], at: tuple[int, ...]) -> list[dict[str, Any]]:
    """Mean and 95 % bootstrap interval over the seeds, per landscape, space, method and number of evaluations."""
    rng = np.random.default_rng(0)
    rows = []
    key = lambda one: (one["landscape"], one["space"], METHODS.index(one["method"]))  # noqa: E731
    for (landscape, space, number), group in itertools.groupby(sorted(cells, key=key), key=key):
        runs = list(group)
        row: dict[str, Any] = {
            "landscape": landscape, "space": space, "method": METHODS[number], "seeds": len(runs),
        }  # fmt: skip
        draws = rng.integers(len(runs), size=(10_000, len(runs)))
        counts = [count for count in at if count <= EVERY * len(runs[0]["best"])]
        for metric, count in itertools.product(("best", "hypervolume"), counts):
            values = np.array([one[metric][count // EVERY - 1] for one in runs])
            low, high = np.quantile(values[draws].mean(axis=1), [0.025, 0.975])
            row[f"{metric}_at_{count}"] = float(values.mean())
            row[f"{metric}_at_{count}_interval"] = [float(low), float(high)]
        rows.append(row)
    return rows


def targets_of(rows: list[dict[str, Any]], at: tuple[int, ...]) -> Iterator[Target]:
    """Ours first everywhere, in half the evaluations; learned mutation better than random mutation."""
    for cell in dict.fromkeys((row["landscape"], row["space"]) for row in rows):
        by_method = {row["method"]: row for row in rows if (row["landscape"], row["space"]) == cell}
        others = [by_method[name] for name in (*RIVALS, *OPTUNA) if name in by_method]
        if "ours" not in by_method or not others:
            continue
        ours, where = by_method["ours"], ", ".join(cell)
        for metric in ("best", "hypervolume"):
            for count in at:
                rival = max(others, key=lambda row: row[f"{metric}_at_{count}"])
                yield Target(
                    f"{where}: {metric} at {count}, ours, against {rival['method']}", ">",
                    rival[f"{metric}_at_{count}"], ours[f"{metric}_at_{count}"],
                )  # fmt: skip
            half, whole = at[-2:]
            rival = max(others, key=lambda row: row[f"{metric}_at_{whole}"])
            yield Target(
                f"{where}: {metric} at {half}, ours, against {rival['method']} at {whole}", ">=",
                rival[f"{metric}_at_{whole}"], ours[f"{metric}_at_{half}"],
            )  # fmt: skip
            for learned, drawn in (*LEARNED, GUIDED):
                if {learned, drawn} <= by_method.keys():
                    yield Target(
                        f"{where}: {metric} at {half}, lower end of {learned!r} against upper end of {drawn!r}", ">",
                        by_method[drawn][f"{metric}_at_{half}_interval"][1],
                        by_method[learned][f"{metric}_at_{half}_interval"][0],
                    )  # fmt: skip


def picture(cells: list[dict[str, Any]], path: Path) -> None:
    """Best quality against evaluations, mean over seeds, one panel per landscape and space."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = list(dict.fromkeys((one["landscape"], one["space"]) for one in cells))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        for method in ("ours", "random mutation", *RIVALS, *OPTUNA):
            runs = [
                one["best"] for one in cells if (one["landscape"], one["space"]) == panel and one["method"] == method
            ]
            if runs:
                mean = np.mean(runs, axis=0)
                axis.plot(EVERY * np.arange(1, len(mean) + 1), mean, label=method, lw=2 if method == "ours" else 1)
        low = np.median([one["best"][0] for one in cells if (one["landscape"], one["space"]) == panel])
        axis.set(title=", ".join(panel), xlabel="evaluations", ylim=(low, None))
    axes[0][0].set_ylabel("noise-free AUC of the best")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Search what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two seeds, 100 evaluations")
    parser.add_argument("--report", action="store_true", help="search nothing new, report what is there")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-samplers")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--landscapes", nargs="+", default=["home_depot", "ad_log"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=20)
    arguments = parser.parse_args()
    quick = arguments.quick
    evaluations, at = (100, (20, 50, 100)) if quick else (EVALUATIONS, AT)
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    seeds = range(FIRST_SEED, FIRST_SEED + (2 if quick else arguments.seeds))
    wanted = list(itertools.product(arguments.landscapes, SPACES, arguments.methods, seeds))
    wanted.sort(key=lambda cell: cell[3])
    files = {
        cell: work / f"{'-'.join(map(str, cell))}.json".replace(" ", "_").replace(",", "").replace("'", "")
        for cell in wanted
    }
    store = RESULTS / f"samplers{'.quick' if quick else ''}.parquet"
    known = kept(store, files)
    missing = [] if arguments.report else [cell for cell in wanted if cell not in known]
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        running = {pool.submit(searched, cell, evaluations_of(cell[2], evaluations)): cell for cell in missing}
        for number, done in enumerate(as_completed(running), 1):
            files[running[done]].write_text(json.dumps(done.result()), encoding="utf-8")
            print(f"{number} of {len(missing)}: {running[done]}", flush=True)
    cells = list(kept(store, files).values())
    pd.DataFrame(cells).to_parquet(store, index=False)
    rows = rows_of(cells, at)
    write_result("samplers", rows, list(targets_of(rows, at)), sorted({one["seed"] for one in cells}), quick)
    picture(cells, RESULTS / f"samplers{'.quick' if quick else ''}.png")


if __name__ == "__main__":
    main()
