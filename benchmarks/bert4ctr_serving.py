"""What features cost where a model is served: MiniLM with random weights, ONNX Runtime fp32, one thread.

Time does not depend on weights. All that is compared is called in turn in one process, and the lower quartile of the
calls counts, as in the latency table.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Target

from sparsefront.latency.runtime import Feeds, Logits, Session, feeds_of_length
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.timing import time_interleaved
from sparsefront.latency.two_sides import Said, TwoSides, export_sides
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.bert4ctr_graph import TEXT_LOGITS
from sparsefront.models.config import CrossEncoderConfig

TOKENS = 64
"""The most of a row of the MovieLens task."""
FEATURES = (8, 11, 30, 60, 90)
USUAL = 11
"""Features of the MovieLens task."""
IDS = 1_000
CANDIDATES = (1, 16, 128)
WORDS_PER_FEATURE = 3
"""Word pieces of a name and a value, at least."""


@dataclass(frozen=True)
class FeatureSide:
    """Rows of features that meet texts which were read before, and kept each by itself."""

    sides: TwoSides
    kept: Sequence[Said]

    def run(self, feeds: Feeds) -> Logits:
        """Logits of the rows."""
        return self.sides.score(self.sides.together(self.kept), feeds)


@dataclass(frozen=True)
class Collecting:
    """The part of such a call before the graph: kept texts put together."""

    kept: Sequence[Said]

    def run(self, feeds: Feeds) -> Logits:
        """Logits of the texts alone, whatever the rows."""
        said: Logits = TwoSides.together(self.kept)[TEXT_LOGITS]
        return said


def serving_rows(work: Path, quick: bool) -> list[dict[str, Any]]:
    """A row per number of features, and one per number of candidates."""
    visits = 5 if quick else 60
    counts, candidates = (FEATURES[:2], CANDIDATES[:2]) if quick else (FEATURES, CANDIDATES)
    return [*growth(visits, counts), *cached(work, visits, candidates)]


def growth(visits: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One row of so many features, against the text alone and against features as tokens and as words of the text.

    Features as tokens of the text cost what a text of so many tokens more costs.
    """
    serving = runtime("onnxruntime", threads=1)
    text = CrossEncoderConfig()
    lengths = {"tokens": [TOKENS + count for count in counts]}
    lengths["words"] = [min(512, TOKENS + WORDS_PER_FEATURE * count) for count in counts]
    plain = serving.load(text)
    sessions: list[Session] = [plain]
    feeds: list[Feeds] = [feeds_of_length(TOKENS)]
    for count in counts:
        sessions.append(serving.load(with_features(text, count)))
        feeds.append({**feeds_of_length(TOKENS), **features_of(count, 1)})
    for length in (*lengths["tokens"], *lengths["words"]):
        sessions.append(plain)
        feeds.append(feeds_of_length(length))
    us = lower_quartiles(sessions, feeds, visits)
    n = len(counts)
    return [
        {
            "served": "growth",
            "features": count,
            "text_us": us[0],
            "bert4ctr_us": us[1 + at],
            "numbert_tokens_us": us[1 + n + at],
            "numbert_words_us": us[1 + 2 * n + at],
        }
        for at, count in enumerate(counts)
    ]


def cached(work: Path, visits: int, counts: Sequence[int]) -> list[dict[str, Any]]:
    """One user and many ads, and one ad and many users: pairs scored whole, and by sides with the texts read before.

    Each ad was read alone, as a server meets them; a call begins by putting those together that it needs.
    """
    folder = work / "sides"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = Bert4Ctr(with_features(CrossEncoderConfig(), USUAL))
    export_sides(model, folder)
    sides, whole = TwoSides(folder), runtime("onnxruntime", threads=1).load(with_features(CrossEncoderConfig(), USUAL))
    found = []
    for count in counts:
        ads, rows = feeds_of_length(TOKENS, batch=count), features_of(USUAL, count)
        kept = [sides.read({name: values[[ad]] for name, values in ads.items()}) for ad in range(count)]
        sessions: list[Session] = [whole, FeatureSide(sides, kept), Collecting(kept), FeatureSide(sides, kept[:1])]
        us = lower_quartiles(sessions, [{**ads, **rows}, rows, rows, rows], max(3, visits // (1 + count // 16)))
        found.append(
            {
                "served": "cached",
                "candidates": count,
                "pairs_us": us[0],
                "one_user_many_ads_us": us[1],
                "of_which_collecting_us": us[2],
                "one_ad_many_users_us": us[3],
                "kept_bytes_per_ad": int(sum(values.nbytes for values in kept[0].values())),
            }
        )
    return found


def with_features(text: CrossEncoderConfig, count: int) -> Bert4CtrConfig:
    """Half of the features numbers, half categories; read in every layer."""
    values = {key: value for key, value in text.to_dict().items() if key not in ("model_type", "architectures")}
    edges = np.linspace(-2, 2, 17).tolist()
    numbers = count // 2
    return Bert4CtrConfig(
        **values,
        numeric_edges=[edges] * numbers,
        categorical_ids=[IDS] * (count - numbers),
        layer_feature_heads=[3] * len(text.layer_heads),
    )


def features_of(count: int, rows: int) -> dict[str, Any]:
    """Random rows of features."""
    rng, numbers = np.random.default_rng(0), count // 2
    return {
        "numeric": rng.normal(size=(rows, numbers)).astype(np.float32),
        "categorical": rng.integers(0, IDS, (rows, count - numbers)),
    }


def lower_quartiles(sessions: Sequence[Session], feeds: Sequence[Feeds], visits: int) -> list[float]:
    """Microseconds per call."""
    return [float(np.percentile(one, 25)) for one in time_interleaved(sessions, feeds, visits=visits)]


def serving_targets(rows: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of the cost of features."""
    grown = {row["features"]: row for row in rows if row.get("served") == "growth"}
    if USUAL in grown:
        share = grown[USUAL]["bert4ctr_us"] / grown[USUAL]["text_us"]
        yield Target(f"served latency with {USUAL} features over that of the text alone", "<=", 1.15, share)
    if len(grown) > 2:
        counts = np.array(sorted(grown), np.float64)
        us = np.array([grown[int(count)]["bert4ctr_us"] for count in counts])
        slope, start = np.polyfit(counts, us, 1)
        off = float(np.max(np.abs(slope * counts + start - us) / us))
        yield Target("growth with features: largest deviation from a line", "<=", 0.05, off)
        most = grown[int(counts[-1])]
        tokens = (most["numbert_tokens_us"] - most["text_us"]) / (most["bert4ctr_us"] - most["text_us"])
        name = f"cost of {int(counts[-1])} features as tokens of the text over that of the branch"
        yield Target(name, ">", 1.0, tokens)
    for row in rows:
        if row.get("served") == "cached" and row["candidates"] == CANDIDATES[-1]:
            name = f"1 user, {row['candidates']} ads: pairs over ads that were read before"
            yield Target(name, ">=", 10.0, row["pairs_us"] / row["one_user_many_ads_us"])
