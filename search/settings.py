"""Settings of a run, validated; what is not stated has the defaults of the command line."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sparsefront.latency.runtime import Runtime
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import AtLength
from sparsefront.latency.timing import Percentile
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.joint_training import JointOptions
from sparsefront.models.training import TrainOptions
from sparsefront.spaces import InputError
from sparsefront.spaces.space import DEFAULT_KEEP_PERCENTS

Sampler = Literal["reinforced", "random", "tpe", "nsga2"]
Space = Literal["weights", "tokens", "joint", "uniform"]
SAMPLERS = get_args(Sampler)
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Several = Annotated[tuple[Positive, ...], Field(min_length=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=False)

    @classmethod
    def check(cls, **values: Any) -> Any:
        """Settings from values, or one :class:`InputError` line for the first value that is wrong."""
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = error.errors()
            # where a field takes one value or several, both readings fail: the one that got further into it is told
            first = max(
                (one for one in wrong if one["loc"][:1] == wrong[0]["loc"][:1]), key=lambda one: len(one["loc"])
            )
            parts = [str(part) for part in first["loc"] if "[" not in str(part) and "constrained" not in str(part)]
            key = ".".join(parts) or "settings"
            raise InputError(f"{key}: {first['msg']}, got {first['input']!r}") from error


class PrepareSettings(_Settings):
    """How the latency table, the teacher and the supernet are made.

    Attributes:
        runtime: serving runtime that latency is measured in.
        threads: its threads.
        precision: numeric format it computes in.
        shapes: ``static``: compiled for rows of the longest length.
        percentile: of a call's time that a budget means.
        at_length: rows of which length: the longest, a percentile of the task's lengths, or their mean time.
        batch: rows per call.
        effort: ``quick`` measures fewer models, less often.
        focus_shares: shares of the dense latency that elastic training concentrates on, besides the run's budget.
        importance_rows: training rows for the Fisher importance.
        teacher: how the teacher is fine-tuned.
        joint: where a task has features: how a teacher of the text alone goes on, first their branch, then both. By
            default text and branch begin together.
        frozen: where a task has histories: the layers that make a vector of each text, once.
        elastic: how the supernet is trained from it.
        genomes_per_step: genomes that one step of elastic training runs.
        rank_weight: weight, in elastic training, of the order in which the teacher's last layer attends to tokens; 0:
            early layers find out by themselves.
        seed: of everything here.
    """

    runtime: str = "onnxruntime"
    threads: Count = 1
    precision: str = "fp32"
    shapes: Literal["dynamic", "static"] = "dynamic"
    percentile: Percentile = 50
    at_length: AtLength = "max"
    batch: Count = 1
    effort: Literal["quick", "normal"] = "quick"
    focus_shares: tuple[Positive, ...] = ()
    importance_rows: Count = 1024
    teacher: TrainOptions = TrainOptions(epochs=2.0, learning_rate=1.5e-4, tokens_per_batch=512)
    joint: JointOptions | None = None
    frozen: FrozenLayers = FrozenLayers()
    elastic: TrainOptions = TrainOptions(
        epochs=1.0, learning_rate=1e-4, distil_share=0.8, freeze_embeddings=True, dropout=0.0
    )
    genomes_per_step: Count = 2
    rank_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    seed: Seed = 0

    @property
    def table_name(self) -> str:
        """Folder name of the latency table for this way of serving, beside those for others."""
        shapes = "" if self.shapes == "dynamic" else f"-{self.shapes}"
        return f"{self.runtime}-{self.precision}{shapes}-threads{self.threads}-batch{self.batch}"

    def serving(self) -> Runtime:
        """The serving runtime; :class:`InputError` when this machine does not have it."""
        return runtime(self.runtime, threads=self.threads, precision=self.precision, shapes=self.shapes)


class SearchSettings(_Settings):
    """What is searched, and how.

    Attributes:
        budget_us: microseconds the served model may take, or several such budgets that one search serves; or
        budget_share: the same as shares of the dense model's measured median.
        skip_infeasible: leave out, of several budgets, those that nothing or everything meets.
        space: preset of the search space.
        head_granule: heads are offered in multiples of this.
        ffn_granule: FFN units are offered in multiples of this (``None``: 1/24 of the width).
        keep_percents: keep shares offered, in percent.
        evaluations: genomes evaluated on the supernet.
        sampler: one of ``SAMPLERS``.
        workers: parallel evaluations and fine-tunings (0: as many as there are CPUs for; one needs no Ray here).
        cpus_per_worker: CPUs, also fractions, that each is given.
        most_failed_share: of the evaluations may fail before the search ends.
        search_rows: validation rows that an evaluation scores; finalists are always judged on all of them.
        finalists: genomes of the front that are fine-tuned, the poorer half of them only in part; the others are
            measured.
        finetune: how.
        uniform: uniform genomes evaluated for comparison: ``all``, ``largest`` (those that no other within the budget
            exceeds in every field) or ``none``.
        seed: of the search and of the fine-tuning.
    """

    budget_us: Positive | Several | None = None
    budget_share: Positive | Several | None = None
    skip_infeasible: bool = False
    space: Space = "joint"
    head_granule: Count = 1
    ffn_granule: Count | None = None
    keep_percents: tuple[int, ...] = DEFAULT_KEEP_PERCENTS
    evaluations: Count = 300
    sampler: Sampler = "reinforced"
    workers: Annotated[int, Field(ge=0)] = 0
    cpus_per_worker: Positive = 1.0
    most_failed_share: Annotated[float, Field(ge=0, le=1)] = 0.2
    search_rows: Count = 2000
    finalists: Count = 4
    finetune: TrainOptions = TrainOptions(
        epochs=1.0, learning_rate=1e-4, distil_share=0.8, freeze_embeddings=True, dropout=0.0
    )
    uniform: Literal["all", "largest", "none"] = "largest"
    seed: Seed = 0
