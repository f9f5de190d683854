"""Training: the teacher, the elastic supernet, and the finalists, through one loop.

One loop rather than ``transformers.Trainer``: a step here may run several genomes on one batch, batches are filled by
tokens rather than rows, and the Trainer's checkpoints are pickles. A training that is kept (``Checkpoints``) goes on
after an interruption as if there had been none, to the last bit where the machine computes the same twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor, nn

from sparsefront.models.batching import Precision, TensorBatch, autocast, best_device, pad_to, to_tensors
from sparsefront.models.checkpoint import Checkpoints, Position, identity_of, restore, save
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_model import FeatureModel
from sparsefront.models.gated_encoding import Gates
from sparsefront.models.loss import label_loss
from sparsefront.models.rank_distillation import RankTeacher
from sparsefront.models.rows import Batch, TokenRows
from sparsefront.models.spans import ends_of
from sparsefront.models.state_distillation import StateTeacher
from sparsefront.spaces import Genome

Progress = Callable[[int, int], None]
GenomeSource = Callable[[np.random.Generator], Sequence[Genome]]


@dataclass(frozen=True)
class TrainOptions:
    """How to train.

    Attributes:
        epochs: passes over the rows; a fraction is allowed.
        learning_rate: peak of a linear schedule with warm-up.
        tokens_per_batch: padded tokens in one batch.
        warmup_share: share of the steps spent warming up.
        weight_decay: AdamW's, on matrices only.
        freeze_embeddings: leave the embedding tables as they are (they are half of a small model's parameters).
        dropout: of the sub-layers' outputs; the configuration's by default. A model that learns from a teacher's
            probabilities needs none.
        distil_share: weight of the teacher's probabilities in the target; the rest is the label.
        precision: ``auto`` takes bf16 autocast where the hardware is fast at it.
        seed: of the row order, dropout and sampled genomes.
    """

    epochs: float = 1.0
    learning_rate: float = 5e-5
    tokens_per_batch: int = 1024
    warmup_share: float = 0.1
    weight_decay: float = 0.01
    freeze_embeddings: bool = False
    dropout: float | None = None
    distil_share: float = 0.0
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.epochs > 0 and math.isfinite(self.epochs)):
            raise ValueError(f"epochs must be positive, got {self.epochs}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if not 0 <= self.warmup_share < 1:
            raise ValueError(f"warmup_share must be between 0 and 1, got {self.warmup_share}")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be between 0 and 1, got {self.dropout}")
        if not 0 <= self.distil_share <= 1:
            raise ValueError(f"distil_share must be between 0 and 1, got {self.distil_share}")


@dataclass(frozen=True)
class TrainReport:
    """What a training run did.

    Attributes:
        steps: of the optimiser, those before an interruption included.
        final_loss: mean over the last tenth of them.
        share: of the training that was done: below 1 when it was ended early.
    """

    steps: int
    final_loss: float
    share: float = 1.0


def train(
    model: CrossEncoder | FeatureModel,
    rows: TokenRows,
    options: TrainOptions,
    *,
    teacher_logits: NDArray[np.float32] | None = None,
    genomes: GenomeSource | None = None,
    gates: Gates | None = None,
    ranking: RankTeacher | None = None,
    states: StateTeacher | None = None,
    rates: Mapping[str, float] | None = None,
    progress: Progress | None = None,
    checkpoints: Checkpoints | None = None,
) -> TrainReport:
    """Train a model in place.

    Args:
        model: dense, slim or supernet.
        rows: training rows.
        options: see :class:`TrainOptions`.
        teacher_logits: logits of the frozen teacher, of the rows' ``logits_shape``; needed when ``distil_share`` is
            positive.
        genomes: draws the genomes that one step runs (elastic training), from nothing but the generator it is given;
            the model's own genome by default.
        gates: drop tokens by another rule than a genome's schedule; their own parameters are not trained here.
        ranking: from which early layers learn which tokens matter; none by default.
        states: what the head shall read of each row; nothing in particular by default.
        rates: factor of the learning rate by the first part of a parameter's name (``encoder``, ``head``, ``branch``);
            1 by default, and at 0 a part stays as it is, without dropout.
        progress: called with (tokens seen, tokens in all).
        checkpoints: where and when to keep the training; it goes on from the checkpoint that is there. The model must
            then be the one that it began with.

    Raises:
        InputError: if the checkpoint is damaged or of another training.
        ValueError: if there are no rows, or distillation is asked for without teacher logits, or what a teacher says
            or the model does not fit the rows.
        FloatingPointError: if the loss stops being finite.
    """
    if not len(rows):
        raise ValueError("rows must not be empty, got none")
    if options.distil_share and teacher_logits is None:
        raise ValueError("distil_share is positive, but there are no teacher logits")
    if teacher_logits is not None and teacher_logits.shape != rows.logits_shape:
        raise ValueError(f"teacher_logits must be of shape {rows.logits_shape}, got {teacher_logits.shape}")
    if model.config.per_token != rows.spans:
        raise ValueError("rows with spans need a model whose head reads every token, and only those do")
    if not rows.spans and model.config.outputs != max(1, rows.classes):
        raise ValueError(f"rows of {rows.classes} classes do not fit a model of {model.config.outputs} outputs")
    _check_teachers(model, rows, ranking, states, genomes)
    if rates and not all(rate >= 0 and math.isfinite(rate) for rate in rates.values()):
        raise ValueError(f"rates must be at least 0 and finite, got {dict(rates)}")
    if rates and (unknown := set(rates) - {name for name, _ in model.named_children()}):
        raise ValueError(f"rates are of parts that the model does not have: {', '.join(sorted(unknown))}")
    if gates is not None and checkpoints is not None:
        raise ValueError("a training with gates cannot be kept: a checkpoint would not know them")
    target = torch.from_numpy(mix_targets(rows.target, teacher_logits, options.distil_share))
    device = best_device()
    model.to(device)
    lesson = _Lesson(model, options, target, _weights_of(rows), genomes, gates, ranking, states, dict(rates or {}))
    with _training(lesson):
        position, losses = _fit(lesson, rows, progress, checkpoints)
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainReport(steps=len(losses), final_loss=float(np.mean(tail)), share=position.share)


def _check_teachers(
    model: CrossEncoder | FeatureModel,
    rows: TokenRows,
    ranking: RankTeacher | None,
    states: StateTeacher | None,
    genomes: GenomeSource | None,
) -> None:
    """Refuse teachers of other rows, or of what the model does not have."""
    if ranking is not None and not np.array_equal(ranking.offsets, rows.offsets):
        raise ValueError("ranking must be of the rows that are trained on, got one of others")
    if isinstance(model, FeatureModel):
        if ranking is not None or genomes is not None or states is not None:
            raise ValueError("a model of features ranks no tokens, and has no genomes and no teacher's states")
    elif ranking is not None and max(ranking.layers) >= len(model.genome) - 1:
        raise ValueError(f"ranking teaches layers {ranking.layers}, but only those before the last rank tokens")
    elif states is not None and model.config.per_token:
        raise ValueError("a head that reads every token has no one state to learn")
    elif states is not None and states.states.shape != (len(rows), model.config.head_inputs):
        shape = (len(rows), model.config.head_inputs)
        raise ValueError(f"states must be those of the rows that are trained on, {shape}, got {states.states.shape}")


@dataclass(frozen=True)
class _Lesson:
    """What is learnt by whom, apart from the order of the rows."""

    model: CrossEncoder | FeatureModel
    options: TrainOptions
    target: Tensor
    weight: Tensor | None
    genomes: GenomeSource | None
    gates: Gates | None
    ranking: RankTeacher | None
    states: StateTeacher | None
    rates: dict[str, float]


def _weights_of(rows: TokenRows) -> Tensor | None:
    """``(rows,)`` of mean 1; ``None`` where all rows count alike."""
    if rows.weight is None:
        return None
    mean = float(rows.weight.mean(dtype=np.float64))
    if not mean > 0:
        raise ValueError("the weights of the rows must not all be 0")
    return torch.from_numpy((rows.weight / mean).astype(np.float32))


@contextmanager
def _training(lesson: _Lesson) -> Iterator[None]:
    """The model in training mode, with the options' dropout and frozen parameters; undone also after an error."""
    model = lesson.model
    model.train()
    if isinstance(model, CrossEncoder):
        model.encoder.embeddings.requires_grad_(not lesson.options.freeze_embeddings)
    for name, part in model.named_children():
        if lesson.rates.get(name) == 0:
            part.eval().requires_grad_(False)
    _set_dropout(model, lesson.options.dropout)
    try:
        yield
    finally:
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        _set_dropout(model, None)
        model.eval()


def _fit(
    lesson: _Lesson, rows: TokenRows, progress: Progress | None, checkpoints: Checkpoints | None
) -> tuple[Position, list[float]]:
    """Where the training ended, and the loss of every step."""
    model, options = lesson.model, lesson.options
    device = next(model.parameters()).device
    multiple = pad_to(device, options.precision)
    total = max(1, round(options.epochs * int(rows.lengths.sum())))
    identity = {}
    if checkpoints is not None:
        more = {} if lesson.ranking is None else {"ranking": lesson.ranking.identity}
        more |= {} if lesson.states is None else {"states": lesson.states.identity}
        more |= {"rates": lesson.rates} if lesson.rates else {}
        identity = identity_of(model, rows, lesson.target, {**vars(options), **more, "pad_to": multiple})
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    optimizer = _optimizer(lesson)
    at, losses = Position(), list[float]()
    if checkpoints is not None and checkpoints.path.exists():
        at, losses = restore(checkpoints.path, identity, model=model, optimizer=optimizer, rng=rng)
        if progress is not None:
            progress(min(at.tokens, total), total)
        passed = [share for share in checkpoints.shares if share <= at.share]
        if passed and not checkpoints.reached(passed[-1]):
            return at, losses
    batches = _batches_from(rows, options, at, multiple)
    while at.tokens < total:
        epoch, number, batch = next(batches)
        _set_rate(optimizer, options, at.tokens / total)
        drawn = lesson.genomes(rng) if lesson.genomes is not None else (None,)
        losses.append(_step(lesson, to_tensors(batch, device), drawn, optimizer))
        seen = at.tokens + int(batch.attention_mask.sum())
        before, at = at, Position(min(1.0, seen / total), epoch, number + 1, seen)
        if progress is not None:
            progress(min(seen, total), total)
        passed = [] if checkpoints is None else [one for one in checkpoints.shares if before.share < one <= at.share]
        if checkpoints is not None and passed:
            save(checkpoints.path, identity, at, model=model, optimizer=optimizer, rng=rng, losses=losses)
            if not all(checkpoints.reached(share) for share in passed):
                break
    return at, losses


def _batches_from(
    rows: TokenRows, options: TrainOptions, at: Position, multiple: int
) -> Iterator[tuple[int, int, Batch]]:
    """Epoch, number in it and batch, padded to a multiple, from a position on, without end."""
    epoch, done = at.epoch, at.batch
    while True:
        batches = rows.batches(
            tokens_per_batch=options.tokens_per_batch,
            shuffle_seed=options.seed * 1000 + epoch,
            pad_to_multiple_of=multiple,
        )
        yield from ((epoch, number, batch) for number, batch in enumerate(batches) if number >= done)
        epoch, done = epoch + 1, 0


def mix_targets(
    target: NDArray[np.float32], teacher_logits: NDArray[np.float32] | None, distil_share: float
) -> NDArray[np.float32]:
    """Label and teacher's probability mixed; the loss to the mixture is the mixture of both losses.

    Args:
        target: ``(rows,)`` in [0, 1], or the index of the class or of the span.
        teacher_logits: ``(rows,)``, or ``(rows, classes)``, or ``(rows, tokens, 2)`` of spans.
        distil_share: weight of the teacher.

    Returns:
        ``(rows,)`` as the target is; probabilities in the shape of the logits where a teacher of classes or of spans
        has weight.
    """
    if teacher_logits is None or distil_share == 0:
        return target.astype(np.float32)
    if teacher_logits.ndim > 1:
        mixed = distil_share * softmax(teacher_logits.astype(np.float64), axis=1)
        every = np.arange(len(target))
        if teacher_logits.ndim == 2:
            mixed[every, target.astype(np.int64)] += 1.0 - distil_share
        else:
            for end, token in enumerate(ends_of(target)):
                mixed[every, token, end] += 1.0 - distil_share
        return np.asarray(mixed, np.float32)
    probability = np.exp(-np.logaddexp(0.0, -teacher_logits.astype(np.float64)))
    return (distil_share * probability + (1.0 - distil_share) * target).astype(np.float32)


def _step(
    lesson: _Lesson, batch: TensorBatch, genomes: Sequence[Genome | None], optimizer: torch.optim.Optimizer
) -> float:
    """One optimiser step; the gradients of all genomes add up, as the sandwich rule has it (arXiv 1903.05134)."""
    model, options, ranking = lesson.model, lesson.options, lesson.ranking
    device, index = batch.input_ids.device, batch.index.cpu()
    target = lesson.target[index].to(device)
    weight = None if lesson.weight is None else lesson.weight[index].to(device)
    optimizer.zero_grad(set_to_none=True)
    loss_sum = 0.0
    for genome in genomes:
        with autocast(device, options.precision):
            scoring = () if ranking is None else ranking.layers
            encoded = model.encode(batch, genome=genome, gates=lesson.gates, score_layers=scoring)
        loss = label_loss(model.logits_of(encoded), target, weight=weight)
        if ranking is not None:
            loss = loss + ranking.loss(batch, encoded)
        if lesson.states is not None:
            loss = loss + lesson.states.loss(index, model.read(encoded))
        loss = loss / len(genomes)
        loss.backward()
        loss_sum += loss.item()
    if not math.isfinite(loss_sum):
        raise FloatingPointError(f"the training loss became {loss_sum} at learning rate {options.learning_rate}")
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss_sum


def _set_dropout(model: CrossEncoder | FeatureModel, probability: float | None) -> None:
    """Set every dropout's probability; ``None`` is the configuration's own."""
    own: float = model.config.hidden_dropout_prob
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = own if probability is None else probability


def _optimizer(lesson: _Lesson) -> torch.optim.Optimizer:
    """AdamW, matrices and the rest apart, and parts whose rate differs; each group knows its factor."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in lesson.model.named_parameters():
        if parameter.requires_grad and parameter.numel():
            rate = lesson.rates.get(name.partition(".")[0], 1.0)
            groups.setdefault((rate, parameter.ndim > 1), []).append(parameter)
    decay = lesson.options.weight_decay
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], not group[0][1]))
    return torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": decay if matrices else 0.0, "factor": rate}
            for (rate, matrices), parameters in ordered
        ],
        lr=lesson.options.learning_rate,
        fused=True,
    )


def _set_rate(optimizer: torch.optim.Optimizer, options: TrainOptions, done_share: float) -> None:
    """Linear warm-up, then linear decay to zero, by share of tokens seen."""
    warmup = options.warmup_share
    factor = done_share / warmup if done_share < warmup else (1.0 - done_share) / (1.0 - warmup)
    for group in optimizer.param_groups:
        group["lr"] = options.learning_rate * group["factor"] * max(factor, 0.02)
