"""Run: the folder of a search and the steps in it. The same call continues an interrupted one."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sparsefront import __version__
from sparsefront.models.backbone import Backbone, load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.search.budget import budget_of, check_budget, check_one_budget
from sparsefront.search.explore import STUDY_FILE, explore, fitness_pool, space_of, sweep_uniform
from sparsefront.search.export import publish
from sparsefront.search.finalists import Finalist, finish, screen
from sparsefront.search.front import Evaluated, evaluated_of, front
from sparsefront.search.prepare import Measured, Prepared, measure, prepare
from sparsefront.search.progress import Reporter, Silent
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.search.steps import read_json, read_record, write_json
from sparsefront.search.studies import open_study
from sparsefront.search.versions import versions
from sparsefront.spaces import Genome, InputError

BUILTIN_TASK = "builtin"
RUN, RESULT, LOCK, FINALISTS = "run.json", "result.json", ".lock", "finalists"
MAY_CHANGE = ("evaluations", "workers", "finalists", "uniform")


@dataclass(frozen=True)
class RunResult:
    """What a run found; ``values`` is ``result.json``, ``winner_folder`` a complete export of the winner."""

    values: dict[str, Any]
    winner_folder: Path

    @property
    def winner(self) -> dict[str, Any]:
        """Genome, qualities, latencies and size of the winner."""
        row: dict[str, Any] = self.values["winner"]
        return row

    @property
    def front(self) -> list[dict[str, Any]]:
        """The non-dominated evaluations, best quality first."""
        rows: list[dict[str, Any]] = self.values["front"]
        return rows


class Run:
    """A search for one task, backbone and budget, in one folder.

    ``run.json`` says what it is; ``latency/``, ``teacher/`` and ``supernet/`` are the prepared steps (in ``shared``
    when several runs use the same); ``study.db`` is the Optuna study; ``finalists/`` has a complete export per
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
        task_source: str = BUILTIN_TASK,
        reporter: Reporter | None = None,
    ) -> None:
        check_one_budget(settings)
        self.folder = folder
        self.task = task
        self.backbone = backbone
        self.settings = settings
        self.preparation = preparation or PrepareSettings()
        self.shared = shared or folder
        self.task_source = task_source
        self.reporter = reporter or Silent()

    @classmethod
    def reopen(cls, folder: Path, *, reporter: Reporter | None = None) -> Run:
        """The run of a folder, with the task, backbone and settings it was made with."""
        if not folder.is_dir():
            raise InputError(f"{folder}: no such run folder")
        record = read_json(folder / "run.json")
        try:
            source = record["task"]["source"]
            task = Task.builtin() if source == BUILTIN_TASK else Task.from_file(source)
            run = cls(
                folder,
                task=task,
                backbone=load_backbone(record["backbone"]["name"]),
                settings=SearchSettings.model_validate_json(record["search"]),
                preparation=PrepareSettings.model_validate_json(record["prepare"]),
                shared=Path(record["shared"]),
                task_source=source,
                reporter=reporter,
            )
        except (KeyError, TypeError) as error:
            raise InputError(f"{folder / 'run.json'}: key {error} is missing or of the wrong type") from error
        run.check_same(record)
        return run

    def check_same(self, record: dict[str, Any]) -> None:
        """Refuse a folder that belongs to another task, backbone or search."""
        path = self.folder / "run.json"
        for noun, own in (("task", self.task.fingerprint), ("backbone", self.backbone.fingerprint)):
            if record[noun]["fingerprint"] != own:
                raise InputError(
                    f"{path}: this run folder belongs to another {noun} "
                    f"({record[noun]['name']}, not {self._names()[noun]}); choose another --out"
                )
        old = SearchSettings.model_validate_json(record["search"]).model_dump()
        for key, value in self.settings.model_dump().items():
            if key not in MAY_CHANGE and old[key] != value:
                raise InputError(
                    f"{path}: this run was made with {key}={old[key]}, asked {value}; choose another --out"
                )

    def execute(self) -> RunResult:
        """Every step that is not done yet, in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._sign()
            walls: dict[str, float] = {}
            with _timed(walls, "profile"):
                measured = self.measure()
            budget_us = self.budget_us(measured)
            with _timed(walls, "prepare"):
                prepared = self.prepare(measured)
            with fitness_pool(prepared, self.settings) as pool:
                with _timed(walls, "search"):
                    report, found = explore(
                        self.folder, prepared, self.settings, budget_us, pool=pool, reporter=self.reporter
                    )
                uniform: list[Evaluated] = []
                if self.settings.uniform != "none":
                    with _timed(walls, "uniform"):
                        uniform = sweep_uniform(
                            self.folder, prepared, self.settings, budget_us, pool=pool, reporter=self.reporter
                        )
            with _timed(walls, "finalists"):
                result = self._finalise(prepared, budget_us, found, uniform)
            result |= {"search": asdict(report), "wall_seconds": walls}
            write_json(self.folder / RESULT, result)
            return self.result()

    def measure(self) -> Measured:
        """The latency table and the dense model's latency."""
        length = self.task.spec.max_length
        return measure(self.shared, self.backbone, length, self.preparation, self.reporter)

    def budget_us(self, measured: Measured) -> float:
        """The budget, checked against what the dense and the smallest model take."""
        budget_us = budget_of(self.settings, measured.dense_us)
        smallest = space_of(self.backbone.widths, self.settings).smallest
        check_budget(
            budget_us,
            dense_us=measured.dense_us,
            smallest=smallest,
            smallest_us=measured.table.predict(smallest),
        )
        return budget_us

    def prepare(self, measured: Measured) -> Prepared:
        """Teacher, unit order and supernet."""
        shares = self.preparation.focus_shares or (self.budget_us(measured) / measured.dense_us,)
        return prepare(
            self.shared,
            self.task,
            self.backbone,
            self.preparation,
            measured=measured,
            focus_us=tuple(share * measured.dense_us for share in shares),
            reporter=self.reporter,
        )

    def finish(self, prepared: Prepared, one: Evaluated, title: str) -> Finalist:
        """Fine-tune, export and measure one genome; done once per genome and seed."""
        return finish(
            self.folder / FINALISTS / one.genome.key(),
            one.genome,
            prepared,
            replace(self.settings.finetune, seed=self.settings.seed),
            supernet_quality=one.quality,
            reporter=self.reporter,
            title=title,
        )

    def best_of(
        self, prepared: Prepared, candidates: Sequence[Evaluated], budget_us: float, title: str
    ) -> list[Finalist]:
        """Fine-tuned candidates, best on validation rows first, those measured over the budget last."""
        wanted = self.settings.finalists
        chosen = screen(candidates, prepared, budget_us=budget_us, wanted=wanted, reporter=self.reporter)
        finalists = [
            self.finish(prepared, one, f"{title} {number} of {len(chosen)}") for number, one in enumerate(chosen, 1)
        ]
        return sorted(finalists, key=lambda one: (one.measured_us <= budget_us, one.valid_quality), reverse=True)

    def result(self) -> RunResult:
        """The finished run's result; ``InputError`` when it is not finished."""
        values = read_json(self.folder / RESULT)
        return RunResult(values, self.folder / FINALISTS / values["winner"]["genome"])

    def evaluated(self) -> list[Evaluated]:
        """What the search has evaluated so far, also while it is running."""
        return evaluated_in(self.folder)

    def export(self, out: Path, *, genome: Genome | None = None, overwrite: bool = False) -> dict[str, Any]:
        """Write the winner, or any evaluated genome (fine-tuned first if it is not), as an export.

        Returns:
            What ``sparse_config.json`` says.

        Raises:
            InputError: the run is not finished, or it has not evaluated that genome.
        """
        result = self.result().values
        known = {row["genome"]: row for row in (*result["finalists"], result["winner"])}
        key = result["winner"]["genome"] if genome is None else genome.key()
        row = known.get(key) or self._finish_late(key)
        source = self.folder / FINALISTS / key
        tested = result["winner"]["test_quality"] if key == result["winner"]["genome"] else None
        chosen = Genome.parse(key)
        sparse_config = {
            **row,
            "heads": list(chosen.column("heads")),
            "ffn_units": list(chosen.column("ffn_units")),
            "keep_percent": list(chosen.column("keep_percent")),
            "test_quality": tested,
            "budget_us": result["budget_us"],
            "metric": result["metric"],
            "task": read_json(self.folder / RUN)["task"],
            "backbone": result["backbone"],
            "fingerprint": result["fingerprint"],
            "versions": result["versions"],
        }
        publish(source, out, sparse_config, overwrite=overwrite)
        return sparse_config

    def _finish_late(self, key: str) -> dict[str, Any]:
        """Make a finalist of a genome that the search has evaluated but not chosen."""
        evaluated = {one.genome.key(): one for one in self.evaluated()}
        if key not in evaluated:
            raise InputError(f"--genome {key}: not among the {len(evaluated)} genomes that {self.folder} has evaluated")
        with self._locked():
            prepared = self.prepare(self.measure())
            return asdict(self.finish(prepared, evaluated[key], "fine-tuning"))

    def _finalise(
        self, prepared: Prepared, budget_us: float, found: list[Evaluated], uniform: list[Evaluated]
    ) -> dict[str, Any]:
        finalists = self.best_of(prepared, by_quality(found), budget_us, "finalist")
        winner = finalists[0]
        if winner.measured_us > budget_us:
            raise InputError(
                f"no finalist was measured within {budget_us:.0f} us (the best took {winner.measured_us:.0f} us): "
                f"is the machine busy? remove {self.folder / FINALISTS} and run the same command"
            )
        dense = Finalist(
            genome=prepared.teacher.genome.key(),
            supernet_quality=prepared.teacher_quality,
            valid_quality=prepared.teacher_quality,
            predicted_us=prepared.measured.table.predict(prepared.teacher.genome),
            measured_us=prepared.measured.dense_us,
            measured_p95_us=prepared.measured.dense_p95_us,
            parameters=sum(parameter.numel() for parameter in prepared.teacher.parameters()),
        )
        rows = {"dense": self._tested(prepared, dense, prepared.teacher), "winner": self._tested(prepared, winner)}
        if uniform:
            best = self.best_of(prepared, by_quality(uniform), budget_us, "best uniform")
            rows["uniform"] = self._tested(prepared, best[0])
        return {
            **rows,
            "task": self.task.report(),
            "metric": self.task.spec.metric,
            "backbone": self.backbone.name,
            "budget_us": budget_us,
            "finalists": [asdict(one) for one in finalists],
            "front": front_rows(found, budget_us),
            "fingerprint": prepared.measured.table.fingerprint.to_json(),
            "table_error": asdict(prepared.measured.table.error),
            "versions": versions(),
        }

    def _tested(self, prepared: Prepared, one: Finalist, model: CrossEncoder | None = None) -> dict[str, Any]:
        """A row of the result with its quality on the test rows: the only place that scores them."""
        model = model or CrossEncoder.from_pretrained(self.folder / FINALISTS / one.genome)
        rows = prepared.rows["test"]
        logits = score_rows(model, rows, precision="fp32")
        return {**asdict(one), "test_quality": quality(self.task.spec.metric, rows.positive, rows.target, logits)}

    def _sign(self) -> None:
        """Write what this run is, or refuse the folder of another one."""
        path = self.folder / RUN
        if path.exists():
            self.check_same(read_json(path))
        elif any(child.name != LOCK for child in self.folder.iterdir()):
            raise InputError(f"{self.folder}: is not empty and not a run folder (no {RUN}); choose another --out")
        names = self._names()
        record = {
            "sparsefront": __version__,
            "task": {
                "name": names["task"],
                "source": self.task_source,
                "fingerprint": self.task.fingerprint,
                "metric": self.task.spec.metric,
            },
            "backbone": {"name": names["backbone"], "fingerprint": self.backbone.fingerprint},
            "search": self.settings.model_dump_json(),
            "prepare": self.preparation.model_dump_json(),
            "shared": str(self.shared),
        }
        write_json(path, record)

    def _names(self) -> dict[str, str]:
        return {"task": self.task.name, "backbone": self.backbone.name}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One driver per folder: a second would evaluate and write everything twice."""
        with (self.folder / LOCK).open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"{self.folder}: another process is working in this run folder") from error
            yield


@dataclass(frozen=True)
class RunRecord:
    """What can be told of a run folder without its task's data: also of one that is still searching."""

    task_name: str
    metric: str
    budget_us: float
    evaluated: list[Evaluated]


