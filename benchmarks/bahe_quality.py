"""What is learnt of histories: methods that read them, and a bench that trains each once and keeps its logits."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clicks
import numpy as np
import torch
from bahe_training import MAX_TOKENS
from common import about_this_machine
from filelock import FileLock
from flat_history import FilmTokens, FlatHistory, with_histories
from resampling import auc_draws

from sparsefront.models.backbone import load_backbone
from sparsefront.models.bahe import Bahe
from sparsefront.models.behaviour_encoder import Pooling
from sparsefront.models.bert4ctr import FRESH_RATE
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.metrics import quality
from sparsefront.models.rows import TokenRows
from sparsefront.models.scorecard import scorecard
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import TrainOptions, train
from sparsefront.search.progress import Silent
from sparsefront.search.rows import rows_of, spread_share

SEEDS = (0, 1, 2)
ROWS, QUICK_ROWS = 10_000, 600
EPOCHS, QUICK_EPOCHS = 1.0, 0.3
RATES = (5e-5, 1e-4)
"""Of all but what begins at random, which learns ten times as fast. At 2e-4 Bahe is nine points of validation AUC worse
than at 1e-4 (tried once, before vectors were centred, not stored)."""
ROWS_PER_BATCH = 16
MOST_FILMS = 24
FLAT_TOKENS, QUICK_FLAT_TOKENS = 640, 96
FROZEN = 3
"""Of MiniLM's six layers."""


@dataclass(frozen=True)
class Method:
    """A way of reading histories.

    Attributes:
        part: of the benchmark.
        flat: as one text.
        history: whether histories are read at all.
        layers: that are frozen.
        pooling: of the vectors.
        form: what is told of films in histories.
        ordered: whether films come newest first, or shuffled.
        as_long_as: the method whose seconds its training may take.
    """

    part: str
    flat: bool = False
    history: bool = True
    layers: int = FROZEN
    pooling: Pooling = "mean"
    form: clicks.Form = "short"
    ordered: bool = True
    as_long_as: str | None = None


OURS, EQUAL_EPOCHS, EQUAL_SECONDS = "Bahe", "flat, as many epochs", "flat, as many seconds"
METHODS = {
    OURS: Method("auc"),
    EQUAL_EPOCHS: Method("auc", flat=True),
    EQUAL_SECONDS: Method("auc", flat=True, as_long_as=OURS),
    "item alone, Bahe": Method("auc", history=False),
    "item alone, flat": Method("auc", flat=True, history=False),
    "frozen 1/3": Method("ablation", layers=2),
    "frozen 2/3": Method("ablation", layers=4),
    "vectors of [CLS]": Method("ablation", pooling="cls"),
    "without order": Method("ablation", ordered=False),
    "title and plot": Method("ablation", form="long"),
}


