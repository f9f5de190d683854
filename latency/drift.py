"""Latency of one model, with a reference beside it that tells a slow model from a slow minute of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from sparsefront.latency.runtime import Session
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.timing import LatencyStats, time_interleaved

PAUSE_SECONDS = 0.5
VISITS = 40
SECONDS = 3.0
"""Per session, after which fewer visits have to do for a median."""


@dataclass(frozen=True)
class Reading:
    """Latency as it is now, nothing taken off, and the reference's in the same rounds.

    Attributes:
        stats: the whole distribution.
        value_us: what of it the budget is compared with.
        reference_us: the same of the reference.
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
        usual_us: its usual value in that statistic, in microseconds: a median of readings, since the least of many
            noisy ones would make every other look slow.
        patience_seconds: how long :meth:`read_within` may wait for the machine, over all its calls.
    """

    def __init__(
        self, session: Session, *, statistic: Statistic, usual_us: float = math.inf, patience_seconds: float = 90.0
    ) -> None:
        self._session, self._statistic = session, statistic
        self.usual_us, self.patience_seconds = usual_us, patience_seconds

    def read(self, session: Session, *, visits: int = VISITS) -> Reading:
        """Latency of single calls of ``session`` beside the reference."""
        stats, reference = measure_sessions([session, self._session], statistic=self._statistic, visits=visits)
        return Reading(stats, self._statistic.value_us(stats), self._statistic.value_us(reference))

    def read_within(self, session: Session, limit_us: float, *, visits: int = VISITS) -> Reading:
        """Latency of ``session``; taken again while it is over the limit only because the machine is slow.

        That is so when it would be within the limit if the reference took its usual time. Nothing is taken off: where
        the machine stays slow, the fastest measurement is returned as it is.
        """
        started, waited = time.monotonic(), 0.0
        reading = best = self.read(session, visits=visits)
        while reading.as_usual(self.usual_us) <= limit_us < best.value_us:
            waited = time.monotonic() - started
            if waited >= self.patience_seconds:
                break
            time.sleep(PAUSE_SECONDS)
            reading = self.read(session, visits=visits)
            best = min(best, reading, key=lambda one: one.value_us)
        self.patience_seconds = max(0.0, self.patience_seconds - waited)
        return best


def measure_sessions(sessions: list[Session], *, statistic: Statistic, visits: int = VISITS) -> list[LatencyStats]:
    """Wall-clock latency of single warm calls, all sessions in turn: see ``time_interleaved``.

    ``visits`` are shared by the lengths of the statistic; a percentile above the median gets ten times as many,
    a median fewer where they would take more than :data:`SECONDS` a session.
    """
    each, median = len(statistic.lengths), statistic.percentile == 50
    calls = time_interleaved(
        [session for session in sessions for _ in range(each)],
        statistic.feeds() * len(sessions),
        visits=max(5, round(visits / each)) * (1 if median else 10),
        seconds=SECONDS * len(sessions) if median else math.inf,
    )
    return [statistic.summary(calls[at * each : (at + 1) * each]) for at in range(len(sessions))]


def measure_session(session: Session, *, statistic: Statistic, visits: int = VISITS) -> LatencyStats:
    """Wall-clock latency of single calls of one session; see :func:`measure_sessions`."""
    return measure_sessions([session], statistic=statistic, visits=visits)[0]
