"""Rows for ``bert4ctr.py`` and ``bahe.py``: MovieLens 1M as clicks, with features or histories, and the ad log.

MovieLens: a click is a rating of four stars or more. The texts are the titles of the latest films that the user liked
before, and the film's title, genres and plot. The features are who the user is (sex, age, occupation, the first digit
of the zip code), the film's id and age, and what was known at the moment before: how many films the user had rated and
what share of them liked, how many users had rated the film and what share of them liked it, days since the user's first
rating. Ratings of the same second count as not known yet. Rows are split by time: what is tested is later than all that
was trained or chosen on. Times are those of the data set; a third of them is interpolated between a user's neighbouring
exact ones (see its README), which can move a rating by hours, and across the split only at its very edge.

As histories the same rows have all the films that their user had liked before, or had rated, with what came of it in
the text; the newest first, and as an item the film's title and genres. Nothing else is known of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from sparsefront.models.ad_log import BIAS, CATEGORICAL, NUMERIC, generate_ad_log
from sparsefront.models.task import Task

LIKED = 4
"""Stars from which on a rating is a click."""
SHOWN = 5
"""Liked films in the first text."""
PRIOR = 5.0
"""Ratings of the mean kind that a share of likes begins with."""
EARLY = 0.3
"""Of all ratings, the first: their mean kind is the prior, and what is tested comes later."""
DAY = 86_400
Form = Literal["short", "long"]
"""What is told of a film that was liked: its title and genres, or its title and plot."""
EVENTS = "films"
VERDICTS = ("disliked. ", "liked. ")
"""What stands before a film's text in a history of all that was rated."""
BARGAINS = ("free shipping", "clearance sale", "weekend deals", "while stocks last")
PROMISES = ("official store", "2 year warranty", "easy returns", "top rated")
CROSSED_SCALE = 5.0
"""Logit per such phrase and unit of the price gap."""
FEATURES = {
    "numeric": [
        "user_ratings",
        "user_liked_share",
        "film_ratings",
        "film_liked_share",
        "film_age_years",
        "days_since_first",
        "user_age",
    ],
    "categorical": ["user_sex", "user_occupation", "user_zip", "film_id"],
}


def movielens(data: Path, rows: int, *, length: int = 64, seed: int = 0, features: bool = True) -> Task:
    """Clicks of so many ratings, drawn at random from those whose user had liked enough films before."""
    frame = movielens_rows(data)
    frame = frame[frame["taste"] != ""]
    frame = frame.sample(n=min(rows, len(frame)), random_state=seed).reset_index(drop=True)
    content = {
        "name": "movielens_clicks",
        "text": ["taste", "film"],
        "label": {"column": "liked", "kind": "binary"},
        **(FEATURES if features else {}),
        "user": "user_id",
        "split": {"time": "timestamp", "valid": 0.15, "test": 0.35},
        "max_length": length,
        "metric": "auc",
    }
    return Task.from_frame(frame, content)


def movielens_histories(
    data: Path,
    rows: int,
    *,
    form: Form = "short",
    least: int = SHOWN,
    most: int = 50,
    verdicts: bool = False,
    seed: int = 0,
) -> Task:
    """Clicks with the films that their user had liked before, or had rated, joined from the table of such ratings.

    Args:
        data: folder of the data set.
        rows: ratings drawn at random, as :func:`movielens` draws them, from those whose user had liked enough before.
        form: of the films in histories; the item is always title and genres.
        least: films that were liked before.
        most: films of a history, the latest.
        verdicts: histories have all films that were rated, each with whether it was liked; else the liked ones alone.
        seed: of the draw.
    """
    frame = movielens_rows(data)
    user, time, liked = (frame[name].to_numpy() for name in ("user_id", "timestamp", "liked"))
    rated, share = known_before(user, time, liked.astype(np.bool_), 0.0)
    told = film_texts(data)
    seen = frame if verdicts else frame[liked == 1]
    texts = told[form].loc[seen["film_id"]].to_numpy()
    if verdicts:
        texts = np.array(VERDICTS, object)[seen["liked"].to_numpy()] + texts
    events = seen[["user_id", "timestamp"]].assign(seen=texts)
    enough = np.rint(share * (rated + PRIOR)) >= least
    frame = frame.loc[enough, ["user_id", "timestamp", "film_id", "liked"]]
    frame = frame.sample(n=min(rows, len(frame)), random_state=seed).reset_index(drop=True)
    frame["film"] = told["short"].loc[frame["film_id"]].to_numpy()
    content = {
        "name": "movielens_histories",
        "item": ["film"],
        "histories": [{"events": EVENTS, "user": "user_id", "time": "timestamp", "text": ["seen"], "max": most}],
        "label": {"column": "liked", "kind": "binary"},
        "user": "user_id",
        "split": {"time": "timestamp", "valid": 0.15, "test": 0.15},
        "metric": "auc",
    }
    return Task.from_frame(frame, content, events={EVENTS: events[events["user_id"].isin(frame["user_id"])]})


def film_texts(data: Path) -> dict[Form, pd.Series[str]]:
    """Per form, the text of each film by its number."""
    films = pd.read_parquet(data / "movies.parquet").set_index("movie_id")
    genres = films["genres"].str.replace("|", ", ", regex=False)
    return {"short": films["title"] + ". " + genres, "long": films["title"] + ". " + films["plot"].fillna("")}


