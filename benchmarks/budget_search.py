"""Searches at three latency budgets and their rivals, one bench for all tasks.

Per seed one teacher and one supernet serve all methods. Per budget every method gets the same evaluations (the uniform
sweep gets all it asks for), the same number of finalists and the same fine-tuning; the winner is chosen on validation
rows and scored once on test rows. Seeds differ in everything but the split. At the end all winners of a seed are
measured again, interleaved with its dense model, in one process.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from common import RESULTS, about_this_machine
from memory import PeakMemory
from resampling import auc_draws

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.timing import LatencyStats
from sparsefront.models.backbone import load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.metrics import quality
from sparsefront.models.ranker import load_ranker
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import TrainOptions
from sparsefront.search.anchor import anchor_at
from sparsefront.search.costs import costs
from sparsefront.search.explore import STUDY_FILE, explore, fitness_pool, space_of, sweep_uniform
from sparsefront.search.front import Evaluated
from sparsefront.search.lookup import LOOKUP, lookup_step
from sparsefront.search.measured import Measured
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Rich
from sparsefront.search.rows import STORE
from sparsefront.search.run import Run
from sparsefront.search.run_result import FINALISTS
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.search.steps import run_step, step_seconds
from sparsefront.search.studies import open_study
from sparsefront.spaces import InputError

REPOSITORY = Path(__file__).parent.parent
SHARES = {"1/3": 1 / 3, "1/6": 1 / 6, "1/12": 1 / 12}
METHODS = {
    "searched joint": {"sampler": "reinforced", "space": "joint"},
    "best uniform": {"uniform": "all"},
    "searched weights": {"sampler": "reinforced", "space": "weights"},
    "random joint": {"sampler": "random", "space": "joint"},
}
"""What is needed most comes first: what is claimed, then its rivals."""
OURS, *RIVALS = METHODS
Cell = tuple[str, str]
"""Method and share of the dense latency."""
KEEP_PERCENTS = (100, 90, 80, 70, 50, 30)
FINETUNE = TrainOptions(epochs=0.35, learning_rate=1e-4, distil_share=0.8, freeze_embeddings=True, dropout=0.0)


@dataclass(frozen=True)
class Effort:
    """What a search may do.

    Attributes:
        evaluations: of genomes.
        rows: of the validation rows, that each is scored on; the best few are scored on all.
        finalists: that are fine-tuned.
        finetune_epochs: passes of that over the training rows.
        teacher_epochs: passes of the teacher over the training rows.
        elastic_epochs: of the supernet.
        shares: of the dense latency that are budgets, the largest first.
        frozen: which layers make the vectors of behaviours, where a task has some.
    """

    evaluations: int = 150
    rows: int = 1500
    finalists: int = 3
    finetune_epochs: float = FINETUNE.epochs
    teacher_epochs: float = 2.0
    elastic_epochs: float = 2.0
    shares: Mapping[str, float] = field(default_factory=lambda: SHARES)
    frozen: FrozenLayers = field(default_factory=FrozenLayers)

    def brief(self) -> Effort:
        """Enough to see that it runs."""
        less = replace(self, finetune_epochs=0.05, teacher_epochs=0.05, elastic_epochs=0.05)
        return replace(less, evaluations=20, rows=500, finalists=1)


def asked(
    description: str | None,
    name: str,
    data: str,
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    frozen_layers: Sequence[int] = (),
) -> argparse.Namespace:
    """Options of such a benchmark; its work folder is made.

    Args:
        description: its module's docstring.
        name: what its work folder is called after.
        data: folder under the data folder.
        methods: that can be chosen among; none if there is nothing to choose.
        tasks: that one is chosen from, the first by default; none if there is only one.
        frozen_layers: numbers of them that can be chosen among, the first by default; none without histories.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, evaluations and seeds; minutes")
    parser.add_argument("--report", action="store_true", help="make nothing new, report the cells that are there")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    if methods:
        parser.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    if tasks:
        parser.add_argument("--task", choices=tasks, default=tasks[0])
    if frozen_layers:
        chosen = list(frozen_layers)
        parser.add_argument("--frozen-layers", type=int, nargs="+", choices=chosen, default=chosen[:1])
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / data)
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / f"benchmark-{name}")
    arguments = parser.parse_args()
    arguments.seeds = arguments.seeds[:1] if arguments.quick else arguments.seeds
    arguments.work = arguments.work / ("quick" if arguments.quick else "full")
    arguments.work.mkdir(parents=True, exist_ok=True)
    return arguments


