from __future__ import annotations

import io

import pytest
from rich.console import Console

from sparsefront.search.progress import Rich, Silent


def test_silence_takes_every_call(capsys: pytest.CaptureFixture[str]) -> None:
    with Silent().step("training") as advance:
        advance(1, 2)
    Silent().say("done")
    assert capsys.readouterr() == ("", "")


def test_bars_show_the_share_and_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    with Rich().step("training the supernet") as advance:
        advance(1, 4)
    printed = capsys.readouterr()
    assert printed.out == "" and "training the supernet" in printed.err and "25%" in printed.err


def test_a_bar_on_a_terminal_ends_with_what_was_done() -> None:
    stream = io.StringIO()
    with Rich(Console(file=stream, force_terminal=True, width=100)).step("searching") as advance:
        advance(3, 3)
    assert "100%" in stream.getvalue() and "left" in stream.getvalue()


def test_a_failing_step_closes_its_bar() -> None:
    reporter = Rich(Console(file=io.StringIO()))
    with pytest.raises(RuntimeError, match="boom"), reporter.step("one"):
        raise RuntimeError("boom")
    with reporter.step("two") as advance:  # rich refuses a second live display
        advance(1, 1)