def read_run(folder: Path) -> RunRecord:
    """The evaluations of a run and its budget; ``InputError`` when the folder is no run or has no study yet."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such run folder")
    record = read_json(folder / RUN)
    try:
        dense_us = float(read_record(Path(record["shared"]) / "latency")["result"]["dense_us"])
        budget_us = budget_of(SearchSettings.model_validate_json(record["search"]), dense_us)
        name, metric = record["task"]["name"], record["task"]["metric"]
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / RUN}: key {error} is missing or of the wrong type") from error
    return RunRecord(name, metric, budget_us, evaluated_in(folder))


def evaluated_in(folder: Path) -> list[Evaluated]:
    """The finished evaluations in a run folder's study."""
    path = folder / STUDY_FILE
    if not path.is_file():
        raise InputError(f"{path}: no study yet; run the search first")
    return list(evaluated_of(open_study(path, name="search")))


def evaluated_rows(evaluated: Sequence[Evaluated], budget_us: float) -> list[dict[str, Any]]:
    """Evaluations as JSON rows, in the order they were asked."""
    return [
        {
            "genome": one.genome.key(),
            "quality": one.quality,
            "latency_us": one.latency_us,
            "feasible": one.latency_us <= budget_us,
        }
        for one in evaluated
    ]


def by_quality(evaluated: Sequence[Evaluated]) -> list[Evaluated]:
    """Candidates for fine-tuning: the front, best quality first, then what it dominates."""
    on_front = {one.number for one in front(evaluated)}
    return sorted(evaluated, key=lambda one: (one.number in on_front, one.quality), reverse=True)


def front_rows(evaluated: Sequence[Evaluated], budget_us: float) -> list[dict[str, Any]]:
    """The front as JSON rows, best quality first."""
    return evaluated_rows(front(evaluated)[::-1], budget_us)


@contextmanager
def _timed(walls: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    walls[name] = time.perf_counter() - started
