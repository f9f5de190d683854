from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from sparsefront.latency.meter import LOADS, NOISE_LIMIT_VARIABLE, TRIES, Meter, PassLog
from sparsefront.latency.runtime import Feeds, Logits, Runtime, Session
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.spaces import Genome, InputError

CONFIG = CrossEncoderConfig(
    vocab_size=100, hidden_size=8, head_size=4, layer_heads=[2, 2], layer_ffn_units=[8, 8], max_position_embeddings=16
)
POINTS = [(Genome.uniform(2, heads=1, ffn_units=units), 8) for units in (0, 4, 8)]


class FakeClock:
    """A machine whose passes take what a script says; patched over the timing."""

    def __init__(self, slowness: list[float]) -> None:
        self.slowness = slowness
        self.passes = 0

    def __call__(self, timed: list[Session], feeds: list[Feeds], *, visits: int) -> list[np.ndarray]:
        if visits == 1:  # the first look
            return [np.full(1, 100.0) for _ in timed]
        slow = self.slowness[min(self.passes, len(self.slowness) - 1)]
        self.passes += 1
        return [np.full(visits, slow * (100.0 + index)) for index in range(len(timed))]


class Nothing(Runtime):
    """A runtime whose sessions are never called, and which counts what is loaded."""

    name = "nothing"
    package = "numpy"
    precisions: ClassVar[Mapping[str, tuple[str, ...]]] = {"fp32": ()}

    loaded = 0

    def load(self, config: CrossEncoderConfig, arrays: Any = None) -> Session:
        Nothing.loaded += 1

        class Empty:
            def run(self, feeds: Feeds) -> Logits:
                raise AssertionError("timed by the script")

        return Empty()

    def load_export(self, directory: str | Path) -> Session:
        raise NotImplementedError


