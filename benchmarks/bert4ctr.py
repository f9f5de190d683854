"""Text and features together: BERT4CTR against the other ways of joining them, on MovieLens clicks and the ad log.

Per task and seed every method sees the same rows, the text of each passes through its training as often (``EPOCHS``),
and each takes the better of the same two learning rates, by validation rows, for the first seed and keeps it. Test rows
are scored once per method, seed and task, with the model of the chosen rate. Then, on random weights, what a row costs
where it is served: alone, as features grow, and for one user and many ads by two sides (the text once, then features).

- text only; features only (an MLP of two layers over the branch's own embeddings); cascade (the text model's score as
  one more number for that); shallow interaction (features meet only [CLS]'s state)
- NumBERT, words: values of the features as words in front of the first text; tokens: one further token per feature
- BERT4CTR, one step: text and branch begin together; two steps: a text model first, then the branch, then both

    python benchmarks/bert4ctr.py [--quick] [--tasks NAME ...] [--seeds SEED ...] [--methods NAME ...] [--data FOLDER]
                                  [--work FOLDER] [--report]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import clicks
import numpy as np
import pandas as pd
from bert4ctr_serving import serving_rows, serving_targets
from bert4ctr_training import training_rows, training_targets
from common import RESULTS, Target, about_this_machine, write_result

from sparsefront.models.backbone import Backbone, load_backbone
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_model import FeatureModel
from sparsefront.models.features import FeatureRows, Features, NumericColumn
from sparsefront.models.joint_training import JointOptions, train_jointly
from sparsefront.models.numbert import NumBert
from sparsefront.models.rows import TokenRows
from sparsefront.models.scorecard import scorecard
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.training import TrainOptions, train
from sparsefront.search.pictures import plot_reliability

REPOSITORY = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
EPOCHS = 2.0
RATES = (5e-5, 1.5e-4)
FEATURE_RATES = (1e-3, 3e-3)
"""Of what has no text to forget."""
FEATURE_EPOCHS = 6.0
BRANCH_FACTOR = 10.0
ROWS = {"movielens": 14_000, "ad_log": 20_000}
QUICK_ROWS = 1_500
RIVALS = (
    *("text only", "features only", "cascade", "shallow interaction"),
    *("NumBERT, words", "NumBERT, tokens", "BERT4CTR, one step"),
)
OURS = "BERT4CTR, two steps"
METHODS = (*RIVALS, OURS)
DRAWN = ("text only", "features only", "shallow interaction", OURS)
SCORES = ("auc", "gauc", "log_loss", "calibration_error", "training_seconds", "best_possible_auc")


class Bench:
    """One task and seed: trained models by method and rate, on disk as JSON of what they scored."""

    def __init__(self, work: Path, name: str, data: Path, seed: int, quick: bool) -> None:
        self.name, self.seed, self.quick = name, seed, quick
        self.folder = work / name
        self.folder.mkdir(parents=True, exist_ok=True)
        count = QUICK_ROWS if quick else ROWS[name]
        self.task: Task = clicks.movielens(data / "ml1m", count) if name == "movielens" else clicks.ad_log(count)
        self.backbone: Backbone = load_backbone("minilm")
        self.rows = self.task.tokenise(self.backbone.tokenizer)
        self._texts: dict[float, CrossEncoder] = {}

    def row(self, method: str) -> dict[str, Any]:
        """What the method scores on test rows at its chosen rate; made once."""
        path = self.folder / f"{_slug(method)}-seed{self.seed}.json"
        if not path.exists():
            rate = self.chosen_rate(method)
            started = time.perf_counter()
            model, rows = self.trained(method, rate)
            seconds = time.perf_counter() - started
            made = {**self.scored(model, rows["test"]), "rate": rate, "training_seconds": seconds}
            made |= {"best_possible_auc": clicks.best_of_ad_log(self.task)} if self.name == "ad_log" else {}
            path.write_text(json.dumps({**made, **about_this_machine()}), encoding="utf-8")
        return {"task": self.name, "seed": self.seed, "method": method, **json.loads(path.read_text("utf-8"))}

    def chosen_rate(self, method: str) -> float:
        """The better of the rates by validation AUC for the first seed."""
        path = self.folder / f"{_slug(method)}-rates.json"
        rates = FEATURE_RATES if method in ("features only", "cascade") else RATES
        if not path.exists():
            found = {}
            for rate in rates[:1] if self.quick else rates:
                model, rows = self.trained(method, rate)
                found[rate] = self.scored(model, rows["valid"])["auc"]
            path.write_text(json.dumps(found), encoding="utf-8")
        valid = json.loads(path.read_text("utf-8"))
        return float(max(valid, key=valid.get))

    def scored(self, model: CrossEncoder | FeatureModel, rows: TokenRows) -> dict[str, Any]:
        """All metrics of rows."""
        logits = score_rows(model, rows, precision="fp32")
        return scorecard(rows, logits)

    # -- methods ---------------------------------------------------------------------------------------------------

    def trained(self, method: str, rate: float) -> tuple[CrossEncoder | FeatureModel, dict[str, TokenRows]]:
        """The method's model and the rows as it sees them."""
        makers: dict[str, Callable[[float], CrossEncoder | FeatureModel]] = {
            "text only": lambda rate: self.text(rate, EPOCHS),
            "features only": self.features_only,
            "shallow interaction": lambda rate: self.joint(rate, [0] * 6),
            "NumBERT, tokens": self.numbert_tokens,
            "BERT4CTR, one step": self.one_step,
            OURS: lambda rate: self.joint(rate, [3] * 6),
        }
        if method == "cascade":
            return self.cascade(rate)
        if method == "NumBERT, words":
            rows = worded(self.task).tokenise(self.backbone.tokenizer)
            return self.fitted(self.backbone.cross_encoder(seed=self.seed), rows["train"], rate, EPOCHS), rows
        return makers[method](rate), self.rows

    def options(self, rate: float, epochs: float) -> TrainOptions:
        """Of any training here."""
        epochs = 0.3 if self.quick else epochs
        return TrainOptions(epochs=epochs, learning_rate=rate, tokens_per_batch=1024, seed=self.seed)

    def fitted(self, model: CrossEncoder, rows: TokenRows, rate: float, epochs: float, **rates: float) -> CrossEncoder:
        train(model, rows, self.options(rate, epochs), rates=rates or None)
        return model

    def text(self, rate: float, epochs: float) -> CrossEncoder:
        """A text model; half of the epochs are the first step of those that train in two."""
        return self.fitted(self.backbone.cross_encoder(seed=self.seed), self.rows["train"], rate, epochs)

    def features_only(self, rate: float) -> FeatureModel:
        model = FeatureModel(self.branch_config([0] * 6))
        train(model, self.rows["train"], self.options(rate, FEATURE_EPOCHS))
        return model

    def cascade(self, rate: float) -> tuple[FeatureModel, dict[str, TokenRows]]:
        """The score is of a model that has trained on the same rows, as cascades have it."""
        text = self.text(self.chosen_rate("text only"), EPOCHS)
        scores = {name: score_rows(text, rows) for name, rows in self.rows.items()}
        column = NumericColumn.fit("text_score", scores["train"].astype(np.float64), 16)
        features = replace(self.task.features, numeric=(*self.task.features.numeric, column))
        rows = {name: with_number(one, scores[name]) for name, one in self.rows.items()}
        model = FeatureModel(self.branch_config([0] * 6, features))
        train(model, rows["train"], self.options(rate, FEATURE_EPOCHS))
        return model, rows

    def numbert_tokens(self, rate: float) -> CrossEncoder:
        config = self.branch_config([0] * 6, feature_width=self.backbone.config.hidden_size)
        model = NumBert.of(self.backbone.cross_encoder(seed=self.seed), config, seed=self.seed)
        return self.fitted(model, self.rows["train"], rate, EPOCHS, embedding=BRANCH_FACTOR)

    def one_step(self, rate: float) -> CrossEncoder:
        model = Bert4Ctr.of(self.backbone.cross_encoder(seed=self.seed), self.branch_config([3] * 6), seed=self.seed)
        return self.fitted(model, self.rows["train"], rate, EPOCHS, branch=BRANCH_FACTOR)

    def joint(self, rate: float, heads: list[int]) -> CrossEncoder:
        """Half of the epochs on text alone, then the branch beside it, then the other half on both."""
        if rate not in self._texts:
            self._texts[rate] = self.text(rate, EPOCHS / 2)
        model = Bert4Ctr.of(self._texts[rate], self.branch_config(heads), seed=self.seed)
        branch = self.options(1e-3, EPOCHS / 2)
        steps = JointOptions(branch=branch, joint=self.options(rate, EPOCHS / 2), branch_factor=BRANCH_FACTOR)
        train_jointly(model, self.rows["train"], steps)
        return model

    def branch_config(self, heads: list[int], features: Features | None = None, **branch: Any) -> Bert4CtrConfig:
        own = self.task.features if features is None else features
        return Bert4CtrConfig.of(self.backbone.config, own, layer_feature_heads=heads, **branch)


