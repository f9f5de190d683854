"""What a run folder holds for people and programs: evaluations, the front, the winners, exports of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsefront.search.budget import budgets_of
from sparsefront.search.explore import STUDY_FILE
from sparsefront.search.export import check_out, publish
from sparsefront.search.front import Evaluated, evaluated_of, front
from sparsefront.search.lookup import LOOKUP
from sparsefront.search.measured import DENSE
from sparsefront.search.rows import ENCODER, STORE
from sparsefront.search.run_file import RunFile
from sparsefront.search.steps import read_json, read_record
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome, InputError

RESULT, FINALISTS = "result.json", "finalists"

FineTune = Callable[[Evaluated, float], dict[str, Any]]
"""Makes a finalist of an evaluated genome for a budget."""


@dataclass(frozen=True)
class RunResult:
    """What a run found; ``values`` is ``result.json``."""

    folder: Path
    values: dict[str, Any]

    @property
    def budgets(self) -> list[dict[str, Any]]:
        """Per budget, the smallest first: ``budget_us``, ``winner``, ``finalists`` and ``uniform`` where it was asked.

        Where no uniform genome was measured within the budget, ``uniform_refused`` says so instead. A row of a model
        has its genome, qualities, latencies and size. ``budget_us`` is what a model may take: what was asked, less
        :attr:`lookup_us`.
        """
        rows: list[dict[str, Any]] = self.values["budgets"]
        return rows

    @property
    def lookup_us(self) -> float:
        """Of what was asked, what it takes to look behaviours up before a model is called."""
        return float(self.values.get("lookup_us", 0.0))

    def at(self, budget_us: float | None = None) -> dict[str, Any]:
        """The entry of a budget, as it was asked; it need not be named where there is one only.

        Raises:
            InputError: several budgets and none named, or one that this run was not asked for.
        """
        rows = {f"{row['budget_us'] + self.lookup_us:.6g}": row for row in self.budgets}
        if budget_us is None and len(rows) == 1:
            return self.budgets[0]
        if budget_us is None or f"{budget_us:.6g}" not in rows:
            asked = "which one" if budget_us is None else f"got {budget_us:.6g}"
            raise InputError(f"{self.folder}: this run's budgets are {', '.join(rows)} us; {asked}? --budget-us N")
        return rows[f"{budget_us:.6g}"]

    @property
    def winner(self) -> dict[str, Any]:
        """The winner's row; of several budgets use :meth:`at`."""
        row: dict[str, Any] = self.at()["winner"]
        return row

    @property
    def winner_folder(self) -> Path:
        """A complete export of the winner."""
        return self.folder / FINALISTS / str(self.winner["genome"])

    @property
    def front(self) -> list[dict[str, Any]]:
        """The non-dominated evaluations, best quality first."""
        rows: list[dict[str, Any]] = self.values["front"]
        return rows


@dataclass(frozen=True)
class RunRecord:
    """What can be told of a run folder without its task's data: also of one that is still searching."""

    task_name: str
    metric: str
    budgets_us: tuple[float, ...]
    evaluated: list[Evaluated]


def read_run(folder: Path) -> RunRecord:
    """The evaluations of a run and its budgets; ``InputError`` when the folder is no run or has no study yet."""
    record = RunFile.read(folder)
    evaluated = evaluated_in(folder)
    latency = read_record(folder / DENSE)["result"]
    try:
        lookup_us = float(read_record(folder / LOOKUP)["result"]["lookup_us"]) if (folder / LOOKUP).exists() else 0.0
        budgets_us = budgets_of(record.search, float(latency["dense_us"]), lookup_us)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / DENSE}: damaged step.json: {error}") from error
    return RunRecord(record.task.name, record.task.metric, budgets_us, evaluated)


def read_result(folder: Path) -> RunResult:
    """A finished run's result; ``InputError`` when the run is not finished or the file is damaged."""
    RunFile.read(folder)
    path = folder / RESULT
    if not path.exists():
        raise InputError(f"{folder}: this run is not finished (no {RESULT}); the command that started it continues it")
    values = read_json(path)
    wanted = {"budgets", "dense", "front", "metric", "versions", "backbone", "fingerprint", "statistic"}
    missing = sorted(wanted - set(values)) if isinstance(values, dict) else sorted(wanted)
    if missing:
        raise InputError(f"{path}: damaged: key {missing[0]!r} is missing")
    return RunResult(folder, values)


