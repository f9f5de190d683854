"""What ``token_pruning.py`` says of its rows: means over seeds, and the targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from common import Target

LEARNED = ("learned, gentle", "learned, mild", "learned, high")
HIGH = LEARNED[-1]
PAPER_PADDED = 8.1
"""ToP's mean reduction of multiply-adds, padding included."""
LONG = ("imdb", "books")
LONG_LOSS = 1.0
PADDINGS = {"": "unpadded", "_padded": "padded"}
ROWS_TOGETHER = 16
"""In one call."""
LOSS = 0.5
"""Points that a schedule may lose."""
Lines = dict[tuple[str, str], dict[str, Any]]


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task and method: means over the seeds, and what is saved."""
    found = []
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        mean = {
            name: float(np.mean([row[name] for row in own if name in row]))
            for name in own[0]
            if isinstance(own[0][name], int | float)
        }
        line = {
            "task": task,
            "method": method,
            "seeds": len(own),
            "score": 100 * mean["score"],
            "loss": behind(rows, own, "dense"),
            "flops_reduction": mean["dense_multiply_adds"] / mean["multiply_adds"],
            "flops_reduction_padded": mean["dense_multiply_adds_padded"] / mean["multiply_adds"],
        }
        if "target" in mean:
            line["target"] = mean["target"]
        elif method != "dense":
            line["behind_ranking"] = behind(rows, own, HIGH)
        if all("microseconds" in row for row in own):
            line |= {
                "microseconds": mean["microseconds"],
                "speed_up": mean["dense_microseconds"] / mean["microseconds"],
                "speed_up_padded": mean["dense_microseconds_padded"] / mean["microseconds"],
                "speed_up_together": mean["dense_microseconds_together"] / mean["microseconds_together"],
            }
        found.append(line)
    return found


def behind(rows: Sequence[dict[str, Any]], own: Sequence[dict[str, Any]], other: str) -> float:
    """Mean points by which another method is better, over the seeds of both."""
    scores = {(row["task"], row["seed"]): row["score"] for row in rows if row["method"] == other}
    pairs = [(scores.get((row["task"], row["seed"])), row["score"]) for row in own]
    return 100 * float(np.mean([theirs - ours for theirs, ours in pairs if theirs is not None]))


def targets_of(lines: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of both targets, of long rows and of ranking distillation."""
    of = {(line["task"], line["method"]): line for line in lines}
    tasks = list(dict.fromkeys(line["task"] for line in lines if line["method"] in LEARNED))
    short = [task for task in tasks if task not in LONG]
    if short:
        yield from targets_of_short_rows(of, short)
    for task in tasks:
        if task in LONG:
            close = [
                of[task, one]["speed_up"]
                for one in LEARNED
                if (task, one) in of and of[task, one]["loss"] <= LONG_LOSS and "speed_up" in of[task, one]
            ]
            name = f"{task}: speed-up over dense without padding at a loss of {LONG_LOSS:g} point or less"
            yield Target(name, ">=", 4.0, max(close, default=1.0))
    plain = [of[task, "without ranking"] for task in tasks if (task, "without ranking") in of]
    if plain:
        worth = float(np.mean([one["behind_ranking"] for one in plain]))
        seeds = max(one["seeds"] for one in plain)
        yield Target(f"ranking distillation at the high target, points, {seeds} seeds", ">=", 0.5, worth)


def targets_of_short_rows(of: Lines, tasks: Sequence[str]) -> Iterator[Target]:
    """What is lost at each target, by the tasks that have it, what is saved where little is lost, and what of that a
    clock sees."""
    for method in LEARNED:
        own = [of[task, method] for task in tasks if (task, method) in of]
        if not own:
            continue
        yield Target(f"{method}: mean loss, points", "<=", LOSS, float(np.mean([one["loss"] for one in own])))
        timed = [one for one in own if "speed_up" in one]
        for suffix, told in PADDINGS.items() if timed else ():
            shares = [one["speed_up" + suffix] / one["flops_reduction" + suffix] for one in timed]
            name = f"{method}: mean speed-up over multiply-adds reduction, {told}"
            yield Target(name, ">=", 0.8, float(np.mean(shares)))
        if timed:
            shares = [one["speed_up_together"] / one["flops_reduction"] for one in timed]
            name = f"{method}: mean speed-up of {ROWS_TOGETHER} rows in a call over multiply-adds reduction, unpadded"
            yield Target(name, ">=", 0.8, float(np.mean(shares)))
    for (suffix, told), least in zip(PADDINGS.items(), (2.5, PAPER_PADDED), strict=True):
        best = [max(of[task, one]["flops_reduction" + suffix] for one in within(of, task)) for task in tasks]
        name = f"mean multiply-adds reduction at a loss of {LOSS:g} points or less, {told}"
        yield Target(name, ">=", least, float(np.mean(best)))


def within(of: Lines, task: str) -> list[str]:
    """The dense model, and learned schedules that lose little."""
    return ["dense", *(one for one in LEARNED if (task, one) in of and of[task, one]["loss"] <= LOSS)]
