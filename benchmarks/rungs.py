"""What two rungs save of a search's evaluations, what they cost, and how right their estimates are.

Genomes that real searches looked at, in their order, at 1/6 of the dense latency (record_landscape.py has written them
down; without that, random ones just within it). Each is evaluated on all rows, and by a second fitness with a bar: the
best quality among the genomes before it that are no slower. Every search begins with a fitness that knows nothing.
Genomes that are finished are not evaluated again, so a run that was cut off goes on, as a search that was.

    python benchmarks/rungs.py [--quick] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from budget_search import SHARES
from common import Target, write_result
from landscape import EVALUATIONS, LANDSCAPES
from numpy.typing import NDArray
from record_landscape import REPOSITORY, home_depot, read_lines
from scipy.stats import spearmanr

from sparsefront.search.curriculum import random_shape
from sparsefront.search.explore import space_of
from sparsefront.search.fitness import Fitness, FitnessData
from sparsefront.search.prepare import Prepared
from sparsefront.search.settings import SearchSettings
from sparsefront.spaces import Genome

SEED = 0
SHARE = SHARES["1/6"]
SEARCHES = ("reinforced joint", "reinforced weights", "local joint")
PER_SEARCH, QUICK_PER_SEARCH = 70, 10
ROWS, QUICK_ROWS = 1500, 700
NEAR = 0.7
"""Random genomes cost at least this share of the budget."""


def met(work: Path, prepared: Prepared, settings: SearchSettings, per_search: int) -> dict[str, list[Genome]]:
    """The first genomes of every search, in the order in which it evaluated them."""
    stored = LANDSCAPES / "home_depot" / EVALUATIONS
    lines: list[Any] = list(read_lines(work / EVALUATIONS.replace("parquet", "jsonl")))
    if not lines and stored.exists():
        lines = pd.read_parquet(stored).to_dict("records")
    found: dict[str, list[Genome]] = {}
    for search in SEARCHES:
        keys = dict.fromkeys(one["genome"] for one in lines if one["source"] == f"{search} {SHARE:.3f}")
        if keys:
            found[search] = [Genome.parse(key) for key in keys][:per_search]
    return found or {"random": list(random_near(prepared, settings, per_search * len(SEARCHES)))}


def random_near(prepared: Prepared, settings: SearchSettings, count: int) -> Iterator[Genome]:
    """Random genomes just within the budget."""
    rng = np.random.default_rng(SEED)
    space = space_of(prepared.backbone.widths, settings, "joint")
    budget_us = SHARE * prepared.measured.dense_us
    seen: set[Genome] = set()
    while len(seen) < count:
        batch = [random_shape(space, rng) for _ in range(256)]
        for genome, us in zip(batch, prepared.measured.predict_many(batch), strict=True):
            if NEAR * budget_us <= us <= budget_us and genome not in seen and len(seen) < count:
                seen.add(genome)
                yield genome


def measure(
    search: str, genome: Genome, latency_us: float, known: Sequence[Mapping[str, Any]], plain: Fitness, rungs: Fitness
) -> dict[str, Any]:
    """One genome by both, in turns the one and the other first.

    Args:
        search: which search met it.
        genome: what to evaluate.
        latency_us: its latency.
        known: what the search has evaluated before.
        plain: evaluates on all rows.
        rungs: evaluates with a bar.
    """
    bar = max((one["quality"] for one in known if one["latency_us"] <= latency_us), default=None)
    calls = {"plain": lambda: plain(genome), "rungs": lambda: rungs(genome, bar)}
    outcomes, seconds = {}, {}
    for name in list(calls) if len(known) % 2 else list(calls)[::-1]:
        started = time.perf_counter()
        outcomes[name] = calls[name]()
        seconds[name] = time.perf_counter() - started
    exact, found = outcomes["plain"], outcomes["rungs"]
    return {
        "search": search,
        "genome": genome.key(),
        "latency_us": latency_us,
        "bar": bar,
        "quality": exact["quality"],
        "standard_error": exact["standard_error"],
        "seconds": seconds["plain"],
        "found_quality": found["quality"],
        "found_standard_error": found["standard_error"],
        "estimate_error": found["estimate_error"],
        "rows": found["rows"],
        "early": found["rows"] < exact["rows"],
        "found_seconds": seconds["rungs"],
    }


def summary(search: str, found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the rungs did for the genomes of a search; None where none ended early and only those could tell."""
    early = [one for one in found if one["early"]]
    errors = np.array([one["found_quality"] - one["quality"] for one in early])
    stated = np.array([one["estimate_error"] for one in early])
    wrong = sum(one["quality"] >= one["bar"] for one in early)
    seconds, found_seconds = (float(np.mean([one[name] for one in found])) for name in ("seconds", "found_seconds"))
    some = stated > 0  # a genome without any attention has one logit for all rows, and is known exactly
    return {
        "at": search,
        "genomes": len(found),
        "with_bar": sum(one["bar"] is not None for one in found),
        "early": len(early),
        "early_share": len(early) / len(found),
        "below_bar_share": float(np.mean([one["bar"] is not None and one["quality"] < one["bar"] for one in found])),
        "mean_seconds": seconds,
        "mean_seconds_with_bar": found_seconds,
        "time_saved": 1 - found_seconds / seconds,
        "wrong_exits": wrong,
        "wrong_exit_share": wrong / len(early) if early else None,
        "estimates_mean_error": float(errors.mean()) if early else None,
        "estimates_rms_error": rms(errors),
        "estimates_rms_error_over_stated": rms(errors[some] / stated[some]),
        "mean_stated_error": float(stated.mean()) if early else None,
        "standard_error_all_rows": float(np.mean([one["standard_error"] for one in found])),
        "spearman": float(spearmanr([one["quality"] for one in found], [one["found_quality"] for one in found])[0]),
    }


