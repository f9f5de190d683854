"""Text and features together: BERT4CTR against the other ways of joining them, on MovieLens clicks and the ad log.

The ad log's logit is a sum of what its text and its features say. In the crossed ad log, the same rows with other
clicks, some words count for or against an ad by one of its features, which no text nor feature tells alone.

Per task and seed every method sees the same rows as often (``EPOCHS``), and each takes the better of two learning
rates by validation rows, with the first seed, and keeps it; on the crossed ad log it takes the ad log's. What test rows
say decides nothing, and is reported of the chosen rate alone. Then, on random weights, what a row costs where it is
served: alone, as features grow, and for one user and many ads by two sides (the text once, then features).

Ideas that could bring BERT4CTR further above the shallow interaction are tried on validation rows of the ad log.

The ad log is made, so that the best possible AUC of text and features is known and rows are free: how near BERT4CTR
comes is told by a curve over training rows.

Trainings take hours; each is made once. With ``--untimed`` several calls can train side by side; a later call without
it finds what they made. Parts, tasks, seeds and methods that are not asked for stay as the result holds them, and so do
the rates that it holds: another machine can go on.

- text only; features only (an MLP of two layers over the branch's own embeddings); cascade (a text model's score as
  one more number for that; of training rows, that of a model that has not seen them); shallow interaction (features
  meet only [CLS]'s state)
- NumBERT, words: values of the features as words in front of the first text; tokens: one further token per feature
- BERT4CTR, one step: text and branch begin together; two steps: a text model of one half of the rows first, then with
  the other half the branch beside it, then both, so that the text sees all rows once and the branch one half twice

    python benchmarks/bert4ctr.py [--quick] [--parts NAME ...] [--tasks NAME ...] [--seeds SEED ...]
                                  [--methods NAME ...] [--data FOLDER] [--work FOLDER] [--report | --untimed]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bert4ctr_quality import CURVE, HEADS, IDEAS, METHODS, OURS, QUICK_CURVE, RATES_OF, ROWS, SEEDS, Bench
from bert4ctr_serving import serving_rows, serving_targets
from bert4ctr_training import training_rows, training_targets
from common import RESULTS, Target, about_this_machine, write_result

from sparsefront.models.feature_words import worded
from sparsefront.models.numbert import NumBertConfig
from sparsefront.search.pictures import plot_reliability

REPOSITORY = Path(__file__).parent.parent
PARTS = ("costs", "quality", "ideas", "curve")
COSTS = {"serving.json": "served", "training.json": "trained"}
"""Where costs are kept, and what such rows of the result have and others do not."""
SHALLOW = "shallow interaction"
DRAWN = ("text only", "features only", SHALLOW, OURS)
SCORES = ("auc", "gauc", "log_loss", "calibration_error", "best_possible_auc")


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task and method the mean over the seeds, and what BERT4CTR has more on the seeds that both have.

    The standard error is that of the draw of test rows: a paired bootstrap.
    """
    found = []
    auc = {(row["task"], row["method"], row["seed"]): np.array([row["auc"], *row["auc_draws"]]) for row in rows}
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        line = {"task": task, "method": method, "seeds": len(own)}
        line |= {name: float(np.mean([row[name] for row in own])) for name in SCORES if name in own[0]}
        gains = [
            auc[task, OURS, row["seed"]] - auc[task, method, row["seed"]]
            for row in own
            if (task, OURS, row["seed"]) in auc
        ]
        if gains and method != OURS:
            points = 100 * np.mean(gains, axis=0)
            line |= {"behind_bert4ctr_points": float(points[0]), "standard_error_points": float(points[1:].std())}
        found.append(line)
    return found


