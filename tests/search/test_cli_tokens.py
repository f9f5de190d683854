"""The command ``tokens``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from tests.search.conftest import Cli
from tests.search.test_cli import refused
from tests.search.tiny import write_backbone, write_span_task

from sparsefront.search.explore import explore
from sparsefront.search.studies import open_study
from sparsefront.spaces import Genome


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, so that two may prune."""
    return write_backbone(tmp_path_factory.mktemp("deep"), layers=3)


def test_a_schedule_is_shown_explained_and_kept(cli: Cli, task_file: Path, deep: Path, tmp_path: Path) -> None:
    asked = [
        *("tokens", task_file, "--backbone", deep, "--out", tmp_path / "run", "--steps", 20, "--by", "multiply-adds"),
        *("--teacher-epochs", 1, "--elastic-epochs", 1, "--rank-weight", 0.5),
    ]
    first = cli(*asked, "--target", 0.6, "--explain", 7, "--json")
    assert first.status == 0, first.err
    report = first.json
    genome = Genome.parse(report["key"])
    assert genome.column("heads") == (2, 2, 2) and report["multiply_adds_share"] <= 0.6
    words, counts = report["words"], [len(one) for one in report["words"]]
    assert words[0][0] == "[CLS]" == words[-1][0] and words[0][-1] == "[SEP]"
    assert counts == [counts[0], *genome.lengths(counts[0])[:-1]]
    assert set(words[2]) <= set(words[1]) <= set(words[0])

    shown = cli(*asked, "--target", 0.6, "--explain", 7)
    assert shown.status == 0
    for part in (
        f"layer 0     {genome.layers[0].keep_percent} %",
        "[CLS]",
        "█",
        "row 7",
        "after layer 1",
        report["key"],
    ):
        assert part in shown.out, shown.out
    assert "fine-tuning the teacher" not in shown.err, "nothing is made twice"

    more = cli(*asked, "--target", 0.8, "--json")
    assert more.status == 0, more.err
    other = more.json
    assert 0.6 < other["multiply_adds_share"] <= 0.8 and "words" not in other
    assert len(list((tmp_path / "run" / "schedules").iterdir())) == 2


def test_bad_input_is_one_line(cli: Cli, task_file: Path, deep: Path, tmp_path: Path) -> None:
    asked = ["tokens", task_file, "--backbone", deep, "--out", tmp_path / "run"]
    refused(cli(*asked, "--target", 1.5), "--target: expected a share between 0 and 1, got 1.5")
    refused(cli(*asked, "--by", "joules"), "--by: expected latency or multiply-adds, got 'joules'")
    refused(cli(*asked, "--space", "weights"), "--space: expected tokens or joint, got 'weights'")
    refused(cli(*asked, "--shape", "ring"), "shape must be one of prefix, bins, got 'ring'")
    refused(cli(*asked, "--steps", 0), "steps must be at least 1, got 0")
    refused(cli(*asked, "--explain", 601), "--explain: expected a row from 1 to 600, got 601")
    refused(cli(*asked, "--rank-weight", -1), "rank_weight", "-1")
    assert not (tmp_path / "run").exists()


def test_what_no_schedule_meets_is_refused_before_anything_is_trained(
    cli: Cli, task_file: Path, backbone: Path, tmp_path: Path
) -> None:
    for layers, told in ((2, "target 0.01: even one token in a hundred"), (1, "no layer may prune: 1 layers")):
        out = tmp_path / f"run{layers}"
        of = backbone if layers == 2 else write_backbone(tmp_path / "shallow", layers=layers)
        ended = cli("tokens", task_file, "--backbone", of, "--out", out, "--target", 0.01)
        assert ended.status == 2 and told in ended.err.splitlines()[-1], ended.err
        assert not any((out / name).exists() for name in ("teacher", "supernet", "schedules"))


def test_a_search_of_what_was_prepared_begins_with_the_schedule(
    cli: Cli, task_file: Path, deep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "tokens"
    made = ("--teacher-epochs", 1, "--elastic-epochs", 1, "--rank-weight", 0.5, "--backbone", deep)
    asked = ("--target", 0.6, "--by", "multiply-adds", "--steps", 20, "--space", "joint", "--json")
    learned = cli("tokens", task_file, *made, *asked, "--out", kept)
    assert learned.status == 0, learned.err
    given = list[list[Genome]]()  # of every try: a search that a busy machine stopped is begun again

    def explored(*arguments: Any, designs: Sequence[Genome], **named: Any) -> Any:
        given.append(list(designs))
        return explore(*arguments, designs=designs, **named)

    monkeypatch.setattr("sparsefront.search.run.explore", explored)
    few = ("--evaluations", 4, "--workers", 1, "--finalists", 1, "--uniform", "none", "--json")
    out = tmp_path / "run"
    found = cli("search", task_file, *made, "--budget-share", 0.9, "--prepared", kept, "--out", out, *few)
    assert found.status == 0, found.err
    assert given and all(designs == [Genome.parse(learned.json["key"])] for designs in given)
    assert not (out / "supernet").exists()
    trials = open_study(out / "study.db", name="search").get_trials(states=(TrialState.COMPLETE,))
    assert len(trials) == 4


def test_of_a_question_and_a_text_the_question_stays(cli: Cli, deep: Path, tmp_path: Path) -> None:
    task, out = write_span_task(tmp_path / "task"), tmp_path / "run"
    made = ("--teacher-epochs", 1, "--elastic-epochs", 1, "--backbone", deep, "--out", out)
    asked = ("--target", 0.6, "--by", "multiply-adds", "--steps", 20, "--explain", 1)
    found = cli("tokens", task, *made, *asked, "--json")
    assert found.status == 0, found.err
    first, *later = found.json["words"]
    question = first[: first.index("[SEP]") + 1]
    assert len(later[-1]) < len(first)
    for left in later:
        assert left[: len(question)] == question if len(left) >= len(question) else set(left) <= set(question)
    assert 0 < found.json["dense_quality"] <= 1
    told = cli("tokens", task, *made, *asked)
    assert told.status == 0 and "layer 2      all" in told.out and "validation span_f1" in told.out
