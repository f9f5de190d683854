"""Latency of one model, with a reference beside it that tells a slow model from a slow minute of the machine."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from sparsefront.latency.runtimes import Session, feeds_of_length
from sparsefront.latency.timing import LatencyStats, time_interleaved

PAUSE_SECONDS = 0.5


@dataclass(frozen=True)
class Reading:
    """Latency as it is now, nothing taken off, and the reference's median in the same rounds."""

    stats: LatencyStats
    reference_us: float

    def as_usual(self, usual_us: float) -> float:
        """The median in microseconds that the machine would show when the reference takes ``usual_us``."""
        return self.stats.median_us * usual_us / self.reference_us


class Reference:
    """A model of about the budget's size that is run in turn with whatever is measured.

    Args:
        session: the reference.
        length_tokens: tokens of the one row in every call, unpadded.
        usual_us: its usual median, in microseconds: a median of readings, since the least of many noisy ones would make
            every other look slow.
        patience_seconds: how long :meth:`read_within` may wait for the machine, over all its calls.
    """

    def __init__(
        self, session: Session, *, length_tokens: int, usual_us: float = math.inf, patience_seconds: float = 15.0
    ) -> None:
        self._session, self._length_tokens = session, length_tokens
        self.usual_us, self.patience_seconds = usual_us, patience_seconds

    def read(self, session: Session, *, rounds: int = 30, repeats: int = 20) -> Reading:
        """Latency of single calls of ``session`` beside the reference; the quieter half of the rounds counts."""
        stats, reference = measure_sessions(
            [session, self._session],
            length_tokens=self._length_tokens,
            rounds=rounds,
            repeats=[repeats, max(2, repeats // 4)],
        )
        return Reading(stats, reference.median_us)

    def read_within(self, session: Session, limit_us: float, *, rounds: int = 30) -> LatencyStats:
        """Latency of ``session``; taken again while it is over the limit only because the machine is slow.

        That is so when it would be within the limit if the reference took its usual time. Nothing is taken off: where
        the machine stays slow, the fastest measurement is returned as it is.
        """
        started, waited = time.monotonic(), 0.0
        reading = self.read(session, rounds=rounds)
        best = reading.stats
        while reading.as_usual(self.usual_us) <= limit_us < best.median_us:
            waited = time.monotonic() - started
            if waited >= self.patience_seconds:
                break
            time.sleep(PAUSE_SECONDS)
            reading = self.read(session, rounds=rounds)
            best = min(best, reading.stats, key=lambda one: one.median_us)
        self.patience_seconds = max(0.0, self.patience_seconds - waited)
        return best


def measure_sessions(
    sessions: list[Session], *, length_tokens: int, rounds: int, repeats: list[int]
) -> list[LatencyStats]:
    """Wall-clock latency of single calls, batch 1, taken in turn; the quieter half of each session's rounds counts."""
    feeds = [feeds_of_length(length_tokens)] * len(sessions)
    calls = time_interleaved(sessions, feeds, rounds=rounds, repeats=repeats, warmup=2)
    stats = []
    for one in calls:
        by_round = one.reshape(rounds, -1)
        quiet = np.argsort(np.median(by_round, axis=1))[: max(1, rounds // 2)]
        stats.append(LatencyStats.of(by_round[quiet].ravel()))
    return stats


def measure_session(session: Session, *, length_tokens: int, rounds: int = 30, repeats: int = 20) -> LatencyStats:
    """Wall-clock latency of single calls at batch 1 and full length, unpadded.

    Other work on the machine only ever adds time, so the rounds are ordered by their medians and the quieter half of
    them makes the statistic.
    """
    return measure_sessions([session], length_tokens=length_tokens, rounds=rounds, repeats=[repeats])[0]
