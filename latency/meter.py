"""Meter: microseconds of many models, pass by pass, with a reference that watches the machine."""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sparsefront.latency.blocks import Floats
from sparsefront.latency.runtime import Feeds, Runtime, Session, feeds_of_length
from sparsefront.latency.timing import time_interleaved
from sparsefront.models.parameters import array_shapes
from sparsefront.spaces import Genome, InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig

Point = tuple[Genome, int]
_VOCABULARY = 512  # embedding rows of profiled models: their number does not change the time
QUARTILE = 0.25
"""Of a point's calls: what others do on the machine only ever adds time, for seconds or minutes."""
QUIET = 1.15
"""A pass is quiet when its models take at most this much of their usual time."""
NOISE_LIMIT, NOISE_LIMIT_VARIABLE = 0.3, "SPARSEFRONT_NOISE_LIMIT"
"""Where even the quietest passes take this share more than usual, a table is refused; the variable says otherwise."""
TRIES = 2
VISITS = 24
LOADS = 2
"""How often models are loaded anew: where a model's weights come to lie moves its time."""
MOST_LOADED = 600
"""Models that are loaded in all: OpenVINO leaves memory in ever more pieces, of which a process may have 65,530."""
BYTES_PER_PARAMETER = 16
"""That a loaded model takes: OpenVINO keeps its weights about three times."""
MEMORY_SHARE = 0.5
"""Of the machine's memory, that loaded models may fill; more models are measured in groups."""
COMMON = 6
"""Models that every group has, by which groups are brought to one scale."""
_VISITS_PER_PASS = 10  # enough for a median that shows how loud a pass was


def with_few_words(config: CrossEncoderConfig) -> CrossEncoderConfig:
    """The same model with a small vocabulary: it loads faster and takes as long to run."""
    few: CrossEncoderConfig = type(config).from_dict(
        {**config.to_dict(), "vocab_size": min(config.vocab_size, _VOCABULARY)}
    )
    return few


def noise_limit() -> float:
    """By how much of its usual time a pass that counts may be slower; raises ``InputError`` unless it is a number."""
    asked = os.environ.get(NOISE_LIMIT_VARIABLE, "")
    try:
        limit = float(asked) if asked else NOISE_LIMIT
    except ValueError:
        limit = math.nan
    if not limit > 0:
        raise InputError(f"${NOISE_LIMIT_VARIABLE}: expected a positive share such as {NOISE_LIMIT}, got {asked!r}")
    return limit


def physical_memory_bytes() -> int:
    """Of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


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
            stream.write("\n" + json.dumps({"key": key, **record}))  # behind whatever a kill has cut off
            stream.flush()
            os.fsync(stream.fileno())

    def drop(self, key: str) -> None:
        """Forget the passes of a key: they were no good."""
        if self.path is None or not self.path.is_file():
            return
        kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if f'"{key}"' not in line]
        self.path.write_text("\n".join(kept), encoding="utf-8")

    def remove(self) -> None:
        """Forget everything: what it was for is finished."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