class Bench:
    """Trained models by method, rate and seed, and by rows, films and epochs, on disk as JSON of the logits they gave.

    ``rates``: that were chosen before, by method.
    """

    def __init__(self, work: Path, data: Path, quick: bool, rates: Mapping[str, float]) -> None:
        self.work, self.data, self.quick, self.rates = work, data, quick, rates
        self.text = load_backbone("minilm")
        self._tasks: dict[str, Task] = {}
        self._rows: dict[Method, dict[str, TokenRows]] = {}

    def row(self, name: str, seed: int) -> dict[str, Any]:
        """What a method scores on test rows at its chosen rate."""
        rate = self.chosen_rate(name)
        cell = self.cell(name, rate, seed)
        rows, logits = self.rows(METHODS[name])["test"], np.array(cell.pop("test"), np.float32)
        valid_auc = self.valid_auc(name, cell)
        cell.pop("valid")
        scores = scorecard(rows, logits)
        scores.pop("reliability")
        about = {"method": name, "seed": seed, "rate": rate, "valid_auc": valid_auc}
        if rows.vectors is not None:
            about["vectors_spread_share"] = spread_share(rows.vectors)
        return {**about, **scores, **cell, "auc_draws": auc_draws(rows, logits)}

    def chosen_rate(self, name: str) -> float:
        """The better of the rates by validation AUC with the first seed."""
        if name in self.rates:
            return self.rates[name]
        rates = RATES[:1] if self.quick else RATES
        return max(rates, key=lambda rate: self.valid_auc(name, self.cell(name, rate, SEEDS[0])))

    def valid_auc(self, name: str, cell: Mapping[str, Any]) -> float:
        """Of a trained model, from the logits that it gave."""
        rows = self.rows(METHODS[name])["valid"]
        return quality("auc", rows.positive, rows.target, np.array(cell["valid"], np.float32))

    def cell(self, name: str, rate: float, seed: int) -> dict[str, Any]:
        """Logits of validation and test rows, and what the training took; made once."""
        about = f"{self.about}-epochs{self.most_epochs:g}"
        path = self.work / f"{_slug(name)}-{rate:g}-seed{seed}-{about}.json"
        if not path.exists():
            method = METHODS[name]
            epochs, rows = self.epochs(name, seed), self.rows(method)
            model = self.fresh(method, seed)
            batch_tokens = max(1, round(ROWS_PER_BATCH * float(rows["train"].lengths.mean())))
            options = TrainOptions(
                epochs=epochs,
                learning_rate=rate,
                tokens_per_batch=batch_tokens,
                freeze_embeddings=method.flat,
                seed=seed,
            )
            started = time.perf_counter()
            rates = model.fresh_rates if isinstance(model, Bahe) else {"head": FRESH_RATE}
            report = train(model, rows["train"], options, rates=rates)
            made = {
                "training_seconds": time.perf_counter() - started,
                "encoding_seconds": 0.0 if method.flat else self.encoding_seconds(method),
                "epochs": epochs,
                "steps": report.steps,
                "threads": torch.get_num_threads(),
                **{part: score_rows(model, rows[part], precision="fp32").tolist() for part in ("valid", "test")},
                **about_this_machine(),
            }
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(made), encoding="utf-8")
            partial.replace(path)
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
        return found

    def epochs(self, name: str, seed: int) -> float:
        """Of a training; of one that may take so many seconds, by what a whole one of the same model took."""
        epochs, allowed = self.most_epochs, METHODS[name].as_long_as
        if allowed is None:
            return epochs
        own, other = (self.cell(one, self.chosen_rate(one), seed) for one in (EQUAL_EPOCHS, allowed))
        seconds = other["training_seconds"] + other["encoding_seconds"]
        return float(epochs * min(1.0, seconds / own["training_seconds"]))

    @property
    def most_epochs(self) -> float:
        """Of a training that may take as long as it does."""
        return QUICK_EPOCHS if self.quick else EPOCHS

    @property
    def about(self) -> str:
        """How many rows there are, and films of each: what is kept of others is not taken for these."""
        return f"rows{QUICK_ROWS if self.quick else ROWS}-films{MOST_FILMS}"

    # -- models and rows -----------------------------------------------------------------------------------------------

    def fresh(self, method: Method, seed: int) -> CrossEncoder:
        """A model that has not been trained on these rows."""
        if method.flat:
            longest = max(int(rows.lengths.max()) for rows in self.rows(method).values())
            return FlatHistory.over(self.text, frozen_layers=method.layers, longest_tokens=longest, seed=seed)
        model = self.text.above(self.frozen(method), self.task(method.form)).cross_encoder(seed=seed)
        if isinstance(model, Bahe):
            model.centre(self.rows(method)["train"])
        return model

    def frozen(self, method: Method) -> FrozenLayers:
        """What makes the method's vectors."""
        return FrozenLayers(layers=method.layers, pooling=method.pooling, max_tokens=MAX_TOKENS[method.form])

    def task(self, form: clicks.Form) -> Task:
        """The rows, the same in all forms."""
        if form not in self._tasks:
            rows = QUICK_ROWS if self.quick else ROWS
            self._tasks[form] = clicks.movielens_histories(self.data, rows, form=form, most=MOST_FILMS, verdicts=True)
        return self._tasks[form]

    def rows(self, method: Method) -> dict[str, TokenRows]:
        """The rows of each split as the method reads them."""
        if method not in self._rows:
            rows = self.looked_up(method)
            if not method.history:
                rows = {name: with_histories(one, lambda history: history[:0]) for name, one in rows.items()}
            if not method.ordered:
                rng = np.random.default_rng(0)
                rows = {name: with_histories(one, rng.permutation) for name, one in rows.items()}
            if method.flat:
                films = FilmTokens(_texts(self.task(method.form)), self.text.tokenizer)
                tokens = QUICK_FLAT_TOKENS if self.quick else FLAT_TOKENS
                rows = {name: films.flat(one, tokens) for name, one in rows.items()}
            self._rows[method] = rows
        return self._rows[method]

    def looked_up(self, method: Method) -> dict[str, TokenRows]:
        """Rows of vectors, which are encoded once per encoder and form."""
        task, store = self.task(method.form), self.store(method)
        seconds = store.with_suffix(".json")
        backbone = self.text.above(self.frozen(method), task)
        with FileLock(store.with_suffix(".lock")):  # of several calls one encodes, the others wait for it
            if not seconds.exists():
                shutil.rmtree(store, ignore_errors=True)  # of an encoding that was interrupted, whose time is not known
            started = time.perf_counter()
            rows = rows_of(task, backbone, store, Silent())
            if not seconds.exists():
                seconds.write_text(json.dumps(time.perf_counter() - started), encoding="utf-8")
        return rows

    def encoding_seconds(self, method: Method) -> float:
        """Of all films, once."""
        return float(json.loads(self.store(method).with_suffix(".json").read_text("utf-8")))

    def store(self, method: Method) -> Path:
        """Folder of the method's vectors."""
        return self.work / f"vectors-{method.form}-{method.layers}-{method.pooling}-{self.about}"


def _texts(task: Task) -> list[str]:
    if task.histories is None:
        raise ValueError(f"task {task.name} has no histories")
    return task.histories.texts


def _slug(method: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in method.lower())
