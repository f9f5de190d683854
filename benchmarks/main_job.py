"""The README's first command, timed as a user runs it, and its export verified.

python benchmarks/main_job.py [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import Target, write_result
from memory import PeakMemory

BUDGET_US = 1500


def main() -> None:
    """Run, verify, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 evaluations and a tenth of the training")
    quick = parser.parse_args().quick
    short = (
        "--evaluations 40 --search-rows 500 --teacher-epochs 0.2 --elastic-epochs 0.2 --finetune-epochs 0.2 "
        "--finalists 1"
    ).split()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "sparsefront", "search", "--budget-us", str(BUDGET_US), "--out", str(out)]
        started = time.perf_counter()
        memory = PeakMemory()
        with memory:
            done = subprocess.run(
                [*command, "--json", *(short if quick else [])], stdout=subprocess.PIPE, text=True, check=True
            )
        seconds = time.perf_counter() - started
        result = json.loads(done.stdout)
        verified = subprocess.run(
            [sys.executable, "-m", "sparsefront", "verify", str(out / "export"), "--json"],
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        check = json.loads(verified.stdout)
    (at,) = result["budgets"]
    row = {
        "cell": "main job",
        "budget_us": BUDGET_US,
        "total_seconds": seconds,
        "peak_memory_gib": memory.peak_gib,
        "seconds_per_evaluation": result["search"]["seconds"] / max(result["search"]["evaluations"], 1),
        "wall_seconds": result["wall_seconds"],
        "genome": at["winner"]["genome"],
        "verify_status": verified.returncode,
        "verify_us": check["measured_us"],
        "parity": check["parity"],
    }
    compared = {"dense": result["dense"], **{name: at[name] for name in ("uniform", "winner") if name in at}}
    for name, model in compared.items():  # of uniform genomes there is none where none was measured within the budget
        row[f"{name}_valid_auc"] = model["valid_quality"]
        row[f"{name}_test_auc"] = model["test_quality"]
        row[f"{name}_us"] = model["measured_us"]
    targets = [
        Target("main job, seconds", "<=", 360.0, seconds),
        Target("main job, peak memory in GiB", "<=", 6.0, memory.peak_gib),
        Target("exit status of verify", "<=", 0.0, float(verified.returncode)),
    ]
    write_result("main_job", [row], targets, [0], quick)


if __name__ == "__main__":
    main()
