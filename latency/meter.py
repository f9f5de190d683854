"""Meter: microseconds of many models, pass by pass, with a reference that watches the machine."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefront.latency.blocks import Floats
from sparsefront.latency.runtime import Runtime, feeds_of_length
from sparsefront.latency.timing import Clock, time_interleaved
from sparsefront.spaces import Genome, InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Point = tuple[Genome, int]
_VOCABULARY = 512  # embedding rows of profiled models: their number does not change the time
# Every model is summarised by the lower quartile of its calls: close to the median on a quiet machine, and less moved
# than the median when other processes disturb a part of the calls.
QUIET_QUANTILE = 0.25
QUIET = 1.05
"""A pass is quiet when its reference takes at most this much of the best pass's."""
TOO_LOUD = 1.15
"""Where even the quietest passes differ by more, nothing can be measured."""
TRIES = 3


def with_few_words(config: CrossEncoderConfig) -> CrossEncoderConfig:
    """The same model with a small vocabulary: it loads faster and takes as long to run."""
    few: CrossEncoderConfig = type(config).from_dict(
        {**config.to_dict(), "vocab_size": min(config.vocab_size, _VOCABULARY)}
    )
    return few


class PassLog:
    """Finished passes in a file, so that an interrupted profile goes on; a pass of anything else is not read.

    One JSON line per pass. A line that was cut off by a kill is dropped.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def read(self, key: str) -> list[dict[str, Any]]:
        """The passes of a key, in their order."""
        if self.path is None or not self.path.is_file():
            return []
        found = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if isinstance(record, dict) and record.get("key") == key:
                found.append(record)
        return found

    def add(self, key: str, **record: Any) -> None:
        """Append a pass and make sure that it is on the disk."""
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"key": key, **record}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def drop(self, key: str) -> None:
        """Forget the passes of a key: they were no good."""
        if self.path is None or not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if f'"{key}"' not in line]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def remove(self) -> None:
        """Forget everything: what it was for is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Meter:
    """Times genomes at lengths, unpadded, interleaved, with random weights; a reference model watches the machine.

    Args:
        config: the dense model.
        runtime: where models are served.
        batch: rows per call.
        progress: called with (done, total) points.
        total: points that will be measured.
        say: told when the machine is under load.
        log: keeps finished passes.
    """

    def __init__(
        self,
        config: CrossEncoderConfig,
        runtime: Runtime,
        *,
        batch: int = 1,
        progress: Callable[[int, int], None] | None = None,
        total: int = 0,
        say: Callable[[str], None] | None = None,
        log: PassLog | None = None,
    ) -> None:
        self._config = with_few_words(config)
        self._runtime = runtime
        self._batch = batch
        self._progress = progress
        self._total = total
        self._done = 0.0
        self._say = say or (lambda _: None)
        self._log = log or PassLog(None)
        # One thread is the caller's own, and its time does not count what other processes take away.
        self.clock: Clock = "cpu" if runtime.threads == 1 else "wall"

    def measure(self, points: Sequence[Point], *, point_us: float, passes: int) -> tuple[Floats, float]:
        """Microseconds per point, and how far apart the reference model's counted passes were (relative).

        Passes in which the reference ran more than 5 % slower than in its best pass are done again. Of at most three
        times as many passes as asked, the quietest ones count.

        Raises:
            InputError: even those differ by more than 15 %: the machine is under load.
        """
        key = self._key(points, point_us, passes)
        done = self._log.read(key)[: TRIES * passes]
        results = [np.array(record["microseconds"], np.float64) for record in done]
        watched = [float(record["reference_us"]) for record in done]
        visit = None
        while not self._quiet_enough(watched, passes):
            if len(watched) == TRIES * passes:
                break
            if len(watched) == passes:
                self._say(
                    f"other work on the machine: the reference model took from {min(watched):.0f} to "
                    f"{max(watched):.0f} us; measuring again"
                )
            visit = visit or self._visit(points, point_us / passes)
            microseconds, reference_us = visit()
            results.append(microseconds)
            watched.append(reference_us)
            self._log.add(key, microseconds=microseconds.tolist(), reference_us=reference_us)
            self._advance(len(points) / passes if len(watched) <= passes else 0)
        self._advance(len(points) / passes * min(len(done), passes))
        best = np.argsort(watched)[:passes]
        kept = [watched[index] for index in best]
        if max(kept) > TOO_LOUD * min(kept):
            self._log.drop(key)
            raise InputError(
                f"the machine is under load: the reference model took from {min(watched):.0f} to {max(watched):.0f} us "
                f"in {len(watched)} passes; profile again when it is quiet"
            )
        return np.median([results[index] for index in best], axis=0), max(kept) / min(kept) - 1

    def _quiet_enough(self, watched: Sequence[float], passes: int) -> bool:
        return len(watched) >= passes and sum(value <= QUIET * min(watched) for value in watched) >= passes

    def _visit(self, points: Sequence[Point], point_us: float) -> Callable[[], tuple[Floats, float]]:
        """Loads the models; each call of the result is one pass: microseconds (points,) and the reference's."""
        config: Any = self._config
        sessions = {
            genome: self._runtime.load(config.with_genome(genome)) for genome in dict.fromkeys(g for g, _ in points)
        }
        timed = [sessions[genome] for genome, _ in points]
        feeds = [feeds_of_length(length, batch=self._batch) for _, length in points]
        reference = len(points) // 2
        timed.append(timed[reference])
        feeds.append(feeds[reference])
        first = time_interleaved(timed, feeds, rounds=2, clock=self.clock)
        guess = [max(float(times.min()), 1.0) for times in first]
        repeats = [int(np.clip(point_us / 2 / each, 2, 60)) for each in guess]

        def once() -> tuple[Floats, float]:
            times = time_interleaved(timed, feeds, rounds=2, repeats=repeats, clock=self.clock)
            values = np.array([np.quantile(each, QUIET_QUANTILE) for each in times])
            return values[:-1], float((values[-1] + values[reference]) / 2)

        return once

    def _key(self, points: Sequence[Point], point_us: float, passes: int) -> str:
        """Of a measurement: the machine, the model and what is measured of it."""
        longest = max(length for _, length in points)
        fingerprint = self._runtime.fingerprint(length_tokens=longest, batch=self._batch).to_json()
        named = [(genome.key(), length) for genome, length in points]
        text = json.dumps([fingerprint, self._config.to_dict(), named, point_us, passes], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _advance(self, points: float) -> None:
        self._done += points
        if self._progress is not None:
            self._progress(min(round(self._done), self._total), self._total)
