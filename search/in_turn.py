"""Fine-tunings in this process, one after the other, of which the poorer ones are stopped early; without workers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sparsefront.models.training import TrainOptions
from sparsefront.search.fine_tuning import FineTuning, at_rungs, open_tunings, why_failed
from sparsefront.search.halving import Halving
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Advance
from sparsefront.spaces import InputError


class _StoppedEarly(Exception):
    """Others were better at a rung."""


def train_in_turn(
    contests: Mapping[str, Sequence[FineTuning]],
    *,
    made: Collection[str] = (),
    prepared: Prepared,
    options: TrainOptions,
    advance: Advance,
) -> dict[str, str]:
    """Train what is neither done nor stopped; decided as :func:`sparsefront.search.tuning.tune_all` would of one at a
    time, and taking the same arguments.

    Returns:
        Genome -> why its training failed, for those that did.

    Raises:
        InputError: a checkpoint is damaged or of another training.
    """
    every, open_ones = open_tunings(contests, made)
    halving, failed, facts = Halving(contests, open_ones), dict[str, str](), dict[str, str]()
    best = float("-inf")
    for number, key in enumerate(open_ones, len(every) - len(open_ones)):
        tuning = every[key]

        def progress(done: int, total: int, number: int = number) -> None:
            advance(round(100 * (number + done / total)), 100 * len(every), facts)

        def told(share: float, found: float, key: str = key) -> None:
            nonlocal best
            best = max(best, found)
            facts["best so far"] = f"{best:.4f}"
            if halving.stops(key, share, found):
                raise _StoppedEarly

        try:
            tuning.train(
                prepared.supernet,
                prepared.rows["train"],
                options,
                teacher_logits=prepared.teacher_logits,
                progress=progress,
                reached=at_rungs(tuning, prepared.rows["valid"], prepared.task.spec.metric, told),
            )
        except _StoppedEarly:
            continue
        except InputError:
            raise
        except Exception as error:  # what fails would fail again; the others may come to their end
            failed[key] = why_failed(error)
    return failed