ROUNDS = -(-10 // len(POINTS))


def measure(
    monkeypatch: pytest.MonkeyPatch, slowness: list[float], *, log: Path | None = None, passes: int = 4
) -> tuple[np.ndarray, float, FakeClock, list[str]]:
    clock = FakeClock(slowness)
    monkeypatch.setattr("sparsefront.latency.meter.time_interleaved", clock)
    said: list[str] = []
    meter = Meter(CONFIG, Nothing(), say=said.append, log=PassLog(log), total=len(POINTS))
    microseconds, drift = meter.measure(POINTS, visits=passes * ROUNDS)
    return microseconds, drift, clock, said


def test_a_quiet_machine_is_measured_once_and_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    microseconds, drift, clock, said = measure(monkeypatch, [1.0])
    assert microseconds.tolist() == [100, 101, 102]
    assert (drift, clock.passes, said) == (0, 4, [])


def test_passes_that_drifted_are_said_and_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    microseconds, drift, clock, said = measure(monkeypatch, [1.3, 1.0, 1.4, 1.0, 1.0])
    assert microseconds.tolist() == [100, 101, 102]
    assert (drift, clock.passes) == (0, 6)
    assert said == ["other work on the machine: 2 of 4 passes were loud; measuring again"]


def test_a_machine_that_stays_a_little_uneven_is_measured_with_its_drift(monkeypatch: pytest.MonkeyPatch) -> None:
    _, drift, clock, said = measure(monkeypatch, [*[1.0] * 3, *[1.22] * 20])
    assert drift == pytest.approx(0.22)
    assert clock.passes == 4 * TRIES and len(said) == 1


def test_a_machine_under_load_is_refused_after_all_tries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(NOISE_LIMIT_VARIABLE, raising=False)
    log = tmp_path / "passes.jsonl"
    with pytest.raises(InputError, match=r"under load: in the quietest 4 of 8 passes its models took up to 100% more"):
        measure(monkeypatch, [*[1.0] * 3, *[2.0] * 20], log=log)
    assert measure(monkeypatch, [1.0], log=log)[2].passes == 4  # the loud passes are forgotten


def test_more_noise_is_allowed_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = [*[1.0] * 3, *[2.0] * 20]
    monkeypatch.setenv(NOISE_LIMIT_VARIABLE, "1.5")
    assert measure(monkeypatch, loud)[1] == pytest.approx(1.0)
    for wrong in ("quiet", "-1", "nan"):
        monkeypatch.setenv(NOISE_LIMIT_VARIABLE, wrong)
        with pytest.raises(InputError, match=f"SPARSEFRONT_NOISE_LIMIT: expected a positive share .* got '{wrong}'"):
            measure(monkeypatch, loud)


def test_an_interrupted_measurement_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "passes.jsonl"
    measure(monkeypatch, [1.0], log=log)
    *whole, last = log.read_text().splitlines()
    assert whole
    log.write_text("\n".join([*whole, last[:-20]]))  # killed while it wrote
    microseconds, _, clock, _ = measure(monkeypatch, [1.02], log=log)
    assert clock.passes == 1
    assert microseconds.tolist() == [100, 101, 102]
    assert measure(monkeypatch, [9.0], log=log)[2].passes == 0  # nothing was glued to the cut line


def test_models_are_loaded_anew_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    Nothing.loaded = 0
    measure(monkeypatch, [1.0], passes=7)
    assert Nothing.loaded == LOADS * len(POINTS)


def test_passes_of_other_models_are_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "passes.jsonl"
    measure(monkeypatch, [1.0], log=log)
    records = [json.loads(line) for line in log.read_text().splitlines() if line]
    log.write_text("".join(json.dumps({**record, "key": "another"}) + "\n" for record in records))
    assert measure(monkeypatch, [1.0], log=log)[2].passes == 4


def test_many_models_are_visited_less_often_when_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock([1.0])
    monkeypatch.setattr("sparsefront.latency.meter.time_interleaved", clock)
    Meter(CONFIG, Nothing()).measure(POINTS, visits=8 * ROUNDS, seconds=0)
    assert clock.passes == 2


def test_few_visits_are_made_at_least_once_when_time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock([1.0])
    monkeypatch.setattr("sparsefront.latency.meter.time_interleaved", clock)
    microseconds, _ = Meter(CONFIG, Nothing()).measure(POINTS, visits=3, seconds=0)
    assert clock.passes == 1
    np.testing.assert_allclose(microseconds, [100.0, 101.0, 102.0])


def test_every_timed_call_has_the_rows_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: set[tuple[int, ...]] = set()

    def timed(sessions: list[Session], feeds: list[Feeds], *, visits: int) -> list[np.ndarray]:
        shapes.update(values.shape for each in feeds for values in each.values())
        return [np.full(visits, 100.0) for _ in sessions]

    monkeypatch.setattr("sparsefront.latency.meter.time_interleaved", timed)
    Meter(CONFIG, Nothing(), batch=4).measure(POINTS, visits=2 * ROUNDS)
    assert shapes == {(4, length) for _, length in POINTS}


def test_models_that_do_not_fit_the_memory_are_measured_in_groups_on_one_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    genomes = [Genome.uniform(2, heads=heads, ffn_units=units) for heads in (0, 1, 2) for units in range(1, 9)]
    points = [(genome, 8) for genome in genomes]
    groups: list[frozenset[Genome]] = []
    true_us = {genome: 100.0 + at for at, genome in enumerate(genomes)}

    def timed(sessions: list[Any], feeds: list[Feeds], *, visits: int) -> list[np.ndarray]:
        groups.append(frozenset(session.genome for session in sessions))
        slow = 1.0 + 0.2 * len(set(groups))  # each group in another phase of the machine
        return [np.full(visits, slow * true_us[session.genome]) for session in sessions]

    class Known(Nothing):
        def load(self, config: CrossEncoderConfig, arrays: Any = None) -> Session:
            session = super().load(config)
            session.genome = config.genome  # type: ignore[attr-defined]
            return session

    monkeypatch.setattr("sparsefront.latency.meter.time_interleaved", timed)
    monkeypatch.setattr("sparsefront.latency.meter.physical_memory_bytes", lambda: 16 * 2 * 13 * 1100)
    microseconds, _ = Meter(CONFIG, Known()).measure(points, visits=12)
    assert len(set(groups)) > 1 and max(map(len, groups)) < len(points)
    ratio = microseconds / np.array([true_us[genome] for genome in genomes])
    assert np.ptp(ratio) < 1e-9
