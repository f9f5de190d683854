"""Prepared: the teacher and the supernet of a task, each a step with a folder of its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sparsefront.models.backbone import Backbone
from sparsefront.models.bahe import Bahe
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.checkpoint import Checkpoints
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder_folder import save_encoder
from sparsefront.models.importance import UnitOrder, fisher_importance
from sparsefront.models.joint_training import JointOptions, train_jointly
from sparsefront.models.metrics import quality
from sparsefront.models.rank_distillation import RankTeacher, layers_to_teach, teacher_token_scores
from sparsefront.models.ranker import load_ranker, ranker_of
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import train
from sparsefront.search.curriculum import Curriculum
from sparsefront.search.measured import Measured
from sparsefront.search.progress import Reporter
from sparsefront.search.report import task_line
from sparsefront.search.rows import ENCODER, STORE, rows_of
from sparsefront.search.settings import PrepareSettings
from sparsefront.search.steps import run_step
from sparsefront.spaces import InputError, SearchSpace

TEACHER, SUPERNET = "teacher", "supernet"
LOGITS, ORDER = "logits.safetensors", "order.safetensors"
"""Of the teacher."""


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
    if backbone.below is not None and backbone.below.texts_cut:
        reporter.say(f"{backbone.below.texts_cut:,} texts were cut to {backbone.below.max_tokens} tokens")
    if backbone.below and settings.rank_weight:
        raise InputError(f"rank weight: must be 0 where a task has histories, got {settings.rank_weight:g}")
    trainings = Trainings(folder, task, backbone, settings, rows, reporter)
    teacher_quality = trainings.teach()
    if backbone.below is not None:
        _kept_encoder(folder / ENCODER, backbone.below)
    teacher = load_ranker(folder / TEACHER)
    order = UnitOrder.load(str(folder / TEACHER / ORDER))
    logits = _load_logits(folder / TEACHER / LOGITS, rows["train"])
    trainings.train_supernet(teacher, order, logits, measured, focus_us, preset)
    return Prepared(
        measured=measured,
        supernet=load_ranker(folder / SUPERNET),
        order=order,
        teacher=teacher,
        teacher_logits=logits,
        teacher_quality=teacher_quality,
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


@dataclass(frozen=True)
class Trainings:
    """The two steps that train, in a folder."""

    folder: Path
    task: Task
    backbone: Backbone
    settings: PrepareSettings
    rows: dict[str, TokenRows]
    reporter: Reporter

    @property
    def identity(self) -> dict[str, Any]:
        """What both steps depend on, beside their own options."""
        backbone = self.backbone
        return {
            "task": self.task.fingerprint,
            "backbone": backbone.fingerprint,
            "seed": self.settings.seed,
            **({"features": backbone.branch} if backbone.branch else {}),
            **({"behaviours": backbone.below.fingerprint, "centred": True} if backbone.below else {}),
        }

    def teach(self) -> float:
        """Fine-tune the teacher: its quality on all validation rows."""
        settings = self.settings
        inputs = {**self.identity, "options": vars(settings.teacher), "importance_rows": settings.importance_rows}
        if self._joint is not None:
            inputs["joint"] = asdict(self._joint)
        return float(_trained(self.folder / TEACHER, inputs, self._build_teacher)["valid_quality"])

    @property
    def _with_features(self) -> bool:
        """Whether features stand beside a text; a model of histories has them from the beginning."""
        return bool(self.backbone.config.features) and not self.backbone.below

    @property
    def _joint(self) -> JointOptions | None:
        """What follows the training of the text alone, where that comes first."""
        return self.settings.joint if self._with_features else None

    def _build_teacher(self, target: Path, checkpoints: Checkpoints) -> dict[str, Any]:
        backbone, settings, rows, step = self.backbone, self.settings, self.rows, self.reporter.step
        teacher = backbone.cross_encoder(seed=settings.seed)
        if isinstance(teacher, Bahe):
            teacher.centre(rows["train"])
        if self._with_features and self._joint is None:
            teacher = Bert4Ctr.of(teacher, backbone.config, seed=settings.seed)
        with step("fine-tuning the teacher") as advance:
            rates = teacher.fresh_rates if isinstance(teacher, Bert4Ctr) else None
            report = train(
                teacher, rows["train"], settings.teacher, rates=rates, progress=advance, checkpoints=checkpoints
            )
        if self._joint is not None:
            teacher = Bert4Ctr.of(teacher, backbone.config, seed=settings.seed)
            with step("joining text and features") as advance:
                report = train_jointly(teacher, rows["train"], self._joint, progress=advance, checkpoints=checkpoints)
        with step("teacher's scores") as advance:
            logits = score_rows(teacher, rows["train"], progress=advance)
        save_file({"logits": logits}, target / LOGITS)
        with step("importance of units") as advance:
            sample = rows["train"].stratified(settings.importance_rows, settings.seed)
            order = fisher_importance(teacher, sample, progress=advance)
        order.save(str(target / ORDER))
        valid = rows["valid"]
        valid_quality = quality(self.task.spec.metric, valid.positive, valid.target, score_rows(teacher, valid))
        teacher.cpu().save_pretrained(target)
        return {"valid_quality": valid_quality, "steps": report.steps, "final_loss": report.final_loss}

    def train_supernet(
        self,
        teacher: CrossEncoder,
        order: UnitOrder,
        logits: NDArray[np.float32],
        measured: Measured,
        focus_us: tuple[float, ...],
        preset: str,
    ) -> None:
        """Train the teacher elastically, units in their order; ``logits`` are its own of the training rows.

        Budgets within a hundredth of the dense latency of each other share a supernet: the table's noise is no larger.
        """
        settings, train_rows = self.settings, self.rows["train"]
        inputs = {
            **self.identity,
            "options": vars(settings.elastic),
            "genomes_per_step": settings.genomes_per_step,
            "focus_shares": [round(budget / measured.dense_us, 2) for budget in focus_us],
            **({} if preset == "joint" else {"space": preset}),
            **({"rank_weight": settings.rank_weight} if settings.rank_weight else {}),
        }

        def build(target: Path, checkpoints: Checkpoints) -> dict[str, Any]:
            curriculum = Curriculum(
                SearchSpace.preset(preset, widths=self.backbone.widths),
                measured.predict_roughly,
                focus_us=focus_us,
                per_step=settings.genomes_per_step,
                seed=settings.seed,
            )
            supernet = ranker_of(self.backbone.config)
            supernet.load_state_dict(teacher.state_dict())
            order.apply(supernet)
            ranking = self._ranking(teacher) if settings.rank_weight else None
            with self.reporter.step("training the supernet") as advance:
                report = train(
                    supernet,
                    train_rows,
                    settings.elastic,
                    teacher_logits=logits,
                    genomes=curriculum,
                    ranking=ranking,
                    progress=advance,
                    checkpoints=checkpoints,
                )
            supernet.cpu().save_pretrained(target)
            return {"steps": report.steps, "final_loss": report.final_loss}

        _trained(self.folder / SUPERNET, inputs, build)

    def _ranking(self, teacher: CrossEncoder) -> RankTeacher:
        """What the teacher's last layer attends to in every training row."""
        rows = self.rows["train"]
        with self.reporter.step("teacher's ranking of tokens") as advance:
            scores = teacher_token_scores(teacher, rows, progress=advance)
        layers = layers_to_teach(len(teacher.genome))
        return RankTeacher(scores, rows.offsets, layers=layers, weight=self.settings.rank_weight)


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


def _load_logits(path: Path, rows: TokenRows) -> NDArray[np.float32]:
    try:
        logits: NDArray[np.float32] = load_file(path)["logits"]
    except (SafetensorError, OSError, KeyError) as error:
        raise InputError(f"{path}: damaged or truncated: {error}") from error
    if logits.shape != rows.logits_shape:
        raise InputError(f"{path}: expected logits of shape {rows.logits_shape}, got {logits.shape}")
    return logits
