"""Joint search against weights-only search where texts are long: MovieLens 1M, a reader's taste and a film's plot.

The first text is a user's age, sex and the latest films that the user has liked, the second a film's title, genres and
plot; the label says whether the user likes it. Users of the test rows are in no other rows. Everything else, from the
teacher to the measurement at the end, is as in benchmarks/budget_search.py.

    python benchmarks/movielens.py [--quick] [--seeds SEED ...] [--data FOLDER] [--work FOLDER] [--report]
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from budget_search import SHARES, Effort, asked, rows_of_seeds
from common import Target, write_result

from sparsefront.models.task import Task

METHODS = ("searched joint", "searched weights")
USERS, PER_USER, QUICK_USERS = 700, 10, 60
EFFORT = Effort(evaluations=100, rows=600)
"""Rows are long, and scoring them is most of a search's time."""
LIKED = 4
"""Stars from which on a user likes a film."""
SHOWN = 5
"""Liked films in the first text."""
LENGTH = 256


def rows_of(data: Path, users: int, seed: int = 0) -> pd.DataFrame:
    """``PER_USER`` ratings of each of so many users, each with what the user had liked before it."""
    films = pd.read_parquet(data / "movies.parquet").set_index("movie_id")
    about = pd.read_parquet(data / "users.parquet").set_index("user_id")
    ratings = pd.read_parquet(data / "ratings.parquet")
    ratings = ratings[ratings["seq_pos"] >= 0].sort_values(["user_id", "seq_pos"])
    titles = films["title"].to_dict()
    plots = (films["title"] + ". " + films["genres"].str.replace("|", ", ") + ". " + films["plot"].fillna("")).to_dict()
    rng = np.random.default_rng(seed)
    chosen = rng.choice(ratings["user_id"].unique(), size=users, replace=False)
    rows: list[dict[str, Any]] = []
    for user, own in ratings[ratings["user_id"].isin(chosen)].groupby("user_id"):
        film, liked = own["movie_id"].to_numpy(), own["rating"].to_numpy() >= LIKED
        after = int(np.searchsorted(np.cumsum(liked), SHOWN)) + 1  # from here on, enough is known of the user
        if len(own) - after < PER_USER:
            continue
        person = about.loc[user]
        for at in sorted(rng.choice(np.arange(after, len(own)), size=PER_USER, replace=False)):
            latest = film[:at][liked[:at]][-SHOWN:]
            rows.append(
                {
                    "user": int(cast(int, user)),
                    "taste": f"{person['gender']}, {person['age']}: " + "; ".join(titles[one] for one in latest),
                    "film": plots[film[at]],
                    "liked": int(liked[at]),
                }
            )
    return pd.DataFrame(rows)


def task_of(data: Path, quick: bool) -> Task:
    """The task, split by user."""
    content = {
        "name": "movielens",
        "text": ["taste", "film"],
        "label": {"column": "liked", "kind": "binary"},
        "split": {"group": "user", "valid": 0.15, "test": 0.25, "seed": 0},
        "max_length": LENGTH,
        "metric": "auc",
    }
    return Task.from_frame(rows_of(data, QUICK_USERS if quick else USERS), content)


def targets_of(rows: list[dict[str, Any]]) -> list[Target]:
    """Joint search at least as good as weights-only search, within the budget."""
    found = [
        Target(
            f"test AUC at {row['at']}, searched joint minus searched weights, mean of {len(row['seeds'])} seeds",
            ">=", 0.0, row["test_auc"],
        )
        for row in rows
        if row["cell"] == "searched joint minus rival" and row["rival"] == "searched weights"
    ]  # fmt: skip
    slowest = max(row["measured_us"] / row["budget_us"] for row in rows if "budget_us" in row)
    return [*found, Target("largest latency of a winner when it was chosen, share of its budget", "<=", 1.0, slowest)]


def main() -> None:
    """Run what is missing, then report."""
    arguments = asked(__doc__, "movielens", "ml1m")
    work, quick, seeds = arguments.work, arguments.quick, arguments.seeds
    cells = [(method, share) for method in METHODS for share in SHARES]
    task = task_of(arguments.data, quick)
    rows = rows_of_seeds("movielens", work, task, quick, seeds, cells, only_there=arguments.report, effort=EFFORT)
    write_result("movielens", rows, targets_of(rows), sorted({row["seed"] for row in rows if "seed" in row}), quick)


if __name__ == "__main__":
    main()
