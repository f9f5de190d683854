"""FineTuning: the training of one genome as it stands in a run folder, and the function that does it in a worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.checkpoint import QUARTERS, Checkpoints, done_share
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.ranker import ranker_from
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task_file import Metric
from sparsefront.models.training import Progress, TrainOptions, train
from sparsefront.search.fitness import FitnessData
from sparsefront.search.steps import read_json, write_json
from sparsefront.spaces import Genome, InputError, RunFailed

TRAINING, CHECKPOINT, RUNGS, DRIVER = "training", "checkpoint.safetensors", "rungs.json", "driver.json"
RUNG_SHARES = (0.25, 0.5)
"""Shares of the training after which the poorer ones are stopped; checkpoints are written at every quarter."""
GENOME, SHARE, RUNG, QUALITY, FAILED, BAD_INPUT = "genome", "share", "rung", "quality", "failed", "bad_input"
_TELL_SECONDS = 2.0


@dataclass(frozen=True)
class Rungs:
    """What is known of a genome at the rungs of its training.

    Attributes:
        quality: share of the training -> quality on all validation rows then.
        lost: contests in which it was stopped because others were better.
    """

    quality: dict[float, float]
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stopped:
    """A genome whose fine-tuning was stopped early: the share of it that was done, and the quality by then."""

    genome: str
    share: float
    quality: float


class FineTuning:
    """The fine-tuning of one genome, kept in a folder of its own from which it goes on.

    Args:
        run: folder of the run.
        genome: which.
    """

    def __init__(self, run: Path, genome: Genome) -> None:
        self.genome = genome
        self.folder = run.resolve() / TRAINING / genome.key()
        self.checkpoint = self.folder / CHECKPOINT

    def train(
        self,
        supernet: CrossEncoder,
        rows: TokenRows,
        options: TrainOptions,
        *,
        teacher_logits: NDArray[np.float32],
        progress: Progress,
        reached: Callable[[CrossEncoder, float], None] | None = None,
    ) -> CrossEncoder:
        """The slim model trained to its end, from the beginning or from its checkpoint.

        Args:
            supernet: where it is taken from.
            rows: training rows.
            options: how to train.
            teacher_logits: ``(rows,)`` or ``(rows, classes)``.
            progress: called with (tokens seen, tokens in all).
            reached: called with the model at every quarter of the training.
        """
        model = supernet.slim(self.genome)

        def go_on(share: float) -> bool:
            if reached is not None:
                reached(model, share)
            return True

        checkpoints = Checkpoints(self.checkpoint, QUARTERS, go_on)
        train(model, rows, options, teacher_logits=teacher_logits, progress=progress, checkpoints=checkpoints)
        return model

    @property
    def done(self) -> bool:
        """Whether its last checkpoint has the whole training behind it; ``InputError`` where it is damaged."""
        return done_share(self.checkpoint) == 1.0

    @property
    def rungs(self) -> Rungs:
        """What is known of it so far; ``InputError`` where the file is damaged."""
        path = self.folder / RUNGS
        if not path.exists():
            return Rungs({})
        values = read_json(path)
        try:
            return Rungs({float(share): float(one) for share, one in values["quality"].items()}, tuple(values["lost"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: damaged: {error!r}; remove it to compare anew") from error

    def note(self, rungs: Rungs) -> None:
        """Keep what is known of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / RUNGS, asdict(rungs))

    def stopped_in(self, contests: set[str]) -> Stopped | None:
        """How far it came, if it was stopped in all of these contests."""
        rungs = self.rungs
        if not contests or not contests <= set(rungs.lost):
            return None
        share = max(rungs.quality)
        return Stopped(self.genome.key(), share, rungs.quality[share])


def all_stopped(contests: Mapping[str, Sequence[FineTuning]]) -> list[Stopped]:
    """Those that were stopped in every contest that they are in."""
    every = {one.genome.key(): one for tunings in contests.values() for one in tunings}
    found = []
    for key, one in every.items():
        names = {name for name, tunings in contests.items() if any(key == other.genome.key() for other in tunings)}
        if (stopped := one.stopped_in(names)) is not None:
            found.append(stopped)
    return found


