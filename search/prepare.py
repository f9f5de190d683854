"""Prepared: the latency table, the teacher and the supernet of a task, each a step with a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsefront.latency.drift import Reference, measure_session
from sparsefront.latency.meter import with_few_words
from sparsefront.latency.profile import profile
from sparsefront.latency.runtime import Runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.table import LatencyTable
from sparsefront.models.backbone import Backbone
from sparsefront.models.bahe import Bahe
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder_folder import save_encoder
from sparsefront.models.importance import UnitOrder, fisher_importance
from sparsefront.models.joint_training import train_jointly
from sparsefront.models.metrics import quality
from sparsefront.models.rank_distillation import RankTeacher, layers_to_teach, teacher_token_scores
from sparsefront.models.ranker import load_ranker, ranker_of
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import train
from sparsefront.search.curriculum import Curriculum
from sparsefront.search.progress import Reporter
from sparsefront.search.report import task_line
from sparsefront.search.rows import ENCODER, STORE, rows_of
from sparsefront.search.settings import PrepareSettings
from sparsefront.search.steps import run_step
from sparsefront.spaces import Genome, InputError, SearchSpace

TABLES, DENSE = "latency", "dense"


@dataclass(frozen=True)
class Anchor:
    """What is known of a latency budget (:mod:`sparsefront.search.anchor`).

    Attributes:
        budget_us: the budget.
        table: refitted to models of about that cost.
        reference: one of them, that is run beside whatever is measured for this budget.
        reference_us: its usual value.
    """

    budget_us: float
    table: LatencyTable
    reference: Genome
    reference_us: float


@dataclass(frozen=True)
class Measured:
    """The latency side: what the dense model takes, and what the table predicts for any genome.

    Attributes:
        table: as profiled, for models of any size.
        statistic: what a latency means here: which calls, and what of their time.
        dense_us: latency of the dense model, measured.
        dense_p95_us: its 95th percentile.
        anchors: per budget, the smallest first; none before they are measured.
    """

    table: LatencyTable
    statistic: Statistic
    dense_us: float
    dense_p95_us: float
    anchors: tuple[Anchor, ...] = ()

    def predict_many(self, genomes: Sequence[Genome]) -> NDArray[np.float64]:
        """Microseconds of the genomes, as right as can be around the budgets: ``(genomes,)``.

        Between two budgets the words of their tables are mixed, by the logarithm of what the table as profiled says.
        """
        if not self.anchors:
            return self.predict_roughly(genomes)
        words = np.stack([self.statistic.predict_many(one.table, genomes) for one in self.anchors])
        if len(words) == 1:
            return np.asarray(words[0], np.float64)
        budgets_us = [one.budget_us for one in self.anchors]
        place = np.interp(np.log(self.predict_roughly(genomes)), np.log(budgets_us), np.arange(len(words)))
        below = np.minimum(place.astype(np.int64), len(words) - 2)
        share, every = place - below, np.arange(len(genomes))
        return np.asarray((1 - share) * words[below, every] + share * words[below + 1, every], np.float64)

    def at(self, budget_us: float) -> Measured:
        """The same for one of the budgets."""
        return replace(self, anchors=tuple(one for one in self.anchors if one.budget_us == budget_us))

    def predict_roughly(self, genomes: Sequence[Genome]) -> NDArray[np.float64]:
        """The same for models of any size, by the table as it was profiled: ``(genomes,)``."""
        return self.statistic.predict_many(self.table, genomes)

    def reference_in(self, serving: Runtime, backbone: Backbone) -> Reference:
        """What is run beside whatever is measured: the reference of the only budget, else the dense model."""
        config, usual_us = with_few_words(backbone.config), self.dense_us
        if len(self.anchors) == 1:
            config, usual_us = config.with_genome(self.anchors[0].reference), self.anchors[0].reference_us
        return Reference(serving.load(config), statistic=self.statistic, usual_us=usual_us)


@dataclass(frozen=True)
class Prepared:
    """All that a search needs of a task, a backbone and a machine.

    Attributes:
        measured: latency table and the dense model's latency.
        supernet: elastically trained, units in order of importance.
        order: importances of heads and FFN units.
        teacher: the dense fine-tuned model.
        teacher_logits: its logits, of the training rows' ``logits_shape``.
        teacher_quality: on all validation rows.
        rows: tokenised rows per split.
        task: where they come from.
        backbone: what was fine-tuned, for a head of the task's classes.
        settings: how.
    """

    measured: Measured
    supernet: CrossEncoder
    order: UnitOrder
    teacher: CrossEncoder
    teacher_logits: NDArray[np.float32]
    teacher_quality: float
    rows: dict[str, TokenRows]
    task: Task
    backbone: Backbone
    settings: PrepareSettings

    def at(self, budget_us: float) -> Prepared:
        """The same, with the latency side of one of the budgets."""
        return replace(self, measured=self.measured.at(budget_us))


def check_length(backbone: Backbone, length_tokens: int) -> None:
    """Refuse rows that are longer than the backbone's positions."""
    upper = backbone.config.max_position_embeddings
    if not 3 <= length_tokens <= upper:
        raise InputError(f"max_length must be between 3 and {upper} for backbone {backbone.name}, got {length_tokens}")


