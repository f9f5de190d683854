"""Latency of one model, with a reference beside it that tells a slow model from a slow minute of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from sparsefront.latency.runtime import Session
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.timing import LatencyStats, time_interleaved

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """Latency as it is now, nothing taken off, and the reference's median in the same rounds.

    Attributes:
        stats: the whole distribution.
        value_us: what of it the budget is compared with.
        reference_us: median of the reference.
    """

    stats: LatencyStats
    value_us: float
    reference_us: float

    def as_usual(self, usual_us: float) -> float:
        """The value in microseconds that the machine would show when the reference takes ``usual_us``."""
        return self.value_us * usual_us / self.reference_us


class Reference:
    """A model of about the budget's size that is run in turn with whatever is measured.

    Args:
        session: the reference.
        statistic: which calls are made and what of their time counts.
        usual_us: its usual median, in microseconds: a median of readings, since the least of many noisy ones would make
            every other look slow.
        patience_seconds: how long :meth:`read_within` may wait for the machine, over all its calls.
    """

    def __init__(
        self, session: Session, *, statistic: Statistic, usual_us: float = math.inf, patience_seconds: float = 15.0
    ) -> None:
        self._session, self._statistic = session, statistic
        self.usual_us, self.patience_seconds = usual_us, patience_seconds

    def read(self, session: Session, *, rounds: int = 30, repeats: int = 20) -> Reading:
        """Latency of single calls of ``session`` beside the reference."""
        stats, reference = measure_sessions(
            [session, self._session],
            statistic=self._statistic,
            rounds=rounds,
            repeats=[repeats, max(2, repeats // 4)],
        )
        return Reading(stats, self._statistic.value_us(stats), reference.median_us)

    def read_within(self, session: Session, limit_us: float, *, rounds: int = 30) -> Reading:
        """Latency of ``session``; taken again while it is over the limit only because the machine is slow.

        That is so when it would be within the limit if the reference took its usual time. Nothing is taken off: where
        the machine stays slow, the fastest measurement is returned as it is.
        """
        started, waited = time.monotonic(), 0.0
        reading = best = self.read(session, rounds=rounds)
        while reading.as_usual(self.usual_us) <= limit_us < best.value_us:
            waited = time.monotonic() - started
            if waited >= self.patience_seconds:
                break
            time.sleep(PAUSE_SECONDS)
            reading = self.read(session, rounds=rounds)
            best = min(best, reading, key=lambda one: one.value_us)
        self.patience_seconds = max(0.0, self.patience_seconds - waited)
        return best


def measure_sessions(
    sessions: list[Session], *, statistic: Statistic, rounds: int, repeats: list[int]
) -> list[LatencyStats]:
    """Wall-clock latency of single calls, taken in turn.

    Other work on the machine only ever adds time, so for a median the rounds of each session and length are ordered by
    their medians and the quieter half of them counts. Higher percentiles are about the other half: all rounds count.
    """
    each = len(statistic.lengths)
    calls = time_interleaved(
        [session for session in sessions for _ in range(each)],
        statistic.feeds() * len(sessions),
        rounds=rounds,
        repeats=[max(2, round(count / each)) for count in repeats for _ in range(each)],
        warmup=2,
    )
    counted = [_quiet(one.reshape(rounds, -1)) if statistic.percentile == 50 else one for one in calls]
    return [statistic.summary(counted[at * each : (at + 1) * each]) for at in range(len(sessions))]


def measure_session(session: Session, *, statistic: Statistic, rounds: int = 30, repeats: int = 20) -> LatencyStats:
    """Wall-clock latency of single calls of one session; see :func:`measure_sessions`."""
    return measure_sessions([session], statistic=statistic, rounds=rounds, repeats=[repeats])[0]


def _quiet(by_round: np.ndarray) -> np.ndarray:
    """The calls (rounds, repeats) of the quieter half of the rounds, flat."""
    quiet = np.argsort(np.median(by_round, axis=1))[: max(1, len(by_round) // 2)]
    return np.asarray(by_round[quiet].ravel())