def open_tunings(
    contests: Mapping[str, Sequence[FineTuning]], made: Collection[str]
) -> tuple[dict[str, FineTuning], list[str]]:
    """All by genome, and the genomes of those that are neither done nor stopped, nor ``made`` of an earlier one.

    Raises:
        InputError: a checkpoint is damaged.
    """
    every = {one.genome.key(): one for tunings in contests.values() for one in tunings}
    over = {*made, *(one.genome for one in all_stopped(contests)), *(key for key, one in every.items() if one.done)}
    return every, [key for key in every if key not in over]


def at_rungs(
    tuning: FineTuning, rows: TokenRows, metric: Metric, told: Callable[[float, float], None]
) -> Callable[[CrossEncoder, float], None]:
    """What :meth:`FineTuning.train` calls on its way: tells the share and the quality on these rows at every rung."""

    def reached(model: CrossEncoder, share: float) -> None:
        if share in RUNG_SHARES:
            found = tuning.rungs.quality.get(share)  # of an earlier experiment
            if found is None:
                found = quality(metric, rows.positive, rows.target, score_rows(model, rows))
            told(share, found)

    return reached


def why_failed(error: Exception) -> str:
    """One line."""
    line = str(error) if isinstance(error, (InputError, RunFailed)) else f"{type(error).__name__}: {error}"
    return " ".join(line.split())


@dataclass(frozen=True)
class TrialData:
    """All that a worker needs besides the genome, as flat arrays: put once in the object store, read by every worker.

    Attributes:
        supernet: with the validation rows.
        rows: training rows, as :meth:`TokenRows.to_arrays` gives them.
        teacher_logits: ``(training rows,)`` or ``(training rows, classes)``.
        options: how to train.
        run: folder of the run.
        driver: what the driver has written there, to be found by the worker.
        threads: torch threads of a worker.
    """

    supernet: FitnessData
    rows: dict[str, NDArray[Any]]
    teacher_logits: NDArray[np.float32]
    options: TrainOptions
    run: str
    driver: str
    threads: int


def run_trial(config: dict[str, Any], data: TrialData) -> None:
    """One genome's fine-tuning in a worker of Ray Tune, which may end it whenever it is told of a quality.

    What fails here would fail again, so it is told rather than raised; only a worker that dies is tried again.
    """
    from ray import tune

    torch.set_num_threads(data.threads)  # Ray sets OMP_NUM_THREADS once per process, whatever a trial is given
    try:
        _train(FineTuning(Path(data.run), Genome.parse(config[GENOME])), data)
    except Exception as error:
        tune.report({FAILED: why_failed(error), BAD_INPUT: isinstance(error, InputError)})


def _train(tuning: FineTuning, data: TrialData) -> None:
    from ray import tune

    check_driver(Path(data.run), data.driver)
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= _TELL_SECONDS:
            tune.report({SHARE: done / total})
            told = time.monotonic()

    def at_rung(share: float, found: float) -> None:
        tune.report({SHARE: share, RUNG: share, QUALITY: found})  # does not return to a trial that is stopped

    tuning.train(
        supernet_of(data.supernet),
        TokenRows.from_arrays(data.rows),
        data.options,
        teacher_logits=data.teacher_logits,
        progress=progress,
        reached=at_rungs(tuning, TokenRows.from_arrays(data.supernet.rows), data.supernet.metric, at_rung),
    )


def supernet_of(data: FitnessData) -> CrossEncoder:
    """The supernet over the arrays themselves, to take a slim model from."""
    with torch.device("meta"):
        supernet = ranker_from(data.config)
    supernet.load_state_dict({name: torch.from_numpy(array) for name, array in data.weights.items()}, assign=True)
    return supernet


def write_driver(run: Path, driver: str) -> None:
    """Leave a word for the workers."""
    (run / TRAINING).mkdir(parents=True, exist_ok=True)
    write_json(run / TRAINING / DRIVER, {"driver": driver})


def check_driver(run: Path, driver: str) -> None:
    """Refuse to work where the driver's word is not found: checkpoints would be lost there."""
    path = run / TRAINING / DRIVER
    if not path.exists() or read_json(path) != {"driver": driver}:
        raise InputError(
            f"{run}: machine {socket.gethostname()} of the cluster does not see this run folder; choose an --out on "
            "storage that all its machines share"
        )


def forget_checkpoints(run: Path) -> None:
    """Remove the checkpoints of a run that needs them no more; what is known at the rungs stays."""
    for path in (run / TRAINING).glob(f"*/*{CHECKPOINT}*"):
        path.unlink(missing_ok=True)
