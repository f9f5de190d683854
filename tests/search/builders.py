"""What Ray actors build in tests; in a module that workers can import, and quickly: it loads no model."""

from __future__ import annotations

import importlib
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tests.search.landscape import Landscape

from sparsefront.search.pool import FitnessWithBar
from sparsefront.spaces import Genome


def build_counting(payload: dict[str, Any]) -> Callable[[Genome], dict[str, float]]:
    def fitness(genome: Genome) -> dict[str, float]:
        if genome.layers[0].heads == payload.get("raise_at"):
            raise RuntimeError("no such layer")
        return {"quality": payload["base"] + genome.layers[0].heads, "threads": torch.get_num_threads()}

    return fitness


def build_with_bar(_: None) -> FitnessWithBar:
    def fitness(genome: Genome, bar: float | None = None) -> dict[str, float]:
        return {"quality": 1.0 if bar is None else bar}

    return fitness


def build_dying(payload: tuple[Landscape, str]) -> Callable[[Genome], dict[str, float]]:
    landscape, marks = payload

    def fitness(genome: Genome) -> dict[str, float]:
        if len(list(Path(marks).iterdir())) >= 5:
            try:
                Path(marks, "died").touch(exist_ok=False)
            except FileExistsError:
                pass  # one death, whichever actor is first
            else:
                os._exit(1)
        Path(marks, genome.key()).touch()
        time.sleep(0.01)
        return landscape.fitness(genome)

    return fitness


def build_dying_of(heads: int) -> Callable[[Genome], dict[str, float]]:
    """Genomes with so many heads kill their actor, a moment after they have begun."""

    def fitness(genome: Genome) -> dict[str, float]:
        time.sleep(0.3)
        if genome.layers[0].heads == heads:
            os._exit(1)
        return {"quality": 1.0}

    return fitness


def build_importing(module: str) -> Callable[[Genome], dict[str, float]]:
    importlib.import_module(module)
    return build_counting({"base": 0.0})


def build_killed_once(marks: str) -> Callable[[Genome], dict[str, float]]:
    """The first actor that gets here is killed, as by a machine that is out of memory."""
    try:
        Path(marks, "killed").mkdir()
    except FileExistsError:
        return build_counting({"base": 0.0})
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("killed, and yet here")
