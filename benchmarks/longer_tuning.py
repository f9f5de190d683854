"""Whether a longer fine-tuning moves the searched winner further from the best uniform genome, on validation rows.

Home Depot, what ``home_depot.py`` has stored of a seed: per budget the winner's and the best uniform genome are tuned
again, both alike, for so many epochs, from the same supernet. Test rows are not looked at.

    python benchmarks/longer_tuning.py [--quick] [--seed N] [--data FOLDER] [--work FOLDER]
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from budget_search import REPOSITORY, SHARES, Bench
from common import Target, write_result
from home_depot import write_task

from sparsefront.models.metrics import quality
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import train
from sparsefront.spaces import Genome

EPOCHS, QUICK_EPOCHS = (0.35, 1.0), (0.01, 0.02)
METHODS = ("searched joint", "best uniform")


def tuned(bench: Bench, genome: str, epochs: float) -> float:
    """Validation AUC of a genome after so many epochs; made once."""
    path = bench.work / "longer" / f"{genome}-{epochs:g}.json"
    if not path.exists():
        model = bench.prepared.supernet.slim(Genome.parse(genome))
        options = replace(bench.finetune, epochs=epochs)
        train(model, bench.prepared.rows["train"], options, teacher_logits=bench.prepared.teacher_logits)
        valid = bench.prepared.rows["valid"]
        found = quality("auc", valid.positive, valid.target, score_rows(model, valid))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
    return float(json.loads(path.read_text("utf-8")))


def main() -> None:
    """Both genomes of every budget, tuned for a short and for a long time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="of home_depot.py's quick run; hardly any training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data" / "home_depot")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-home-depot")
    arguments = parser.parse_args()
    quick, seed = arguments.quick, arguments.seed
    work = arguments.work / ("quick" if quick else "full")
    bench = Bench(work / f"seed{seed}", Task.from_file(write_task(work, arguments.data, quick)), quick, seed)
    rows: list[dict[str, Any]] = []
    for share in reversed(SHARES):
        for epochs in QUICK_EPOCHS if quick else EPOCHS:
            winner, uniform = (
                tuned(bench, bench.cell(method, share)["winner"]["genome"], epochs) for method in METHODS
            )
            row = {"budget": share, "epochs": epochs, "winner_valid_auc": winner, "uniform_valid_auc": uniform}
            rows.append({**row, "gain": winner - uniform})
    short, long = (
        [row["gain"] for row in rows if row["epochs"] == epochs] for epochs in sorted({row["epochs"] for row in rows})
    )
    grown = sum(long) / len(long) - sum(short) / len(short)
    targets = [Target("validation AUC that the gain grows by with longer tuning, mean of the budgets", ">", 0.0, grown)]
    write_result("longer_tuning", rows, targets, [seed], quick)


if __name__ == "__main__":
    main()