def with_number(rows: TokenRows, values: np.ndarray[Any, np.dtype[np.float32]]) -> TokenRows:
    """The rows with one more numeric feature (rows,)."""
    assert rows.features is not None
    numeric = np.column_stack([rows.features.numeric, values]).astype(np.float32)
    return replace(rows, features=FeatureRows(numeric, rows.features.categorical))


def worded(task: Task) -> Task:
    """The task with its features' values as words in front of the first text, and rows cut so much later."""
    frame, names = task.frame, task.features.names
    cells = zip(*([_worded(name, value) for value in frame[name].tolist()] for name in names), strict=True)
    words = [" ".join(row) for row in cells]
    first = task.spec.text[0]
    content = task.spec.model_dump(exclude={"data", "numeric", "categorical"}, exclude_none=True)
    longer = min(512, task.spec.max_length + 6 * len(names))
    changed = frame.assign(**{first: [f"{word} . {text}" for word, text in zip(words, frame[first], strict=True)]})
    return Task.from_frame(changed, {**content, "max_length": longer})


def _worded(name: str, value: Any) -> str:
    if pd.isna(value):
        return f"{name.rsplit('_', 1)[-1]} unknown"
    shown = f"{value:.2g}" if isinstance(value, float) else str(value)
    return f"{name.rsplit('_', 1)[-1]} {shown}"


