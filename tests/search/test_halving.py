"""Who is stopped at a rung; without Ray, which only asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from sparsefront.search.fine_tuning import GENOME, QUALITY, RUNG, SHARE, FineTuning, Rungs, all_stopped
from sparsefront.search.halving import Halving
from sparsefront.spaces import Genome

A, B, C, D = (Genome.uniform(2, heads=heads, ffn_units=8) for heads in range(4))


def tunings(run: Path, *genomes: Genome) -> list[FineTuning]:
    return [FineTuning(run, genome) for genome in genomes]


def told(halving: Halving, genome: Genome, share: float, quality: float) -> str:
    """What Tune is answered when a trial reports."""
    trial = SimpleNamespace(trial_id="whatever", config={GENOME: genome.key()})
    return halving.on_trial_result(None, trial, {SHARE: share, RUNG: share, QUALITY: quality})


def stopped_of(run: Path, **contests: Sequence[Genome]) -> list[str]:
    return [one.genome for one in all_stopped({name: tunings(run, *genomes) for name, genomes in contests.items()})]


def test_the_first_goes_on_and_so_does_who_is_in_the_better_half(tmp_path: Path) -> None:
    halving = Halving({"one": tunings(tmp_path, A, B, C, D)})
    assert told(halving, A, 0.25, 0.7) == "CONTINUE"
    assert told(halving, B, 0.25, 0.6) == "STOP"
    assert told(halving, C, 0.25, 0.8) == "CONTINUE"
    assert told(halving, D, 0.25, 0.69) == "STOP"  # the middle of the three is 0.7
    assert told(halving, A, 0.5, 0.75) == "CONTINUE"
    assert told(halving, C, 0.5, 0.74) == "STOP"
    (b, c, d) = all_stopped({"one": tunings(tmp_path, A, B, C, D)})
    assert [(one.genome, one.share, one.quality) for one in (b, c, d)] == [
        (B.key(), 0.25, 0.6),
        (C.key(), 0.5, 0.74),
        (D.key(), 0.25, 0.69),
    ]


def test_what_only_tells_how_far_it_is_decides_nothing(tmp_path: Path) -> None:
    halving = Halving({"one": tunings(tmp_path, A, B)})
    told(halving, A, 0.25, 0.7)
    trial = SimpleNamespace(trial_id="b", config={GENOME: B.key()})
    assert halving.on_trial_result(None, trial, {SHARE: 0.6}) == "CONTINUE"
    assert FineTuning(tmp_path, B).rungs == Rungs({})
    assert told(halving, B, 0.25, 0.6) == "STOP"


def test_a_new_experiment_decides_as_the_old_one_would_have(tmp_path: Path) -> None:
    before = Halving({"one": tunings(tmp_path, A, B, C)})
    told(before, A, 0.25, 0.7)
    told(before, B, 0.25, 0.8)
    told(before, B, 0.5, 0.9)
    after = Halving({"one": tunings(tmp_path, A, B, C)})
    assert told(after, B, 0.5, 0.1) == "CONTINUE", "a rung that is passed is passed"
    assert FineTuning(tmp_path, B).rungs.quality[0.5] == 0.9
    assert told(after, C, 0.25, 0.74) == "STOP"
    assert told(after, A, 0.5, 0.85) == "STOP"
    assert stopped_of(tmp_path, one=[A, B, C]) == [A.key(), C.key()]


def test_who_begins_anew_is_asked_again_at_every_rung(tmp_path: Path) -> None:
    """After a run its checkpoints are gone, what was known at the rungs is not."""
    told(Halving({"one": tunings(tmp_path, A, B)}), A, 0.25, 0.7)
    FineTuning(tmp_path, B).note(Rungs({0.25: 0.6}, ("another",)))
    known = Halving({"two": tunings(tmp_path, A, B)}, [B.key()])
    assert told(known, B, 0.25, 0.6) == "STOP"
    first = Halving({"three": tunings(tmp_path, A, B)}, [A.key(), B.key()])
    assert told(first, B, 0.25, 0.6) == "CONTINUE", "A has yet to come there"


def test_contests_do_not_mix_and_who_is_in_two_is_stopped_by_both(tmp_path: Path) -> None:
    halving = Halving({"searched": tunings(tmp_path, A, B), "uniform": tunings(tmp_path, B, C, D)})
    assert told(halving, A, 0.25, 0.9) == "CONTINUE"
    assert told(halving, C, 0.25, 0.5) == "CONTINUE"  # far below A, but the first of its own
    assert told(halving, B, 0.25, 0.6) == "CONTINUE"  # behind A, before C
    assert stopped_of(tmp_path, searched=[A, B], uniform=[B, C, D]) == []
    assert told(halving, D, 0.5, 0.9) == "CONTINUE"
    assert told(halving, B, 0.5, 0.7) == "STOP"  # behind D too
    assert stopped_of(tmp_path, searched=[A, B], uniform=[B, C, D]) == [B.key()]
    assert stopped_of(tmp_path, searched=[A, B], another=[B, C]) == [], "in another contest it may win"