class Meter:
    """Times genomes at lengths, unpadded, interleaved, with random weights, and watches the machine.

    The reference that tells a loud pass is all models together: what the middle one of them took over its usual time.

    Args:
        config: the dense model.
        runtime: where models are served.
        batch: rows per call.
        progress: called with (done, total) points.
        total: points that will be measured.
        done: points that others have measured before.
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
        done: float = 0.0,
        say: Callable[[str], None] | None = None,
        log: PassLog | None = None,
    ) -> None:
        self._config = with_few_words(config)
        self._runtime = runtime
        self._batch = batch
        self._progress = progress
        self._total = total
        self._done = done
        self._say = say or (lambda _: None)
        self._log = log or PassLog(None)

    def measure(
        self, points: Sequence[Point], *, visits: int = VISITS, seconds: float = math.inf, loads: int = LOADS
    ) -> tuple[Floats, float]:
        """Lower quartile of the calls in microseconds per point, and how much slower the slowest pass that counts was.

        Models that do not fit the memory together are measured in groups, some models in all of them. Passes in which
        the machine was more than 15 % slower than in the quieter ones are done again. Of at most twice as many passes
        as asked, the quietest ones count.

        Args:
            points: what to time.
            visits: of each point that count.
            seconds: fewer visits are made where they would take longer, at least a quarter of them.
            loads: how often the models are loaded anew in the course of it; less often if they are hundreds.

        Raises:
            InputError: even the quietest passes differ by more than :func:`noise_limit`: the machine is under load.
        """
        loads = max(1, min(loads, MOST_LOADED // len({genome for genome, _ in points})))
        groups = self._groups(points)
        if len(groups) == 1:
            return self._measured(points, visits, seconds, loads)
        per_group = [self._measured([points[at] for at in one], visits, seconds / len(groups), loads) for one in groups]
        shared = np.array([us[:COMMON] for us, _ in per_group])
        slower = np.median(shared / np.median(shared, axis=0), axis=1)
        microseconds = np.empty(len(points))
        for group, (us, _), by in zip(groups, per_group, slower, strict=True):
            microseconds[group] = us / by
        return microseconds, max(drift for _, drift in per_group)

    def _groups(self, points: Sequence[Point]) -> list[list[int]]:
        """Indices of the points per group, each within the memory and with the common ones first."""
        config: Any = self._config
        of_genome = {
            genome: sum(map(math.prod, array_shapes(config.with_genome(genome)).values()))
            for genome in {genome for genome, _ in points}
        }
        sizes = [of_genome[genome] for genome, _ in points]
        room = MEMORY_SHARE * physical_memory_bytes() / BYTES_PER_PARAMETER
        if sum(sizes) <= room:
            return [list(range(len(points)))]
        by_size = np.argsort(sizes, kind="stable")
        common = by_size[np.linspace(0, len(points) - 1, COMMON + 2)[1:-1].astype(int)].tolist()
        others = [int(at) for at in np.random.default_rng(0).permutation(len(points)) if at not in common]
        each = max(1, int((room - sum(sizes[at] for at in common)) / (sum(sizes) / len(sizes))))
        count = -(-len(others) // each)
        return [[*common, *others[number::count]] for number in range(count)]

    def _measured(self, points: Sequence[Point], visits: int, seconds: float, loads: int) -> tuple[Floats, float]:
        """Of one group."""
        key = self._key(points, visits, seconds)
        rounds = max(1, -(-_VISITS_PER_PASS // len(points)))
        made = [np.array(record["microseconds"], np.float64) for record in self._log.read(key)]
        wanted = -(-visits // rounds)
        loaded: _Loaded | None = None
        if len(made) < wanted:
            loaded = self._load(points, 0)
            affordable = np.clip(seconds / loaded.seconds_per_visit(), visits / 4, visits)
            wanted = max(1, -(-int(affordable) // rounds))
        told = False
        self._advance(len(points) * min(1, len(made) / wanted))
        while len(made) < TRIES * wanted and (loud := _loud(made, wanted)):
            if len(made) >= wanted and not told:
                self._say(f"other work on the machine: {loud} of {len(made)} passes were loud; measuring again")
                told = True
            number = len(made) * loads // wanted
            if loaded is None or loaded.number != number:
                loaded = None  # its memory goes back first
                loaded = self._load(points, number)
            made.append(np.array(time_interleaved(loaded.sessions, loaded.feeds, visits=rounds)))
            self._log.add(key, microseconds=np.round(made[-1], 2).tolist())
            self._advance(len(points) / wanted if len(made) <= wanted else 0)
        slowness = _slowness(made, wanted)
        counted = np.argsort(slowness)[:wanted]
        drift = float(slowness[counted[-1]] - 1)
        if drift > noise_limit():
            self._log.drop(key)
            raise InputError(
                f"the machine is under load: in the quietest {wanted} of {len(made)} passes its models took up to "
                f"{drift:.0%} more than usual; profile again when it is quiet, or allow more than {noise_limit():g} in "
                f"${NOISE_LIMIT_VARIABLE}"
            )
        return np.quantile(np.concatenate([made[index] for index in counted], axis=1), QUARTILE, axis=1), drift

    def _load(self, points: Sequence[Point], number: int) -> _Loaded:
        """Sessions and feeds of the points, called once, since first calls allocate."""
        config: Any = self._config
        # Memory that others have freed is filled first, so models of one kind must not be loaded one behind the other.
        genomes = list(dict.fromkeys(genome for genome, _ in points))
        order = np.random.default_rng(number).permutation(len(genomes))
        sessions = {genomes[index]: self._runtime.load(config.with_genome(genomes[index])) for index in order}
        feeds = [feeds_of_length(length, batch=self._batch) for _, length in points]
        loaded = _Loaded(number, [sessions[genome] for genome, _ in points], feeds)
        time_interleaved(loaded.sessions, feeds, visits=1)
        return loaded

    def _key(self, points: Sequence[Point], visits: int, seconds: float) -> str:
        """Of a measurement: the machine, the model and what is measured of it."""
        longest = max(length for _, length in points)
        fingerprint = self._runtime.fingerprint(length_tokens=longest, batch=self._batch).to_json()
        named = [(genome.key(), length) for genome, length in points]
        text = json.dumps([fingerprint, self._config.to_dict(), named, visits, seconds], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def _advance(self, points: float) -> None:
        self._done += points
        if self._progress is not None:
            self._progress(min(round(self._done), self._total), self._total)


@dataclass(frozen=True)
class _Loaded:
    """Models as they were loaded the ``number``-th time, one session and feed per point."""

    number: int
    sessions: Sequence[Session]
    feeds: Sequence[Feeds]

    def seconds_per_visit(self) -> float:
        """Of all points together."""
        started = time.perf_counter()
        time_interleaved(self.sessions, self.feeds, visits=1)
        return time.perf_counter() - started


def _slowness(made: Sequence[Floats], wanted: int) -> Floats:
    """What the models of each pass (points, calls) took over their usual time; 1: that of a quiet pass."""
    usual = np.median(np.concatenate(made, axis=1), axis=1)
    speeds = np.array([np.median(one / usual[:, None]) for one in made])
    return np.asarray(speeds / np.sort(speeds)[wanted // 4], np.float64)


def _loud(made: Sequence[Floats], wanted: int) -> int:
    """How many passes are missing or too loud to count."""
    if len(made) < wanted:
        return wanted - len(made)
    return max(0, wanted - int((_slowness(made, wanted) <= QUIET).sum()))
