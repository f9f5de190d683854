"""What every benchmark shares: the result file and the table on the screen."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import operator
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsefront.latency.machine import MachineFingerprint

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("sparsefront", "torch", "transformers", "onnx", "onnxruntime", "ray", "optuna", "numpy")
MOST_SHOWN = 20
"""Values of a list that are printed; the result file has all."""
_OPERATORS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


@dataclass(frozen=True)
class Target:
    """A claim: ``measured op target`` should hold; a missed one stays in the file."""

    name: str
    op: str
    target: float
    measured: float

    @property
    def holds(self) -> bool:
        """Whether the measurement meets the claim; a missing measurement (NaN) does not."""
        return bool(_OPERATORS[self.op](self.measured, self.target))

    def to_json(self) -> dict[str, Any]:
        """The entry of the result file."""
        measured = None if math.isnan(self.measured) else self.measured
        return {"name": self.name, "op": self.op, "target": self.target, "measured": measured, "holds": self.holds}


def write_result(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    targets: Sequence[Target],
    seeds: Sequence[int],
    quick: bool,
    *,
    folder: Path = RESULTS,
) -> Path:
    """Prints rows and targets and writes ``folder/NAME.json``; a quick run writes ``NAME.quick.json`` beside it."""
    result = {
        "benchmark": name,
        "command": _command(),
        "quick": quick,
        **about_this_machine(),
        "seeds": list(seeds),
        "rows": [dict(row) for row in rows],
        "targets": [target.to_json() for target in targets],
    }
    for row in rows:
        print("  ".join(f"{key}={_short(value)}" for key, value in row.items()))
    for target in targets:
        verdict = "holds " if target.holds else "MISSED"
        print(f"{verdict}  {target.name}: {_short(target.measured)} {target.op} {target.target}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}{'.quick' if quick else ''}.json"
    handle, partial = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    os.chmod(partial, 0o644)
    os.replace(partial, path)
    return path


def save_picture(
    name: str, quick: bool, draw: Callable[[Any, Any], None], *, size: tuple[float, float] = (6, 4)
) -> None:
    """``results/NAME.png`` as ``draw(figure, axes)`` draws it; a quick run's is ``NAME.quick.png``."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size)
    draw(figure, axes)
    figure.tight_layout()
    figure.savefig(RESULTS / f"{name}{'.quick' if quick else ''}.png", dpi=100)
    pyplot.close(figure)


def about_this_machine() -> dict[str, Any]:
    """Commit, date, machine and versions: where and when something was measured."""
    here = MachineFingerprint.here(runtime="", runtime_version="", threads=1, length_tokens=1)
    return {
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": here.cpu, "isa": list(here.isa), "cores": here.cores, "system": here.system,
            "load_1_minute": round(os.getloadavg()[0], 2),
        },
        "versions": _versions(),
    }  # fmt: skip


def _command() -> str:
    """The script and what was asked of it, without the folders of whoever asked."""
    asked = iter(sys.argv[1:])
    kept = ["python", f"benchmarks/{Path(sys.argv[0]).name}"]
    for one in asked:
        if one in ("--work", "--data"):
            next(asked, None)
        elif one != "--report":
            kept.append(one)
    return shlex.join(kept)


def _commit() -> str:
    """The commit that was measured, marked when files differ from it; empty outside a git checkout."""
    try:
        command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        run = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _short(value: object) -> str:
    if isinstance(value, list) and len(value) > MOST_SHOWN:
        return f"[{len(value)} values]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