def rms(values: NDArray[np.float64]) -> float | None:
    """Root of the mean square; None of nothing."""
    return float(np.sqrt(np.mean(values**2))) if len(values) else None


def main() -> None:
    """Measure what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten genomes a search, half the rows")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-landscapes")
    arguments = parser.parse_args()
    quick = arguments.quick
    torch.set_num_threads(1)  # as a worker's
    work = arguments.work / ("home_depot" + ("-quick" if quick else ""))
    work.mkdir(parents=True, exist_ok=True)
    prepared, settings = home_depot(work, arguments.data, quick)
    prepared = replace(prepared, measured=replace(prepared.measured, anchors=()))  # the table that was searched with
    rows = prepared.rows["valid"].stratified(QUICK_ROWS if quick else ROWS, SEED)
    data = FitnessData.of(prepared.supernet, rows, prepared.task.spec.metric)
    plain = Fitness(data)
    path = work / "rungs.jsonl"
    for search, genomes in met(work, prepared, settings, QUICK_PER_SEARCH if quick else PER_SEARCH).items():
        rungs = Fitness(data)
        known = [one for one in read_lines(path) if one["search"] == search]
        done = {one["genome"] for one in known}
        latency_us = prepared.measured.predict_many(genomes)
        for genome, us in zip(genomes, latency_us.tolist(), strict=True):
            if genome.key() not in done:
                known.append(measure(search, genome, us, known, plain, rungs))
                with path.open("a", encoding="utf-8") as stream:
                    stream.write("\n" + json.dumps(known[-1]))
        print(summary(search, known), flush=True)
    report(list(read_lines(path)), quick)


def report(found: Sequence[dict[str, Any]], quick: bool) -> None:
    """Write the result: all searches together, each, and every genome."""
    searches = dict.fromkeys(one["search"] for one in found)
    each = [summary(name, [one for one in found if one["search"] == name]) for name in searches]
    every = summary("all", found)
    share = every["wrong_exit_share"]
    targets = [
        Target("wrong exits, share of the early ones", "<=", 0.05, float("nan") if share is None else share),
        Target("time saved, share", ">=", 0.3, every["time_saved"]),
    ]
    write_result("rungs", [every, *each, *found], targets, [SEED], quick)


if __name__ == "__main__":
    main()
