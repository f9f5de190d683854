"""The built-in task: a seeded ad log whose true click probabilities are known.

``logit = BIAS + text + features + history``; a click is drawn from its sigmoid. The parts:

- text: does the ad sell what the query asks for (``MATCH``), does it have the attributes asked for
  (``ad_words.ATTRIBUTE_WEIGHT``, scaled by ``ATTRIBUTE_SCALE`` of the match), and what its closing phrases promise.
- features: advertiser, device, price gap, past CTR, days since the last visit, and age with device (see ``_features``).
- history: how much of the user's past behaviour is about the advertised product and its category.

What rows hold is drawn first and the logits are computed from what the row shows, so that a model can learn each part
from its own columns. The columns ``ORACLE`` are the truth: for judging a model, never its input.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from sparsefront.models.ad_words import ACCESSORIES, ATTRIBUTE_WEIGHT, ATTRIBUTES, PHRASES, PRODUCTS

PARTS: Final = ("text", "features", "history")
ORACLE: Final = ("click_probability", *(f"logit_{part}" for part in PARTS))
NUMERIC: Final = ("age", "days_since_visit", "past_ctr", "price_gap")
CATEGORICAL: Final = ("user_id", "device", "region", "gender", "advertiser")

BIAS: Final = -1.45
TEXT_SCALE: Final = 0.9
MATCH: Final = np.array([1.9, -0.4, -1.1, -2.2])
"""Logit of: the same product; another of its category; an accessory instead of the product, or the reverse; else."""
ATTRIBUTE_SCALE: Final = np.array([1.0, 0.5, 0.2, 0.1])
MATCH_SHARE: Final = (0.5, 0.15, 0.15, 0.2)
ASKED: Final = {"audience": 0.45, "brand": 0.45, "price": 0.3, "colour": 0.45, "size": 0.3}
SHOWN: Final = (0.4, 0.75)
"""Share of titles that name an attribute: one the query does not ask for, one it does."""
AGREES: Final = 0.5
SYNONYM: Final = 0.6
"""Share of attributes that are worded freely; the others take the plainest word."""
ROWS_PER_QUERY: Final = 8
ROWS_PER_USER: Final = 10
STREAM: Final = 40
"""Behaviours in a user's whole stream; a row shows 3 to 30 consecutive ones."""
PHRASES_PER_TYPE: Final = 60

_TYPES: Final = [(category, names) for category, types in PRODUCTS.items() for names in types.values()]
_CATEGORY_OF: Final = np.unique([category for category, _ in _TYPES], return_inverse=True)[1].reshape(-1)
_DEVICES: Final = ("mobile", "desktop", "tablet")


@dataclass(frozen=True, kw_only=True)
class _Item:
    """What queries or ads mean. ``kind``: (n,) product type; ``accessory``: (n,) -1 or which one;
    ``values[attribute]``: (n,) -1 or which value."""

    kind: NDArray[np.int64]
    accessory: NDArray[np.int64]
    values: dict[str, NDArray[np.int64]]

    def take(self, index: NDArray[np.int64]) -> _Item:
        values = {name: value[index] for name, value in self.values.items()}
        return _Item(kind=self.kind[index], accessory=self.accessory[index], values=values)