def measure(
    folder: Path,
    own_folder: Path,
    backbone: Backbone,
    length_tokens: int,
    statistic: Statistic,
    settings: PrepareSettings,
    reporter: Reporter,
) -> Measured:
    """Step 1: profile the serving runtime for rows up to a length, and measure the dense model itself.

    The table stands in ``folder`` beside those of other runtimes, precisions, threads and batches, and serves any
    statistic of its batch; the dense model's latency, in ``own_folder``, is of one statistic.
    """
    serving = settings.serving()
    expected = serving.fingerprint(length_tokens=length_tokens, batch=statistic.batch)
    path = folder / TABLES / settings.table_name
    check_length(backbone, length_tokens)
    inputs = {
        "backbone": backbone.fingerprint,
        "runtime": settings.runtime,
        "threads": settings.threads,
        "precision": settings.precision,
        "shapes": settings.shapes,
        "length_tokens": length_tokens,
        "batch": statistic.batch,
        **({"features": backbone.branch} if backbone.branch else {}),
        "effort": settings.effort,
        **({"outputs": backbone.config.outputs} if backbone.config.outputs > 1 else {}),
        **({"per_token": True} if backbone.config.per_token else {}),
        **({"histories": backbone.config.histories} if backbone.below else {}),
        **({"layers": backbone.config.num_hidden_layers} if backbone.below else {}),
    }

    def build(target: Path) -> dict[str, Any]:
        with reporter.step("measuring latency blocks") as advance:
            table = profile(
                backbone.config,
                runtime=serving,
                length_tokens=length_tokens,
                batch=statistic.batch,
                effort=settings.effort,
                seed=settings.seed,
                progress=advance,
                say=reporter.say,
                log=path.with_name(f".{path.name}.passes.jsonl"),
            )
        table.save(target / "table")
        return {}

    def build_dense(_: Path) -> dict[str, Any]:
        dense = measure_session(serving.load(backbone.config), statistic=statistic)
        return {"dense_us": statistic.value_us(dense), "dense_p95_us": dense.p95_us}

    run_step(path, inputs, build)
    table = LatencyTable.load(path / "table", expect=expected)
    result = run_step(own_folder / DENSE, {**inputs, "statistic": statistic.to_json()}, build_dense)
    return Measured(table, statistic, float(result["dense_us"]), float(result["dense_p95_us"]))


def prepare(
    folder: Path,
    task: Task,
    backbone: Backbone,
    settings: PrepareSettings,
    *,
    measured: Measured,
    focus_us: tuple[float, ...],
    preset: str = "joint",
    store: Path | None = None,
    reporter: Reporter,
) -> Prepared:
    """Steps 2 and 3: the teacher with its unit order, then the supernet trained around ``focus_us``.

    The supernet sees genomes of the space ``preset``: of all three fields, or with all heads and units. Vectors of
    behaviours, where a task has some, are kept in ``store``, a folder of the run by default.
    """
    rows = rows_of(task, backbone, store or folder / STORE, reporter)
    reporter.say(task_line(task.report()))
    for line in task.warnings:
        reporter.say(line)
    identity: dict[str, Any] = {"task": task.fingerprint, "backbone": backbone.fingerprint, "seed": settings.seed}
    identity |= {"features": backbone.branch} if backbone.branch else {}
    identity |= {"behaviours": backbone.below.fingerprint} if backbone.below else {}
    if backbone.below and settings.rank_weight:
        raise InputError(f"rank weight: must be 0 where a task has histories, got {settings.rank_weight:g}")
    teacher_inputs = {**identity, "options": vars(settings.teacher), "importance_rows": settings.importance_rows}
    if backbone.config.features and not backbone.below:
        teacher_inputs["joint"] = asdict(settings.joint)
    teacher_result = _trained(
        folder / "teacher",
        teacher_inputs,
        lambda target, checkpoints: _build_teacher(target, task, backbone, rows, settings, reporter, checkpoints),
    )
    if backbone.below is not None:
        _kept_encoder(folder / ENCODER, backbone.below)
    teacher = load_ranker(folder / "teacher")
    order = UnitOrder.load(str(folder / "teacher" / "order.safetensors"))
    logits = _load_logits(folder / "teacher" / "logits.safetensors", rows["train"])
    elastic_inputs = {
        **identity,
        "options": vars(settings.elastic),
        "genomes_per_step": settings.genomes_per_step,
        "focus_shares": [round(budget / measured.dense_us, 2) for budget in focus_us],
        **({} if preset == "joint" else {"space": preset}),
        **({"rank_weight": settings.rank_weight} if settings.rank_weight else {}),
    }

    def build_supernet(target: Path, checkpoints: Checkpoints) -> dict[str, Any]:
        space = SearchSpace.preset(preset, widths=backbone.widths)
        curriculum = Curriculum(
            space,
            measured.predict_roughly,
            focus_us=focus_us,
            per_step=settings.genomes_per_step,
            seed=settings.seed,
        )
        supernet = ranker_of(backbone.config)
        supernet.load_state_dict(teacher.state_dict())
        order.apply(supernet)
        ranking = _ranking(teacher, rows["train"], settings, reporter) if settings.rank_weight else None
        with reporter.step("training the supernet") as advance:
            report = train(
                supernet,
                rows["train"],
                settings.elastic,
                teacher_logits=logits,
                genomes=curriculum,
                ranking=ranking,
                progress=advance,
                checkpoints=checkpoints,
            )
        supernet.cpu().save_pretrained(target)
        return {"steps": report.steps, "final_loss": report.final_loss}

    # Budgets within a hundredth of the dense latency of each other share a supernet; the table's noise is no larger.
    _trained(folder / "supernet", elastic_inputs, build_supernet)
    supernet = load_ranker(folder / "supernet")
    return Prepared(
        measured=measured,
        supernet=supernet,
        order=order,
        teacher=teacher,
        teacher_logits=logits,
        teacher_quality=float(teacher_result["valid_quality"]),
        rows=rows,
        task=task,
        backbone=backbone,
        settings=settings,
    )