def targets_of(lines: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of quality; text alone is to be further behind than the shallow interaction."""
    shallow = {line["task"]: line.get("behind_bert4ctr_points", 0.0) for line in lines if line["method"] == SHALLOW}
    for line in lines:
        if "behind_bert4ctr_points" in line:
            least = {SHALLOW: 0.5, "text only": max(0.5, shallow.get(line["task"], 0.0))}.get(line["method"], 0.0)
            name = f"{line['task']}: test AUC of BERT4CTR minus {line['method']}, points, mean of {line['seeds']} seeds"
            yield Target(name, ">=", least, line["behind_bert4ctr_points"])
        elif line["method"] == OURS and line["task"] == "ad_log":
            short = 100 * (line["best_possible_auc"] - line["auc"])
            yield Target(f"{line['task']}: points below the best possible AUC", "<=", 1.0, short)


def curve_targets(curve: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """How near the best possible AUC the most rows bring BERT4CTR."""
    if curve:
        row = max(curve, key=lambda row: int(row["train_rows"]))
        short = 100 * (row["best_possible_auc"] - row["auc"])
        yield Target(
            f"ad log, {row['train_rows']:,} training rows: points below the best possible AUC", "<=", 1.0, short
        )


def measured(work: Path, data: Path, quick: bool, *, only_there: bool) -> list[dict[str, Any]]:
    """What features cost where a model is trained and where it is served, each measured once with nothing beside it.

    ``only_there``: as it is kept, else as the result holds it.
    """
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "serving.json": lambda: serving_rows(work, quick),
        "training.json": lambda: trained(work, data, quick),
    }
    found: list[dict[str, Any]] = []
    for name, make in makers.items():
        path = work / name
        if not path.exists() and not only_there:
            path.write_text(json.dumps([{**row, **about_this_machine()} for row in make()]), encoding="utf-8")
        if path.exists():
            found += json.loads(path.read_text("utf-8"))
        else:
            found += [row for row in stored(quick) if COSTS[name] in row]
    return found


def trained(work: Path, data: Path, quick: bool) -> list[dict[str, Any]]:
    """What a training pass costs on MovieLens."""
    bench = Bench(work, "movielens", data, quick, {})
    branch = bench.branch_config(HEADS)
    wide = NumBertConfig.of(bench.backbone.config, bench.task.features)
    text_rows = worded(bench.task).tokenise(bench.backbone.tokenizer)["train"]
    text = bench.backbone.cross_encoder(seed=0)
    return training_rows(bench.rows["train"], text_rows, text, branch, wide, quick)


def curve_rows(arguments: argparse.Namespace, work: Path, rates: dict[str, float]) -> Iterator[dict[str, Any]]:
    """BERT4CTR of more and more training rows of one ad log, with the first seed, at the rate of the task's own log."""
    chosen = {OURS: Bench(work, "ad_log", arguments.data, arguments.quick, rates).chosen_rate(OURS)}
    for count in QUICK_CURVE if arguments.quick else CURVE:
        bench = Bench(work, "ad_log", arguments.data, arguments.quick, chosen, train_rows=count)
        yield {"train_rows": count, **bench.row(OURS, SEEDS[0])}


Kept = dict[tuple[str, int, str], dict[str, Any]]


def stored(quick: bool) -> list[dict[str, Any]]:
    """Rows of the result."""
    path = RESULTS / "bert4ctr.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text("utf-8"))["rows"] if path.exists() and not quick else []
    return rows


def main() -> None:
    """Make what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, one seed, hardly any training")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--report", action="store_true", help="make nothing new, report what is there")
    way.add_argument("--untimed", action="store_true", help="train what is missing, time and report nothing")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--tasks", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-bert4ctr")
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    only_there = arguments.report or arguments.untimed or "costs" not in arguments.parts
    costs = measured(work, arguments.data, quick, only_there=only_there)
    curve = {row["train_rows"]: row for row in stored(quick) if "train_rows" in row}
    ideas = {row["idea"]: row for row in stored(quick) if "idea" in row}
    trained_before = [row for row in stored(quick) if "seed" in row and "method" in row and "train_rows" not in row]
    kept: Kept = {(row["task"], row["seed"], row["method"]): row for row in trained_before}
    train = "quality" in arguments.parts and not arguments.report
    for name in arguments.tasks if train else ():
        rates = {method: row["rate"] for (task, _, method), row in kept.items() if task == RATES_OF.get(name, name)}
        bench = Bench(work, name, arguments.data, quick, rates)
        for seed in arguments.seeds[:1] if quick else arguments.seeds:
            for method in arguments.methods:
                kept[name, seed, method] = bench.row(method, seed)
                if not arguments.untimed:
                    report(kept, ideas, curve, costs, quick)
    rates = {method: row["rate"] for (task, _, method), row in kept.items() if task == "ad_log"}
    if "ideas" in arguments.parts and not arguments.report:
        bench = Bench(work, "ad_log", arguments.data, quick, rates)
        ideas |= {name: bench.idea(name) for name in IDEAS}
    if "curve" in arguments.parts and not arguments.report:
        curve |= {row["train_rows"]: row for row in curve_rows(arguments, work, rates)}
    if not arguments.untimed:
        report(kept, ideas, curve, costs, quick)


def report(
    kept: Kept,
    ideas: dict[str, dict[str, Any]],
    curve: dict[int, dict[str, Any]],
    costs: list[dict[str, Any]],
    quick: bool,
) -> None:
    """Write the result of what is there, and draw how right the probabilities of the first seed are."""
    rows = sorted(kept.values(), key=lambda row: (row["task"], row["seed"], METHODS.index(row["method"])))
    lines = summary(rows)
    grown = [curve[count] for count in sorted(curve)]
    targets = [*targets_of(lines), *curve_targets(grown), *serving_targets(costs), *training_targets(costs)]
    path = write_result(
        "bert4ctr",
        [*lines, *costs, *ideas.values(), *grown, *rows],
        targets,
        sorted({row["seed"] for row in rows}),
        quick,
    )
    drawn = [row for row in rows if row["seed"] == SEEDS[0] and row["method"] in DRAWN and row["task"] == "movielens"]
    if drawn and not quick:
        title = "MovieLens clicks, test rows"
        plot_reliability(path.with_suffix(".png"), {row["method"]: row for row in drawn}, title=title)


if __name__ == "__main__":
    main()