def scorecards(found: RunResult) -> dict[str, dict[str, Any]]:
    """What the test rows say of the probabilities of the dense model and of each budget's winner, by its name.

    Raises:
        InputError: a task whose labels are classes or spans, or a result from before there were such scores.
    """
    rows = {"dense": found.values["dense"]}
    rows |= {f"winner at {row['budget_us']:.0f} us": row["winner"] for row in found.budgets}
    cards = {name: row.get("test_scores") or {} for name, row in rows.items()}
    if not all(cards.values()):
        raise InputError(
            f"{found.folder / RESULT}: says nothing of probabilities; expected a finished run of a task whose label is "
            "a number"
        )
    return cards


def export_run(
    folder: Path,
    out: Path,
    *,
    budget_us: float | None = None,
    genome: Genome | None = None,
    overwrite: bool = False,
    fine_tune: FineTune,
) -> dict[str, Any]:
    """Write the winner of a budget, or any evaluated genome (fine-tuned first if it is not), as an export.

    Args:
        folder: of the run.
        out: of the export.
        budget_us: needed where there are several.
        genome: the winner by default.
        overwrite: replace an export that is there.
        fine_tune: makes a finalist of a genome that is none.

    Returns:
        What ``sparse_config.json`` says.

    Raises:
        InputError: the run is not finished, it has not evaluated that genome, or the budget is not one of its own.
    """
    found = read_result(folder)
    check_out(out, overwrite=overwrite)
    entry = found.at(budget_us)
    rows = [*entry["finalists"], entry.get("uniform"), entry["winner"]]
    known = {row["genome"]: row for row in rows if row is not None}
    key = entry["winner"]["genome"] if genome is None else genome.key()
    if key not in known:
        evaluated = {one.genome.key(): one for one in evaluated_in(folder)}
        if key not in evaluated:
            raise InputError(
                f"--genome {key}: not among the {len(evaluated)} genomes that {folder} has evaluated; "
                "`sparsefront front` lists the best"
            )
        known[key] = fine_tune(evaluated[key], entry["budget_us"])
    chosen = Genome.parse(key)
    features = list(found.values.get("task", {}).get("features", ()))
    sparse_config = {
        "test_quality": None,
        **{name: value for name, value in known[key].items() if name != "test_scores"},
        "heads": list(chosen.column("heads")),
        "ffn_units": list(chosen.column("ffn_units")),
        "keep_percent": list(chosen.column("keep_percent")),
        "feature_heads": list(chosen.column("feature_heads")) if features else None,
        "features": features or None,
        "behaviours": chosen.behaviours or None,
        "budget_us": entry["budget_us"],
        "lookup_us": found.lookup_us or None,
        "metric": found.values["metric"],
        "task": RunFile.read(folder).task.model_dump(),
        "classes": found.values.get("task", {}).get("classes"),
        "spans": "answer_characters_mean" in found.values.get("task", {}),
        "backbone": found.values["backbone"],
        "statistic": found.values["statistic"],
        "fingerprint": found.values["fingerprint"],
        "versions": found.values["versions"],
    }
    prepared = RunFile.read(folder).prepared_folder(folder)
    beside = {name: prepared / name for name in (ENCODER, STORE) if (prepared / name).is_dir()}
    publish(folder / FINALISTS / key, out, sparse_config, overwrite=overwrite, beside=beside)
    return sparse_config


def export_winners(found: RunResult, fine_tune: FineTune) -> dict[str, Path]:
    """``export/`` in the run folder, or one such folder per budget; budget in microseconds -> folder."""
    folders = {}
    for row in found.budgets:
        asked_us = row["budget_us"] + found.lookup_us
        name = "export" if len(found.budgets) == 1 else f"export-{asked_us:.6g}us"
        export_run(found.folder, found.folder / name, budget_us=asked_us, overwrite=True, fine_tune=fine_tune)
        folders[f"{asked_us:.6g}"] = found.folder / name
    return folders


def evaluated_in(folder: Path) -> list[Evaluated]:
    """The finished evaluations in a run folder's study."""
    path = folder / STUDY_FILE
    if not path.is_file():
        raise InputError(f"{path}: no study yet; run the search first")
    return list(evaluated_of(open_study(path, name="search")))


def evaluated_rows(evaluated: Sequence[Evaluated], budgets_us: Sequence[float]) -> list[dict[str, Any]]:
    """Evaluations as JSON rows, in the order they were asked; ``within_us`` is the smallest budget that each keeps."""
    return [
        {
            "genome": one.genome.key(),
            "quality": one.quality,
            "latency_us": one.latency_us,
            "within_us": min((budget_us for budget_us in budgets_us if one.latency_us <= budget_us), default=None),
        }
        for one in evaluated
    ]


def front_rows(evaluated: Sequence[Evaluated], budgets_us: Sequence[float]) -> list[dict[str, Any]]:
    """The front as JSON rows, best quality first."""
    return evaluated_rows(front(evaluated)[::-1], budgets_us)
