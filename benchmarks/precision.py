"""What a serving precision brings and costs: Home Depot's dense teacher and searched winners, exported in every way.

Needs what ``home_depot.py`` has left in its work folder. Latency is measured in turn over all ways of serving a model,
one thread, batch 1, 48 tokens; quality is that of all test rows, scored by the runtime itself. Nothing is chosen by it.

    python benchmarks/precision.py [--quick] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from budget_search import REPOSITORY, SHARES
from common import Target, write_result
from home_depot import write_task

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.runtime import Session
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.models.backbone import load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.metrics import quality
from sparsefront.models.rows import TokenRows
from sparsefront.models.task import Task
from sparsefront.search.export import export_model, serve_rows

LENGTH_TOKENS = 48
WAYS = (
    ("onnxruntime", "fp32", "dynamic"),
    ("onnxruntime", "int8", "dynamic"),
    ("openvino", "fp32", "dynamic"),
    ("openvino", "bf16", "dynamic"),
    ("openvino", "bf16", "static"),
)


def models_of(work: Path) -> dict[str, Path]:
    """The teacher, and per budget the winner of the joint search with the first seed."""
    found = {"dense": work / "prepared" / "teacher"}
    for share in SHARES:
        finalists = work / f"searched-joint-{share.replace('/', '-')}-seed0" / "finalists"
        if not finalists.is_dir():
            raise SystemExit(f"{finalists}: no such folder; run benchmarks/home_depot.py first")
        found[f"winner at {share}"] = sorted(finalists.iterdir())[0]
    return found


def rows_of(name: str, folder: Path, test: TokenRows, tokenizer: Any, *, visits: int) -> list[dict[str, Any]]:
    """One row per way of serving a model."""
    model = CrossEncoder.from_pretrained(folder)
    sessions: list[Session] = []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (kind, precision, shapes) in enumerate(WAYS):
            serving = runtime(kind, precision=precision, shapes=shapes)
            target = Path(scratch) / str(number)
            target.mkdir()
            static = (1, LENGTH_TOKENS) if shapes == "static" else None
            export_model(target, model, tokenizer, precision=serving.graph_precision, static_shape=static)
            sessions.append(serving.load_export(target))
        stats = measure_sessions(sessions, statistic=Statistic.of_length(LENGTH_TOKENS), visits=visits)
        aucs = [quality("auc", test.positive, test.target, serve_rows(session, test)) for session in sessions]
    fp32 = {kind: at for at, (kind, precision, shapes) in enumerate(WAYS) if (precision, shapes) == ("fp32", "dynamic")}
    return [
        {
            "model": name,
            "genome": model.genome.key(),
            "runtime": kind,
            "precision": precision,
            "shapes": shapes,
            "us": stats[at].median_us,
            "speed_up_over_fp32": stats[fp32[kind]].median_us / stats[at].median_us,
            "test_auc": aucs[at],
            "auc_drop": aucs[fp32[kind]] - aucs[at],
        }
        for at, (kind, precision, shapes) in enumerate(WAYS)
    ]


def main() -> None:
    """Every model in every way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="from the quick run of home_depot.py; few measurements")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-home-depot")
    arguments = parser.parse_args()
    work = arguments.work / ("quick" if arguments.quick else "full")
    models = models_of(work)
    tokenizer = load_backbone("minilm").tokenizer
    test = Task.from_file(write_task(work, arguments.data, arguments.quick)).tokenise(tokenizer)["test"]
    rows: list[dict[str, Any]] = []
    for name, folder in models.items():
        rows += rows_of(name, folder, test, tokenizer, visits=8 if arguments.quick else 50)
    targets = []
    for precision in ("int8", "bf16"):
        lossy = [row for row in rows if row["precision"] == precision]
        largest = max(row["auc_drop"] for row in lossy)
        slowest = float(np.min([row["speed_up_over_fp32"] for row in lossy]))
        targets.append(Target(f"{precision}: largest drop of test AUC against fp32", "<=", 0.003, largest))
        targets.append(Target(f"{precision}: smallest speed-up over fp32", ">=", 1.0, slowest))
    write_result("precision", rows, targets, [0], arguments.quick)


if __name__ == "__main__":
    main()