def _kept_encoder(folder: Path, below: BehaviourEncoder) -> None:
    """What makes vectors of new texts, for exports."""

    def build(target: Path) -> dict[str, Any]:
        save_encoder(below, target)
        return {}

    run_step(folder, {"behaviours": below.fingerprint}, build)


def _trained(
    folder: Path, inputs: dict[str, Any], build: Callable[[Path, Checkpoints], dict[str, Any]]
) -> dict[str, Any]:
    """The result of a step that trains; what an interruption leaves of it, the same step goes on from.

    The checkpoint stands beside the folder under a name of its inputs: a checkpoint knows nothing of the genomes that
    a supernet is trained on, and must not serve one that is trained around other budgets.
    """
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:12]
    checkpoints = Checkpoints(folder.with_name(f".{folder.name}-{digest}.training.safetensors"))
    result = run_step(folder, inputs, lambda target: build(target, checkpoints))
    for left in folder.parent.glob(f".{folder.name}-*.training*.safetensors"):
        left.unlink(missing_ok=True)
    return result


def _build_teacher(
    target: Path,
    task: Task,
    backbone: Backbone,
    rows: dict[str, TokenRows],
    settings: PrepareSettings,
    reporter: Reporter,
    checkpoints: Checkpoints,
) -> dict[str, Any]:
    teacher = backbone.cross_encoder(seed=settings.seed)
    with reporter.step("fine-tuning the teacher") as advance:
        rates = teacher.fresh_rates if isinstance(teacher, Bahe) else None
        report = train(teacher, rows["train"], settings.teacher, rates=rates, progress=advance, checkpoints=checkpoints)
    if isinstance(backbone.config, Bert4CtrConfig) and not backbone.below:
        teacher = Bert4Ctr.of(teacher, backbone.config, seed=settings.seed)
        with reporter.step("joining text and features") as advance:
            report = train_jointly(teacher, rows["train"], settings.joint, progress=advance, checkpoints=checkpoints)
    with reporter.step("teacher's scores") as advance:
        logits = score_rows(teacher, rows["train"], progress=advance)
    save_file({"logits": logits}, target / "logits.safetensors")
    with reporter.step("importance of units") as advance:
        sample = rows["train"].stratified(settings.importance_rows, settings.seed)
        order = fisher_importance(teacher, sample, progress=advance)
    order.save(str(target / "order.safetensors"))
    valid = rows["valid"]
    valid_quality = quality(task.spec.metric, valid.positive, valid.target, score_rows(teacher, valid))
    teacher.cpu().save_pretrained(target)
    return {"valid_quality": valid_quality, "steps": report.steps, "final_loss": report.final_loss}


def _ranking(teacher: CrossEncoder, rows: TokenRows, settings: PrepareSettings, reporter: Reporter) -> RankTeacher:
    """What the teacher's last layer attends to in every training row."""
    with reporter.step("teacher's ranking of tokens") as advance:
        scores = teacher_token_scores(teacher, rows, progress=advance)
    layers = layers_to_teach(len(teacher.genome))
    return RankTeacher(scores, rows.offsets, layers=layers, weight=settings.rank_weight)


def _load_logits(path: Path, rows: TokenRows) -> NDArray[np.float32]:
    try:
        logits: NDArray[np.float32] = load_file(path)["logits"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path}: damaged or truncated: {error}") from error
    if logits.shape != rows.logits_shape:
        raise InputError(f"{path}: expected logits of shape {rows.logits_shape}, got {logits.shape}")
    return logits