def generate_ad_log(*, rows: int, seed: int) -> pd.DataFrame:
    """``rows`` impressions: ``query`` and ``ad_title`` (text), ``NUMERIC`` (some missing) and ``CATEGORICAL`` columns,
    ``history`` (list of 3 to 30 short texts, oldest first), ``click`` in {0, 1}, and the ``ORACLE`` columns."""
    if rows < 100:
        raise ValueError(f"rows must be at least 100, got {rows}")
    rng = np.random.default_rng(seed)
    users = max(20, rows // ROWS_PER_USER)
    favourites = rng.integers(len(_TYPES), size=(users, 3))
    user = rng.integers(users, size=rows)
    queries, query_texts = _queries(max(40, rows // ROWS_PER_QUERY), rng)
    chosen = _choose_queries(queries, favourites[user], rng)
    query = queries.take(chosen)
    ad, match = _ads(query, rng)
    titles, phrase_logit = _titles(ad, rng)
    text = TEXT_SCALE * (_relevance(query, ad, match) + phrase_logit)
    columns, features = _features(user, users, rng)
    history, affinity = _histories(user, favourites, ad.kind, rng)
    logit = BIAS + text + features + affinity
    probability = 1 / (1 + np.exp(-logit))
    click = (rng.random(rows) < probability).astype(np.int64)
    frame = pd.DataFrame({"query": query_texts[chosen], "ad_title": titles, **columns, "history": history})
    return frame.assign(
        click=click, click_probability=probability, logit_text=text, logit_features=features, logit_history=affinity
    )


def best_achievable_auc(frame: pd.DataFrame) -> dict[str, float]:
    """AUC against the clicks of the true probability (``full``) and of each part's true logit alone: what a model that
    sees all columns, or that part's only, can reach."""
    scores = {"full": "click_probability", **{part: f"logit_{part}" for part in PARTS}}
    return {name: float(roc_auc_score(frame["click"], frame[column])) for name, column in scores.items()}


def _queries(count: int, rng: np.random.Generator) -> tuple[_Item, NDArray[Any]]:
    """Distinct queries (at most ``count``) of 2 to 5 words or so, sorted by product type."""
    kind = np.sort(rng.integers(len(_TYPES), size=count))
    accessory = np.where(rng.random(count) < 0.15, rng.integers(len(ACCESSORIES), size=count), -1)
    asked = np.stack([rng.random(count) < ASKED[name] for name in ATTRIBUTES], axis=1)
    # At least one attribute, else the query is a bare product name; at most three, else nobody would type it.
    asked[~asked.any(axis=1), 1] = True
    asked &= np.cumsum(asked, axis=1) <= 3
    values = {
        name: np.where(asked[:, place], rng.integers(len(ATTRIBUTES[name]), size=count), -1)
        for place, name in enumerate(ATTRIBUTES)
    }
    items = _Item(kind=kind, accessory=accessory, values=values)
    texts = np.array([" ".join(chain.from_iterable(_words(items, row, rng))) for row in range(count)], dtype=object)
    first = np.sort(np.unique(texts.astype(str), return_index=True)[1])
    return items.take(first), texts[first]


def _words(items: _Item, row: int, rng: np.random.Generator) -> tuple[list[str], list[str], list[str]]:
    """Words before the product's name, its name, and words after it."""
    names = _TYPES[items.kind[row]][1]
    name = names[int(rng.integers(len(names)))]
    if items.accessory[row] >= 0:
        accessory = ACCESSORIES[items.accessory[row]]
        name = f"{name} {accessory}" if rng.random() < 0.5 else f"{accessory} for {name}"
    before: list[str] = []
    after: list[str] = []
    for attribute, values in items.values.items():
        if values[row] >= 0:
            words = ATTRIBUTES[attribute][values[row]]
            word = words[int(rng.integers(len(words))) if rng.random() < SYNONYM else 0]
            (after if word.startswith("for ") or rng.random() < 0.15 else before).append(word)
    rng.shuffle(before)
    return before, [name], after


def _choose_queries(queries: _Item, favourites: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(rows,) which query each row asks: half of the time one about a favourite product of the user."""
    rows = len(favourites)
    starts = np.searchsorted(queries.kind, np.arange(len(_TYPES) + 1))
    kind = favourites[np.arange(rows), rng.integers(favourites.shape[1], size=rows)]
    low, high = starts[kind], starts[kind + 1]
    own = low + (rng.random(rows) * (high - low)).astype(np.int64)
    anything = rng.integers(len(queries.kind), size=rows)
    return np.where((rng.random(rows) < 0.5) & (high > low), own, anything)


def _ads(query: _Item, rng: np.random.Generator) -> tuple[_Item, NDArray[np.int64]]:
    """An ad for each query, and how its product matches: (rows,) index into ``MATCH``."""
    rows = len(query.kind)
    wanted = rng.choice(len(MATCH), size=rows, p=MATCH_SHARE)
    other = rng.integers(len(_TYPES), size=rows)
    shuffled = rng.random((rows, len(_TYPES)))
    sibling = np.where(_CATEGORY_OF[query.kind][:, None] == _CATEGORY_OF, shuffled, -1.0).argmax(axis=1)
    kind = np.choose(wanted, [query.kind, sibling, query.kind, other])
    swapped = np.where(query.accessory >= 0, -1, rng.integers(len(ACCESSORIES), size=rows))
    accessory = np.where(wanted == 2, swapped, query.accessory)
    same_kind, same_category = kind == query.kind, _CATEGORY_OF[kind] == _CATEGORY_OF[query.kind]
    same_role = (accessory >= 0) == (query.accessory >= 0)
    match = np.select([same_kind & same_role, same_kind, same_category & same_role], [0, 2, 1], default=3)
    values = {}
    for name, words in ATTRIBUTES.items():
        drawn = rng.integers(len(words), size=rows)
        asked = query.values[name] >= 0
        copied = asked & (rng.random(rows) < AGREES)
        shown = rng.random(rows) < np.where(asked, SHOWN[1], SHOWN[0])
        values[name] = np.where(shown, np.where(copied, query.values[name], drawn), -1)
    return _Item(kind=kind, accessory=accessory, values=values), match


def _relevance(query: _Item, ad: _Item, match: NDArray[np.int64]) -> NDArray[np.float64]:
    """(rows,) logit of the match: product first, then each attribute that the query asks for."""
    attributes = np.zeros(len(match))
    for name, weight in ATTRIBUTE_WEIGHT.items():
        asked, shown = query.values[name], ad.values[name]
        agreement = np.where(shown == asked, 1.0, np.where(shown < 0, -0.3, -1.0))
        attributes += np.where(asked >= 0, weight * agreement, 0.0)
    return MATCH[match] + ATTRIBUTE_SCALE[match] * attributes


def _titles(ad: _Item, rng: np.random.Generator) -> tuple[list[str], NDArray[np.float64]]:
    """Titles of 6 to 14 words or so, and the logit of their closing phrases."""
    rows = len(ad.kind)
    phrases = list(PHRASES)
    closing = rng.integers(len(phrases), size=(rows, 2))
    titles = []
    for row in range(rows):
        before, name, after = _words(ad, row, rng)
        first, second = (phrases[place] for place in closing[row])
        # A phrase may also open a title, so that position alone says nothing.
        parts = (
            [first, *before, *name, *after, second] if rng.random() < 0.3 else [*before, *name, *after, first, second]
        )
        titles.append(" ".join(parts))
    return titles, np.array(list(PHRASES.values()))[closing].sum(axis=1)


def _features(
    user: NDArray[np.int64], users: int, rng: np.random.Generator
) -> tuple[dict[str, Any], NDArray[np.float64]]:
    """Feature columns and their logit (rows,); a missing value adds nothing."""
    rows = len(user)
    age = rng.integers(18, 75, size=users).astype(np.float64)[user]
    gender = np.array(["female", "male", "unknown"])[rng.choice(3, size=users, p=(0.45, 0.45, 0.1))][user]
    region = np.array([f"region_{place:02d}" for place in range(12)])[rng.integers(12, size=users)][user]
    device = rng.choice(3, size=rows, p=(0.6, 0.3, 0.1))
    advertiser = np.minimum(rng.geometric(0.05, size=rows) - 1, 39)
    quality = np.random.default_rng(40).normal(0.0, 0.7, size=40)  # the same advertisers whatever the seed
    days = np.round(rng.exponential(12.0, size=rows), 1)
    past_ctr = rng.beta(2.0, 18.0, size=rows)
    price_gap = rng.normal(0.0, 0.3, size=rows)
    for column, share in ((age, 0.1), (past_ctr, 0.15), (price_gap, 0.05)):
        column[rng.random(rows) < share] = np.nan
    parts = [
        quality[advertiser],
        np.array([0.0, 0.3, -0.3])[device],
        -2.2 * price_gap,
        0.9 * (np.log(past_ctr / (1 - past_ctr)) + 2.4),
        -0.45 * (np.log1p(days) - 2.1),
        0.3 * (age - 46) / 16 * np.where(device == 0, -2.0, 2.0),  # the young click on phones, the old elsewhere
        np.where(gender == "unknown", -0.3, 0.03),
    ]
    columns = {
        "age": age,
        "days_since_visit": days,
        "past_ctr": past_ctr,
        "price_gap": price_gap,
        "user_id": [f"user_{number:05d}" for number in user],
        "device": np.array(_DEVICES)[device],
        "region": region,
        "gender": gender,
        "advertiser": [f"advertiser_{number:02d}" for number in advertiser],
    }
    return columns, np.sum([np.nan_to_num(part, nan=0.0) for part in parts], axis=0)


def _histories(
    user: NDArray[np.int64], favourites: NDArray[np.int64], ad_kind: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[list[str]], NDArray[np.float64]]:
    """A window of each user's stream of behaviours, and the logit of its affinity to the advertised product."""
    users, rows = len(favourites), len(user)
    phrases = _behaviours(rng)
    kinds = favourites[np.arange(users)[:, None], rng.integers(favourites.shape[1], size=(users, STREAM))]
    kinds = np.where(rng.random((users, STREAM)) < 0.7, kinds, rng.integers(len(_TYPES), size=(users, STREAM)))
    texts = phrases[kinds, rng.integers(PHRASES_PER_TYPE, size=(users, STREAM))]
    length = rng.integers(3, 31, size=rows)
    start = (rng.random(rows) * (STREAM - length + 1)).astype(np.int64)
    place = np.arange(STREAM)
    window = (place >= start[:, None]) & (place < (start + length)[:, None])
    shown = kinds[user]
    same_kind = ((shown == ad_kind[:, None]) & window).sum(axis=1) / length
    same_category = ((_CATEGORY_OF[shown] == _CATEGORY_OF[ad_kind][:, None]) & window).sum(axis=1) / length
    affinity = 2.4 * np.sqrt(same_kind) + 1.2 * np.sqrt(same_category) - 0.9
    lists = [
        texts[u, s : s + n].tolist() for u, s, n in zip(user.tolist(), start.tolist(), length.tolist(), strict=True)
    ]
    return lists, affinity


def _behaviours(rng: np.random.Generator) -> NDArray[Any]:
    """(types, PHRASES_PER_TYPE) past queries and clicked titles of 2 to 4 words, about one product each."""
    colours = [words[0] for words in ATTRIBUTES["colour"]] + [words[0] for words in ATTRIBUTES["size"]]
    brands = [words[0] for words in ATTRIBUTES["brand"]]
    phrases = np.empty((len(_TYPES), PHRASES_PER_TYPE), dtype=object)
    for kind, (_, names) in enumerate(_TYPES):
        for place in range(PHRASES_PER_TYPE):
            words = [names[int(rng.integers(len(names)))]]
            pool = colours if place % 2 else brands
            words.insert(0, pool[int(rng.integers(len(pool)))])
            phrases[kind, place] = " ".join(words)
    return phrases