def rows_of_seeds(
    name: str,
    work: Path,
    task: Task,
    quick: bool,
    seeds: list[int],
    cells: list[Cell],
    *,
    only_there: bool,
    effort: Effort = Effort(),
) -> list[dict[str, Any]]:
    """Rows of these seeds, those that the result holds of others, and the differences over all of them."""
    rows = [] if quick else [row for row in stored_rows(name) if row["seed"] not in seeds]
    for seed in seeds:
        rows += rows_of_seed(work, task, quick, seed, cells, only_there=only_there, effort=effort)
    rows.sort(key=lambda row: (row["seed"], list(METHODS).index(row["cell"]) if row["cell"] in METHODS else -1))
    return rows + differences(rows)


def stored_rows(name: str) -> list[dict[str, Any]]:
    """What the result holds of every seed; nothing where it is of an older kind."""
    path = RESULTS / f"{name}.json"
    stored = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return [row for row in stored if "seed" in row] if any("auc_draws" in row for row in stored) else []


def rows_of_seed(
    work: Path,
    task: Task,
    quick: bool,
    seed: int,
    cells: list[Cell],
    *,
    only_there: bool,
    whole_us: float | None = None,
    effort: Effort = Effort(),
) -> list[dict[str, Any]]:
    """Everything of one seed, each row with it and with the machine."""
    memory = PeakMemory(work / f"peak_memory_gib-seed{seed}.txt")
    with memory:
        bench = Bench(work / f"seed{seed}", task, quick, seed, whole_us, effort)
        left_out = {cell: why for cell in cells if (why := bench.left_out(*cell)) is not None}
        cells = [cell for cell in cells if cell not in left_out]
        if only_there:
            cells = [cell for cell in cells if bench.folder(*cell).exists()]
        for cell in cells:
            bench.cell(*cell)
        rows = bench.rows(cells)
        rows += [{"cell": method, "at": share, "left_out": why} for (method, share), why in left_out.items()]
    rows.append({"cell": "run", **bench.walls, "peak_memory_gib": memory.peak_gib, **about_this_machine()})
    return [{"seed": seed, **row} for row in rows]