def movielens_rows(data: Path) -> pd.DataFrame:
    """Every rating with what was known before it; ``taste`` is empty where too few films had been liked."""
    films = pd.read_parquet(data / "movies.parquet").set_index("movie_id")
    people = pd.read_parquet(data / "users.parquet").set_index("user_id")
    columns = ["user_id", "movie_id", "rating", "timestamp", "seq_pos"]
    ratings = pd.read_parquet(data / "ratings.parquet", columns=columns)
    ratings = ratings[ratings["seq_pos"] >= 0].sort_values(["user_id", "timestamp", "seq_pos"], ignore_index=True)
    liked = (ratings["rating"] >= LIKED).to_numpy()
    user, film, time = (ratings[name].to_numpy() for name in ("user_id", "movie_id", "timestamp"))
    mean = float(liked[time <= np.quantile(time, EARLY)].mean())
    by_user, by_film = (known_before(owner, time, liked, mean) for owner in (user, film))
    year = films["title"].str.extract(r"\((\d{4})\)\s*$")[0].astype(float)
    about = films["title"] + ". " + films["genres"].str.replace("|", ", ") + ". " + films["plot"].fillna("")
    first = ratings.groupby("user_id")["timestamp"].transform("min").to_numpy()
    who = people.loc[user]
    return pd.DataFrame(
        {
            "user_id": user,
            "film_id": film,
            "timestamp": time,
            "liked": liked.astype(np.int64),
            "taste": tastes(user, time, liked, films["title"].loc[film].to_numpy()),
            "film": about.loc[film].to_numpy(),
            "user_ratings": by_user[0],
            "user_liked_share": by_user[1],
            "film_ratings": by_film[0],
            "film_liked_share": by_film[1],
            "film_age_years": pd.to_datetime(time, unit="s").year - year.loc[film].to_numpy(),
            "days_since_first": (time - first) / DAY,
            "user_age": who["age"].to_numpy(),
            "user_sex": who["gender"].to_numpy(),
            "user_occupation": who["occupation"].to_numpy(),
            "user_zip": who["zip"].str[:1].to_numpy(),
        }
    )


def known_before(
    owner: NDArray[Any], time: NDArray[Any], liked: NDArray[np.bool_], mean: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(rows,) ratings of the same owner at earlier seconds, and the share of them that was liked, from ``PRIOR`` on."""
    order = np.lexsort((time, owner))
    sorted_owner, sorted_time, hits = owner[order], time[order], liked[order]
    starts = np.r_[True, np.diff(sorted_owner) != 0]
    first = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    moment = np.maximum.accumulate(np.where(starts | np.r_[True, np.diff(sorted_time) != 0], np.arange(len(order)), 0))
    before = np.r_[0, np.cumsum(hits)]
    count, sums = moment - first, before[moment] - before[first]
    counts, shares = np.empty(len(order), np.int64), np.empty(len(order))
    counts[order] = count
    shares[order] = (sums + PRIOR * mean) / (count + PRIOR)
    return counts, shares


def tastes(user: NDArray[Any], time: NDArray[Any], liked: NDArray[np.bool_], titles: NDArray[Any]) -> list[str]:
    """(rows,) the latest liked titles before each row, of rows in the order of user and time; empty where too few."""
    found: list[str] = []
    latest: list[str] = []
    waiting: list[str] = []
    for row in range(len(user)):
        new_user = row == 0 or user[row] != user[row - 1]
        if new_user:
            latest, waiting = [], []
        elif time[row] != time[row - 1]:
            latest, waiting = [*latest, *waiting][-SHOWN:], []
        found.append("; ".join(latest) if len(latest) == SHOWN else "")
        if liked[row]:
            waiting.append(titles[row])
    return found


def ad_log(rows: int, *, valid: float = 0.15, test: float = 0.25, seed: int = 0, features: bool = True) -> Task:
    """The built-in log with its features; whose row it is is known, and not shown."""
    names = {"numeric": list(NUMERIC), "categorical": [name for name in CATEGORICAL if name != "user_id"]}
    content = {
        "name": "ad_log",
        "text": ["query", "ad_title"],
        "label": {"column": "click", "kind": "binary"},
        **(names if features else {}),
        "user": "user_id",
        "split": {"group": "query", "valid": valid, "test": test, "seed": seed},
        "max_length": 32,
    }
    return Task.from_frame(generate_ad_log(rows=rows, seed=seed), content)


def crossed_ad_log(rows: int, *, seed: int = 0) -> Task:
    """The same rows, clicked for one more reason that neither text nor features tell alone.

    The further an ad is from its usual price, the more its phrases matter: bargains sell cheap ads, promises dear ones.
    Clicks are drawn anew.
    """
    plain = ad_log(rows, seed=seed)
    frame = plain.frame.copy()
    signs = {**dict.fromkeys(BARGAINS, 1), **dict.fromkeys(PROMISES, -1)}
    tone = sum(sign * frame["ad_title"].str.count(phrase) for phrase, sign in signs.items())
    frame["logit_crossed"] = -CROSSED_SCALE * tone * frame["price_gap"].fillna(0.0)
    logit = BIAS + frame[["logit_text", "logit_features", "logit_history", "logit_crossed"]].sum(axis=1)
    frame["click_probability"] = 1 / (1 + np.exp(-logit))
    frame["click"] = (np.random.default_rng([seed, 1]).random(len(frame)) < frame["click_probability"]).astype(np.int64)
    return Task.from_frame(frame, {**plain.spec.model_dump(exclude_unset=True), "name": "crossed_ad_log"})


def best_of_ad_log(task: Task) -> float:
    """Test AUC of the true logits of text and features, which no model that sees no history can be expected to pass."""
    frame = task.frame.iloc[task.indices("test")]
    shown = [name for name in ("logit_text", "logit_features", "logit_crossed") if name in frame]
    return float(roc_auc_score(frame["click"], frame[shown].sum(axis=1)))
