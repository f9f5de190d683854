"""Run: the folder of a search and the steps in it. The same call continues an interrupted one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sparsefront import __version__
from sparsefront.latency.statistic import Statistic
from sparsefront.models.backbone import Backbone, load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.ranker import load_ranker
from sparsefront.models.task import Task
from sparsefront.models.token_schedule import CostOf, ScheduleOptions, check_reachable
from sparsefront.search.anchor import anchor_at
from sparsefront.search.budget import budgets_of, check_asked, feasible_budgets
from sparsefront.search.contest import Contest
from sparsefront.search.costs import costs
from sparsefront.search.ending import Ending
from sparsefront.search.explore import STUDY_FILE, explore, fitness_pool, space_of, sweep_uniform
from sparsefront.search.finalists import Finalist
from sparsefront.search.fine_tuning import forget_checkpoints
from sparsefront.search.front import Evaluated
from sparsefront.search.lookup import LOOKUP, lookup_step
from sparsefront.search.measured import TABLES, Measured, check_length, measure
from sparsefront.search.prepare import SUPERNET, Prepared, prepare
from sparsefront.search.progress import Reporter, Silent
from sparsefront.search.rows import STORE
from sparsefront.search.run_file import RUN, BackboneRef, RunFile, TaskRef, task_at
from sparsefront.search.run_result import (
    RESULT,
    RunResult,
    evaluated_in,
    export_run,
    front_rows,
    read_result,
)
from sparsefront.search.schedules import By, LearnedSchedule, adds_of_rows, learn, schedules_in
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.search.steps import difference, read_record, write_json
from sparsefront.search.studies import open_study
from sparsefront.search.versions import versions
from sparsefront.spaces import Genome, InputError

LOCK = ".lock"
HOW_TO_RUN = {"skip_infeasible", "workers", "cpus_per_worker", "most_failed_share"}
MAY_CHANGE = {"evaluations", "finalists", "uniform", *HOW_TO_RUN}


class Run:
    """A search for one task and backbone within one or several budgets, in one folder.

    ``run.json`` says what it is; ``latency/`` (a table per way of serving), ``teacher/`` and ``supernet/`` are the
    prepared steps (in ``shared`` when several runs use the same); ``study.db`` is the Optuna study; ``candidates/``
    says what was chosen of it, ``training/`` how far that is fine-tuned; ``finalists/`` has a complete export per
    finalist; ``result.json`` is written last.
    """

    def __init__(
        self,
        folder: Path,
        *,
        task: Task,
        backbone: Backbone,
        settings: SearchSettings,
        preparation: PrepareSettings | None = None,
        shared: Path | None = None,
        store: Path | None = None,
        address: str | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        check_asked(settings)
        self.store = store
        self.address = address
        self.folder = folder
        self.task = task
        self.settings = settings
        self.preparation = preparation or PrepareSettings()
        self.backbone = backbone.serving(task, self.preparation.frozen)
        self.shared = shared or folder
        self.reporter: Reporter = reporter or Silent()

    @classmethod
    def reopen(cls, folder: Path, *, reporter: Reporter | None = None) -> Run:
        """The run of a folder, with the task, backbone and settings it was made with."""
        record = RunFile.read(folder)
        run = cls(
            folder,
            task=task_at(record.task.source),
            backbone=load_backbone(record.backbone.source),
            settings=record.search,
            preparation=record.prepare,
            shared=record.prepared_folder(folder),
            store=None if record.store is None else Path(record.store),
            reporter=reporter,
        )
        run.check_same(record)
        return run

    def check_same(self, record: RunFile) -> None:
        """Refuse a folder that belongs to another task, backbone or search.

        Until the first genome is evaluated the search may still change, its budget above all; afterwards only what
        adds to it (``MAY_CHANGE``) may.
        """
        own, path = self.record(), self.folder / RUN
        for noun, was, asked in (("task", record.task, own.task), ("backbone", record.backbone, own.backbone)):
            if was.fingerprint != asked.fingerprint:
                raise InputError(
                    f"{path}: this run folder belongs to another {noun} ({was.name}, asked {asked.name}); "
                    "choose another --out"
                )
        changed = difference(record.prepare.model_dump(mode="json"), own.prepare.model_dump(mode="json"))
        if changed is None:
            changed = difference({"prepared": record.shared}, {"prepared": own.shared})
        if changed is None and (self.folder / STUDY_FILE).exists():
            was_search, asked_search = (one.search.model_dump(mode="json", exclude=MAY_CHANGE) for one in (record, own))
            changed = difference(was_search, asked_search)
        if changed is not None:
            raise InputError(f"{path}: this run {changed}; choose another --out")

    def record(self) -> RunFile:
        """What ``run.json`` says of this run."""
        source = Path(self.backbone.name).expanduser()
        name = self.backbone.name
        return RunFile(
            sparsefront=__version__,
            task=TaskRef(
                name=self.task.name,
                source=self.task.source,
                fingerprint=self.task.fingerprint,
                metric=self.task.spec.metric,
            ),
            backbone=BackboneRef(
                name=name,
                source=str(source.resolve()) if name != "minilm" and source.is_dir() else name,
                fingerprint=self.backbone.fingerprint,
            ),
            search=self.settings,
            prepare=self.preparation,
            shared=None if self.shared.resolve() == self.folder.resolve() else str(self.shared.resolve()),
            store=None if self.store is None else str(self.store.resolve()),
        )

    def execute(self) -> RunResult:
        """Every step that is not done yet, in order; a run that has its result keeps it."""
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            write_json(self.folder / RUN, self.record().model_dump(mode="json"))
            if self._is_finished():
                self.reporter.say("this run is finished; here is its result")
                return self.result()
            measured = self.measure()
            anchored = self.anchored(measured, self.budgets_us(measured))
            budgets_us = tuple(one.budget_us for one in anchored.anchors)
            prepared = self.prepare(anchored)
            with fitness_pool(prepared, self.settings, address=self.address) as pool:
                report, found = explore(
                    self.folder,
                    prepared,
                    self.settings,
                    budgets_us,
                    pool=pool,
                    reporter=self.reporter,
                    designs=[one.genome for one in schedules_in(self.shared)],
                )
                uniform: list[Evaluated] = []
                if self.settings.uniform != "none":
                    uniform = sweep_uniform(
                        self.folder, prepared, self.settings, budgets_us, pool=pool, reporter=self.reporter
                    )
            told, steps = self._ending.finalise(prepared, budgets_us, found, uniform)
            about = self._about(prepared, steps)
            front = front_rows(found, budgets_us)
            write_json(self.folder / RESULT, {**told, **about, "front": front, "search": asdict(report)})
            forget_checkpoints(self.folder)
            return self.result()

    def measure(self) -> Measured:
        """The latency table and the dense model's latency."""
        length = self.task.length_tokens
        if self.lookup_us:
            self.reporter.say(
                f"to look a call's behaviours up takes {self.lookup_us:.0f} us; models have the rest of a budget"
            )
        measured = measure(
            self.shared, self.folder, self.backbone, length, self.statistic(), self.preparation, self.reporter
        )
        if told := measured.table.interpolated_widths(space_of(self.backbone.widths, self.settings)):
            self.reporter.say(told)
        return measured

    @property
    def table_folder(self) -> Path:
        """Of the step that holds this run's latency table."""
        return self.shared / TABLES / self.preparation.table_name

    @property
    def behaviours(self) -> Path:
        """The store of this run's behaviours, where its task has some."""
        return self.store or self.shared / STORE

    @cached_property
    def lookup_us(self) -> float:
        """What it takes to look the behaviours of a call up; 0 where there are none."""
        folder, statistic = self.folder / LOOKUP, self.statistic()
        return lookup_step(folder, self.behaviours, self.task, self.backbone, statistic, self.reporter)

    def statistic(self) -> Statistic:
        """What a budget means for this task; its rows are tokenised only where their lengths matter."""
        own, longest = self.preparation, self.task.length_tokens
        if own.at_length == "max":
            return Statistic.of_length(longest, percentile=own.percentile, batch=own.batch)
        lengths = self.task.lengths(self.backbone.tokenizer)[self.task.indices("train")]
        return Statistic.of_traffic(
            lengths, at=own.at_length, longest=longest, percentile=own.percentile, batch=own.batch
        )

    def budgets_us(self, measured: Measured) -> tuple[float, ...]:
        """The budgets, checked against what the dense and the smallest model take."""
        return self._feasible(measured, budgets_of(self.settings, measured.dense_us, self.lookup_us))

    def _feasible(self, measured: Measured, budgets_us: Sequence[float]) -> tuple[float, ...]:
        smallest = space_of(self.backbone.widths, self.settings).smallest
        return feasible_budgets(
            budgets_us,
            dense_us=measured.dense_us,
            smallest=smallest,
            smallest_us=lambda budget_us: float(measured.at(budget_us).predict_many([smallest])[0]),
            skipped=self.reporter.say if self.settings.skip_infeasible else None,
        )

    def anchored(self, measured: Measured, budgets_us: Sequence[float]) -> Measured:
        """The table, right where this run's budgets are; there it may say that nothing meets one of them."""
        space = space_of(self.backbone.widths, self.settings)
        anchors = tuple(
            anchor_at(
                self.folder / f"anchor-{budget_us:.6g}us",
                measured,
                self.backbone,
                space,
                self.preparation,
                budget_us=budget_us,
                reporter=self.reporter,
            )
            for budget_us in budgets_us
        )
        kept = self._feasible(replace(measured, anchors=anchors), budgets_us)
        return replace(measured, anchors=tuple(one for one in anchors if one.budget_us in kept))

    def prepare(self, measured: Measured) -> Prepared:
        """Teacher, unit order and supernet."""
        budgets_us = budgets_of(self.settings, measured.dense_us, self.lookup_us)
        own = tuple(budget_us / measured.dense_us for budget_us in budgets_us)
        shares = self._focus_shares(own)
        return prepare(
            self.shared,
            self.task,
            self.backbone,
            self.preparation,
            measured=measured,
            focus_us=tuple(share * measured.dense_us for share in shares),
            preset="tokens" if self.settings.space == "tokens" else "joint",
            store=self.behaviours,
            reporter=self.reporter,
        )

    def learn_schedule(self, target_share: float, options: ScheduleOptions, *, by: By = "latency") -> LearnedSchedule:
        """A token schedule within a share of what the dense model costs; all heads and units stay.

        It is kept beside the supernet; a search that takes its prepared steps from there begins with it.
        """
        if self.task.histories is not None:
            raise InputError(f"{self.task.name}: schedules are learnt of words, and this task has histories")
        self.check()
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            if not (self.folder / RUN).exists():
                write_json(self.folder / RUN, self.record().model_dump(mode="json"))
            measured = self.measure()
            config = self.backbone.config
            cost_of: CostOf = measured.predict_roughly
            if by == "multiply-adds":  # the rows are tokenised for nothing else yet
                lengths = self.task.lengths(self.backbone.tokenizer)[self.task.indices("valid")]
                cost_of = adds_of_rows(lengths, config)
            check_reachable(cost_of, config.genome.keeping(), target_share)
            prepared = self.prepare(measured)
            return learn(self.shared, prepared, target_share, options, by=by, reporter=self.reporter)

    def supernet(self) -> CrossEncoder:
        """The trained supernet; ``InputError`` before it is."""
        return load_ranker(self.shared / SUPERNET)

    def _focus_shares(self, own: tuple[float, ...]) -> tuple[float, ...]:
        """Shares of the dense latency that the supernet is trained around: this run's, or those of a shared one."""
        if self.preparation.focus_shares:
            return self.preparation.focus_shares
        supernet = self.shared / SUPERNET
        if self.shared.resolve() == self.folder.resolve() or not supernet.exists():
            return own
        shares = tuple(float(share) for share in read_record(supernet)["inputs"]["focus_shares"])
        around = ", ".join(f"{share:.0%}" for share in shares)
        for share in own:
            if round(share, 2) not in shares:
                self.reporter.say(
                    f"{supernet} was trained around {around} of the dense latency, this budget is {share:.0%}: "
                    "good for a look; a run of its own may end higher"
                )
        return shares

    def best_of(
        self, prepared: Prepared, evaluated: Sequence[Evaluated], budget_us: float, title: str
    ) -> list[Finalist]:
        """Fine-tuned genomes for one budget, best on validation rows first, those measured over it last."""
        outcome = self._ending.finalists(prepared, evaluated, budget_us, title)
        forget_checkpoints(self.folder)
        return outcome.finalists

    def result(self) -> RunResult:
        """The finished run's result; ``InputError`` when it is not finished."""
        return read_result(self.folder)

    def evaluated(self) -> list[Evaluated]:
        """What the search has evaluated so far, also while it is running."""
        return evaluated_in(self.folder)

    def export(
        self,
        out: Path,
        *,
        budget_us: float | None = None,
        genome: Genome | None = None,
        overwrite: bool = False,
    ) -> dict[str, Any]:
        """Write a winner or any evaluated genome as an export; see :func:`sparsefront.search.run_result.export_run`."""
        return export_run(
            self.folder, out, budget_us=budget_us, genome=genome, overwrite=overwrite, fine_tune=self.finish_late
        )

    def finish_late(self, one: Evaluated, budget_us: float) -> dict[str, Any]:
        """Make a finalist, for one of the budgets, of a genome that the search has evaluated but not chosen."""
        with self._locked():
            measured = self.measure()
            prepared = self.prepare(self.anchored(measured, self.budgets_us(measured)))
            contest = Contest("fine-tuning", prepared.at(budget_us), budget_us, (one,))
            (outcome,) = self._ending.hold([contest])
            forget_checkpoints(self.folder)
            return asdict(outcome.finalists[0])

    @property
    def _ending(self) -> Ending:
        return Ending(self.folder, self.settings, self.address, self.reporter)

    def _about(self, prepared: Prepared, steps: set[Path]) -> dict[str, Any]:
        """What ``result.json`` says beside models: of what, how measured, and what it took."""
        studies = [open_study(self.folder / STUDY_FILE, name=name) for name in ("search", "uniform")]
        return {
            "settings": self.settings.model_dump(mode="json"),
            "task": self.task.report(),
            "metric": self.task.spec.metric,
            "backbone": self.backbone.name,
            "statistic": prepared.measured.statistic.to_json(),
            **({"lookup_us": self.lookup_us} if self.backbone.below else {}),
            "fingerprint": prepared.measured.table.fingerprint.to_json(),
            "table_error": asdict(prepared.measured.table.error),
            "versions": versions(),
            **costs(self.shared, self.table_folder, sorted(steps), *studies),
        }

    def check(self) -> None:
        """Refuse what can be refused before anything is created."""
        self.preparation.serving()
        if self.preparation.shapes == "static" and self.preparation.at_length != "max":
            raise InputError(
                f"--at-length {self.preparation.at_length}: must be max with --shapes static, "
                "which pads every row to the longest"
            )
        check_length(self.backbone, self.task.length_tokens)
        space_of(self.backbone.widths, self.settings)
        cpus, wanted = os.cpu_count() or 1, self.settings.workers * self.settings.cpus_per_worker
        if wanted > cpus and self.address is None:
            raise InputError(
                f"--workers {self.settings.workers} of {self.settings.cpus_per_worker:g} CPUs: this machine has {cpus}"
            )
        if not self.folder.exists():
            return
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: is a file; choose another --out")
        if (self.folder / RUN).exists():
            self.check_same(RunFile.read(self.folder))
        elif any(child.name != LOCK for child in self.folder.iterdir()):
            raise InputError(f"{self.folder}: is not empty and not a run folder (no {RUN}); choose another --out")

    def _is_finished(self) -> bool:
        """Whether the result stands and was made with these settings; on which machines does not matter."""
        if not (self.folder / RESULT).exists():
            return False
        was = self.result().values.get("settings", {})
        own = self.settings.model_dump(mode="json", exclude=HOW_TO_RUN)
        return difference({name: value for name, value in was.items() if name not in HOW_TO_RUN}, own) is None

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One driver per folder: a second would evaluate and write everything twice."""
        with (self.folder / LOCK).open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{self.folder}: another process is working in this run folder") from error
            yield