def _slug(method: str) -> str:
    return method.lower().replace(", ", "-").replace(" ", "-")


# -- report ------------------------------------------------------------------------------------------------------------


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per task and method the mean over the seeds, and what BERT4CTR has more on the seeds that both have."""
    found = []
    auc = {(row["task"], row["method"], row["seed"]): row["auc"] for row in rows}
    for task, method in dict.fromkeys((row["task"], row["method"]) for row in rows):
        own = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        line = {"task": task, "method": method, "seeds": len(own)}
        line |= {name: float(np.mean([row[name] for row in own])) for name in SCORES if name in own[0]}
        gains = [auc[task, OURS, row["seed"]] - row["auc"] for row in own if (task, OURS, row["seed"]) in auc]
        if gains and method != OURS:
            line |= {"behind_bert4ctr_points": 100 * float(np.mean(gains))}
            if len(gains) > 1:
                line |= {"standard_error_points": 100 * float(np.std(gains, ddof=1) / np.sqrt(len(gains)))}
        found.append(line)
    return found


def targets_of(lines: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of quality."""
    for line in lines:
        if "behind_bert4ctr_points" in line:
            least = 0.5 if line["method"] == "shallow interaction" else 0.0
            name = f"{line['task']}: test AUC of BERT4CTR minus {line['method']}, points, mean of {line['seeds']} seeds"
            yield Target(name, ">=", least, line["behind_bert4ctr_points"])
        elif line["method"] == OURS and "best_possible_auc" in line:
            short = 100 * (line["best_possible_auc"] - line["auc"])
            yield Target(f"{line['task']}: points below the best possible AUC", "<=", 1.0, short)


def measured(work: Path, data: Path, quick: bool, *, only_there: bool) -> list[dict[str, Any]]:
    """What features cost where a model is trained and where it is served, each measured once with nothing beside it."""
    makers: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "serving.json": lambda: serving_rows(work, quick),
        "training.json": lambda: trained(work, data, quick),
    }
    found: list[dict[str, Any]] = []
    for name, make in makers.items():
        path = work / name
        if not path.exists() and not only_there:
            path.write_text(json.dumps(make()), encoding="utf-8")
        found += json.loads(path.read_text("utf-8")) if path.exists() else []
    return found


def trained(work: Path, data: Path, quick: bool) -> list[dict[str, Any]]:
    """What a training pass costs on MovieLens."""
    bench = Bench(work, "movielens", data, 0, quick)
    branch = bench.branch_config([3] * 6)
    wide = bench.branch_config([0] * 6, feature_width=bench.backbone.config.hidden_size)
    text_rows = worded(bench.task).tokenise(bench.backbone.tokenizer)["train"]
    text = bench.backbone.cross_encoder(seed=0)
    return training_rows(bench.rows["train"], text_rows, text, branch, wide, quick)


Kept = dict[tuple[str, int, str], dict[str, Any]]


def stored(quick: bool) -> Kept:
    """Rows of the result by task, seed and method."""
    path = RESULTS / "bert4ctr.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() and not quick else []
    return {(row["task"], row["seed"], row["method"]): row for row in rows if "seed" in row}


def main() -> None:
    """Make what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rows, one seed, hardly any training")
    parser.add_argument("--report", action="store_true", help="make nothing new, report what is there")
    parser.add_argument("--tasks", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-bert4ctr")
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    kept, costs = stored(quick), measured(work, arguments.data, quick, only_there=arguments.report)
    for seed in [] if arguments.report else (arguments.seeds[:1] if quick else arguments.seeds):
        for name in arguments.tasks:
            bench = Bench(work, name, arguments.data, seed, quick)
            for method in arguments.methods:
                kept[name, seed, method] = bench.row(method)
                report(kept, costs, quick)
    report(kept, costs, quick)


def report(kept: Kept, costs: list[dict[str, Any]], quick: bool) -> None:
    """Write the result of what is there, and draw how right the probabilities of the first seed are."""
    rows = sorted(kept.values(), key=lambda row: (row["task"], row["seed"], METHODS.index(row["method"])))
    lines = summary(rows)
    targets = [*targets_of(lines), *serving_targets(costs), *training_targets(costs)]
    path = write_result("bert4ctr", [*lines, *costs, *rows], targets, sorted({row["seed"] for row in rows}), quick)
    drawn = [row for row in rows if row["seed"] == SEEDS[0] and row["method"] in DRAWN and row["task"] == "movielens"]
    if drawn and not quick:
        title = "MovieLens clicks, test rows"
        plot_reliability(path.with_suffix(".png"), {row["method"]: row for row in drawn}, title=title)


if __name__ == "__main__":
    main()