class Bench:
    """The prepared steps and the cells of the table, each kept on disk.

    Args:
        work: folder of all that.
        task: what is searched for.
        quick: few evaluations, hardly any training.
        seed: of everything.
        whole_us: latency that budgets are shares of; by default the dense model's, behaviours looked up.
        effort: of a search.
    """

    def __init__(
        self,
        work: Path,
        task: Task,
        quick: bool,
        seed: int = 0,
        whole_us: float | None = None,
        effort: Effort = Effort(),
    ) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.task, self.seed, self.whole_us = work, task, seed, whole_us
        self.effort = effort.brief() if quick else effort
        self.finetune = replace(FINETUNE, epochs=self.effort.finetune_epochs)
        self.preparation = PrepareSettings(
            effort="quick" if quick else "normal",
            focus_shares=tuple(self.effort.shares.values()),
            importance_rows=200 if quick else 2000,
            genomes_per_step=3,
            teacher=TrainOptions(
                epochs=self.effort.teacher_epochs,
                learning_rate=8e-5,
                tokens_per_batch=1024,
                seed=seed,
            ),
            elastic=TrainOptions(
                epochs=self.effort.elastic_epochs,
                learning_rate=1.5e-4,
                tokens_per_batch=2048,
                distil_share=0.8,
                freeze_embeddings=True,
                dropout=0.0,
                seed=seed,
            ),
            frozen=self.effort.frozen,
            seed=seed,
        )
        self.backbone = load_backbone("minilm").serving(task, self.effort.frozen)
        self.reporter = Rich()
        self._swept: list[Evaluated] | None = None
        run = self.run(OURS, self.largest)
        self.prepared: Prepared = run.prepare(run.measure())
        self.walls = {f"{name}_seconds": step_seconds(work / "prepared" / name) for name in ("teacher", "supernet")} | {
            "latency_seconds": step_seconds(run.table_folder)
        }

    def run(self, method: str, share: str) -> Run:
        """The run of a cell; all share the prepared steps."""
        whole: dict[str, Any] = {"budget_share": self.effort.shares[share]}
        if self.whole_us is not None:
            whole = {"budget_us": self.effort.shares[share] * self.whole_us}
        about: dict[str, Any] = dict(METHODS[method])
        if not self.sweeps_all and "uniform" in about:
            about["uniform"] = "largest"
        settings = SearchSettings(
            **whole,
            evaluations=self.effort.evaluations,
            finalists=self.effort.finalists,
            search_rows=self.effort.rows,
            ffn_granule=128,
            keep_percents=KEEP_PERCENTS,
            finetune=self.finetune,
            seed=self.seed,
            **about,
        )
        name = f"{method.replace(' ', '-')}-{share.replace('/', '-')}"
        run = Run(
            self.work / name,
            task=self.task,
            backbone=self.backbone,
            settings=settings,
            preparation=self.preparation,
            shared=self.work / "prepared",
            reporter=self.reporter,
        )
        run.lookup_us = self.lookup_us
        return run

    @property
    def largest(self) -> str:
        """The share that serves all others."""
        return next(iter(self.effort.shares))

    @property
    def sweeps_all(self) -> bool:
        """Whether all uniform genomes are evaluated: with how many behaviours they read there are too many of them, and
        per budget only those are that no other within it exceeds."""
        return self.task.histories is None

    @cached_property
    def lookup_us(self) -> float:
        """What it takes to look the behaviours of a call up: measured once, so that all cells of a share have one
        budget; 0 where there are none."""
        shared, statistic = self.work / "prepared", Statistic.of_length(self.task.length_tokens)
        return lookup_step(shared / LOOKUP, shared / STORE, self.task, self.backbone, statistic, self.reporter)

    def budget_us(self, method: str, share: str) -> float:
        """What a model of a cell may take; ``InputError`` where none meets that, or looking up leaves none of it."""
        (budget_us,) = self.run(method, share).budgets_us(self.prepared.measured)
        return budget_us

    def left_out(self, method: str, share: str) -> str | None:
        """Why a cell cannot be searched for, if it cannot."""
        try:
            self.budget_us(method, share)
        except InputError as error:
            return str(error)
        return None

    def cell(self, method: str, share: str) -> dict[str, Any]:
        """Search, fine-tune, choose on validation rows; done once."""
        run, budget_us = self.run(method, share), self.budget_us(method, share)
        self.reporter.say(f"{method}, {share} of the dense latency ({budget_us:.0f} us), seed {self.seed}")

        def build(target: Path) -> dict[str, Any]:
            run.folder.mkdir(parents=True, exist_ok=True)
            prepared = replace(self.prepared, measured=self.anchored(run, budget_us))
            found = self.explored(run, prepared, budget_us, method)
            searched = time.perf_counter()
            finalists = run.best_of(prepared, found, budget_us, method)
            return {
                "winner": asdict(finalists[0]),
                "finalists": [asdict(one) for one in finalists],
                "evaluations": len(found),
                "finalist_seconds": time.perf_counter() - searched,
            }

        inputs = {"settings": run.settings.model_dump_json(), "budget_us": budget_us}
        return run_step(self.folder(method, share), inputs, build)

    def anchored(self, run: Run, budget_us: float) -> Measured:
        """The table at a budget; measured once per space and budget, so that methods share it."""
        space = run.settings.space
        anchor = anchor_at(
            self.work / f"anchor-{space}-{budget_us:.0f}",
            self.prepared.measured,
            self.backbone,
            space_of(self.backbone.widths, run.settings),
            self.preparation,
            budget_us=budget_us,
            reporter=self.reporter,
        )
        return replace(self.prepared.measured, anchors=(anchor,))

    def folder(self, method: str, share: str) -> Path:
        """Where a finished cell is kept."""
        return self.work / f"cell-{self.run(method, share).folder.name}"

    def explored(self, run: Run, prepared: Prepared, budget_us: float, method: str) -> list[Evaluated]:
        """What a method evaluated. One sweep of all uniform genomes, within the largest budget, serves all budgets."""
        if method == "best uniform" and not self.sweeps_all:
            with fitness_pool(prepared, run.settings) as pool:
                return sweep_uniform(
                    run.folder, prepared, run.settings, (budget_us,), pool=pool, reporter=self.reporter
                )
        if method == "best uniform":
            swept = self.swept()
            latency_us = prepared.measured.predict_many([one.genome for one in swept])
            found = [replace(one, latency_us=float(us)) for one, us in zip(swept, latency_us, strict=True)]
            return [one for one in found if one.latency_us <= budget_us]
        with fitness_pool(prepared, run.settings) as pool:
            return explore(run.folder, prepared, run.settings, (budget_us,), pool=pool, reporter=self.reporter)[1]

    def swept(self) -> list[Evaluated]:
        """Every uniform genome within the largest budget."""
        if self._swept is not None:
            return self._swept
        largest = "best uniform", self.largest
        run, budget_us = self.run(*largest), self.budget_us(*largest)
        with fitness_pool(self.prepared, run.settings) as pool:
            self._swept = sweep_uniform(
                run.folder, self.prepared, run.settings, (budget_us,), pool=pool, reporter=self.reporter
            )
        return self._swept

    def rows(self, cells: list[Cell]) -> list[dict[str, Any]]:
        """Every cell with its test quality and its latency, measured together with all others."""
        found = {cell: self.cell(*cell) for cell in cells}
        folders = {cell: self.run(*cell).folder / FINALISTS / found[cell]["winner"]["genome"] for cell in cells}
        latency = self.measured_together([self.work / "prepared" / "dense", *folders.values()])
        dense_us = latency[0].median_us
        rows: list[dict[str, Any]] = [
            {
                "cell": "dense teacher",
                "valid_auc": self.prepared.teacher_quality,
                "test_auc": self.tested(self.prepared.teacher)[0],
                "median_us": dense_us,
                "p95_us": latency[0].p95_us,
            }
        ]
        for cell, stats in zip(cells, latency[1:], strict=True):
            method, share = cell
            result = found[cell]
            auc, *draws = self.tested(load_ranker(folders[cell]))
            budget_us = self.budget_us(*cell)
            slower = dense_us / self.prepared.measured.dense_us  # now than when budgets were set
            rows.append(
                {
                    "cell": method,
                    "budget": share,
                    "budget_us": budget_us,
                    "test_auc": auc,
                    "valid_auc": result["winner"]["valid_quality"],
                    "supernet_auc": result["winner"]["supernet_quality"],
                    "predicted_us": result["winner"]["predicted_us"],
                    "measured_us": result["winner"]["measured_us"],
                    "remeasured_us": stats.median_us,
                    "remeasured_p95_us": stats.p95_us,
                    "speed_up": (dense_us + self.lookup_us) / (stats.median_us + self.lookup_us),
                    "share_of_budget": stats.median_us / (slower * budget_us),
                    "parameters": result["winner"]["parameters"],
                    "genome": result["winner"]["genome"],
                    "evaluations": result["evaluations"],
                    "finalist_seconds": result["finalist_seconds"],
                    **({"lookup_us": self.lookup_us} if self.lookup_us else {}),
                    **self.costs(cell),
                    "auc_draws": draws,
                }
            )
        return rows

    def costs(self, cell: Cell) -> dict[str, float]:
        """Seconds of a search, from its study; the sweep over all uniform genomes is that of the largest budget."""
        run = self.run(*cell)
        if cell[0] == "best uniform":
            swept = self.run("best uniform", self.largest) if self.sweeps_all else run
            study = open_study(swept.folder / STUDY_FILE, name="uniform")
        else:
            study = open_study(run.folder / STUDY_FILE, name="search")
        found = costs(run.shared, run.table_folder, [], study, None)
        return {name: found[name] for name in ("seconds_per_evaluation", "forward_share_of_actor_time")}

    def measured_together(self, folders: list[Path]) -> list[LatencyStats]:
        """Wall-clock latency of exports in turn, the quieter half of the rounds."""
        serving = runtime(self.preparation.runtime, threads=self.preparation.threads)
        if not folders[0].exists():
            from sparsefront.search.export import export_model

            folders[0].mkdir()
            export_model(folders[0], self.prepared.teacher, self.backbone.tokenizer, features=self.task.features)
        length = self.task.length_tokens
        sessions = [serving.load_export(folder) for folder in folders]
        return measure_sessions(sessions, statistic=Statistic.of_length(length), visits=40)

    def tested(self, model: CrossEncoder) -> list[float]:
        """AUC on the test rows, then on draws of them."""
        rows = self.prepared.rows["test"]
        logits = score_rows(model, rows, precision="fp32")
        return [round(quality("auc", rows.positive, rows.target, logits), 6), *auc_draws(rows, logits)]


