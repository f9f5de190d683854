from __future__ import annotations

import math

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsefront.search.front import GENOME_ATTR, Archive, Evaluated, front, front_of, hypervolume, nondominated
from sparsefront.spaces import Genome

POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), max_size=20)


@given(POINTS)
def test_nondominated_agrees_with_the_definition(points: list[tuple[int, int]]) -> None:
    mask = nondominated([q for q, _ in points], [us for _, us in points])
    for at, (q, us) in enumerate(points):
        beaten = any(p >= q and v <= us and (p, v) != (q, us) for p, v in points)
        first = points.index((q, us)) == at
        assert mask[at] == (not beaten and first)


@given(POINTS)
def test_hypervolume_agrees_with_counting_cells(points: list[tuple[int, int]]) -> None:
    cells = {(x, y) for q, us in points for x in range(q) for y in range(us, 9)}
    measured = hypervolume([q for q, _ in points], [us for _, us in points], quality_ref=0, latency_ref_us=9)
    assert measured == pytest.approx(len(cells))


def test_nan_and_nothing() -> None:
    assert nondominated([], []).shape == (0,)
    assert nondominated([math.nan, 0.5], [1.0, 2.0]).tolist() == [False, True]
    assert nondominated([0.9, 0.5], [math.nan, 2.0]).tolist() == [False, True]
    assert hypervolume([], [], quality_ref=0, latency_ref_us=1) == 0.0
    assert hypervolume([math.nan, 0.5], [1.0, 2.0], quality_ref=0, latency_ref_us=4) == pytest.approx(1.0)
    assert hypervolume([0.5], [5.0], quality_ref=0, latency_ref_us=4) == 0.0
    with pytest.raises(ValueError, match="equally long"):
        nondominated([0.1], np.zeros(2))


def test_front_is_sorted_by_latency() -> None:
    genomes = [Genome.uniform(2, heads=heads, ffn_units=8) for heads in range(4)]
    points = [(0.9, 30.0), (0.5, 10.0), (0.4, 20.0), (0.7, 20.0)]
    every = [Evaluated(g, q, us, n) for n, (g, (q, us)) in enumerate(zip(genomes, points, strict=True))]
    assert [one.number for one in front(every)] == [1, 3, 0]


@given(points=st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), max_size=20), limit=st.integers(0, 7))
def test_an_archive_is_the_list_that_it_was_made_of(points: list[tuple[int, int]], limit: int) -> None:
    genome = Genome.uniform(1, heads=1, ffn_units=8)
    evaluated = [Evaluated(genome, quality, us, number) for number, (quality, us) in enumerate(points)]
    archive = Archive(evaluated)
    inside = archive.within(limit)
    assert list(inside) == [one for one in evaluated if one.latency_us <= limit]
    assert inside.quality.tolist() == [one.quality for one in inside]
    assert inside.latency_us.tolist() == [one.latency_us for one in inside]
    shown = nondominated([one.quality for one in inside], [one.latency_us for one in inside])
    expected = sorted((one for one, keep in zip(inside, shown, strict=True) if keep), key=lambda one: one.latency_us)
    assert list(inside.front) == expected and inside.front.quality.tolist() == [one.quality for one in expected]


def test_front_of_a_study_reads_complete_trials_only() -> None:
    study = optuna.create_study(directions=["maximize", "minimize"])
    assert front_of(study) == ()
    genome = Genome.uniform(2, heads=1, ffn_units=8)
    trial = study.ask()
    trial.set_user_attr(GENOME_ATTR, genome.key())
    study.tell(trial, [0.7, 120.0])
    study.ask().set_user_attr(GENOME_ATTR, genome.key())
    assert front_of(study) == (Evaluated(genome, 0.7, 120.0, 0),)


def test_front_of_refuses_other_directions() -> None:
    with pytest.raises(ValueError, match=r"got \['minimize', 'minimize'\]"):
        front_of(optuna.create_study(directions=["minimize", "minimize"]))