def differences(rows: list[dict[str, Any]], rivals: Iterable[str] = RIVALS) -> list[dict[str, Any]]:
    """Searched joint minus each rival in test AUC, mean over their common seeds, per budget and over all budgets.

    The standard error is that of the draw of test rows: a paired bootstrap over rows, which rows of one query make a
    little too small.
    """
    auc = {
        (row["cell"], row["budget"], row["seed"]): np.array([row["test_auc"], *row["auc_draws"]])
        for row in rows
        if "auc_draws" in row
    }
    found = []
    for rival in rivals:
        per_share = {}
        for share in dict.fromkeys(at for _, at, _ in auc):
            of = {seed for name, at, seed in auc if (name, at) == (rival, share)}
            seeds = sorted(seed for seed in of if (OURS, share, seed) in auc)
            if seeds:
                gains = [auc[OURS, share, seed] - auc[rival, share, seed] for seed in seeds]
                per_share[share] = (seeds, np.mean(gains, axis=0))
        if per_share:
            every = sorted({seed for seeds, _ in per_share.values() for seed in seeds})
            per_share["all"] = (every, np.mean([gain for _, gain in per_share.values()], axis=0))
        for share, (seeds, gain) in per_share.items():
            row = {"cell": "searched joint minus rival", "rival": rival, "at": share, "seeds": seeds}
            found.append({**row, "test_auc": float(gain[0]), "standard_error": float(gain[1:].std())})
    return found
