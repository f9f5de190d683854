"""Token pruning on GLUE, SQuAD and long reviews: what learned schedules lose, and what they save, in honest units.

Per task and seed: a teacher; a supernet in which every layer may drop tokens, with the teacher's ranking of tokens
distilled into its early layers; a schedule learned for each target, without training anything anew; and the model
with that schedule tuned, on the teacher's states as well as its logits (but where answers are spans), and measured. The
official dev rows are scored once, at the end; a tenth of the training rows is held back for everything else. At the
high target the same without ranking distillation, and other rules at the same predicted latency, tuned alike: a fixed
schedule, from the same supernet; first and random tokens, from that one too, without ranking; LTP at the same
multiply-adds, from the supernet without ranking, its thresholds set before the tuning and not learned.

A target is a share of what schedules can save at all: a call reads every weight, however few tokens are left. On a CPU
that multiplies fast that alone takes more than half of the time of a row of thirty tokens.

Multiply-adds and microseconds are given against the dense model on the same rows without padding, and against rows
padded to the length that the ToP paper pads to; microseconds also of a call of sixteen rows, all of the mean length,
which read the weights once. Calls that are compared are timed in turn. SQuAD's score is the official F1, of words; its
question is protected.

A task takes minutes to hours. Tables are made first and microseconds are measured last, when nothing is trained. Tasks
and seeds that are not asked for stay in the result as they are stored there. With ``--untimed`` models are only made,
so that several calls can train side by side; a later call without it finds them, times them and writes the result.

    python benchmarks/token_pruning.py [--quick] [--tasks NAME ...] [--seeds SEED ...] [--methods NAME ...]
                                       [--data FOLDER] [--work FOLDER] [--report | --untimed]
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import squad
from common import RESULTS, about_this_machine, write_result
from token_rivals import FirstTokens, RandomTokens, Thresholds, bisect, tokens_seen
from token_summary import HIGH, LEARNED, ROWS_TOGETHER, summary, targets_of

from sparsefront.latency.drift import measure_sessions
from sparsefront.latency.runtime import Session
from sparsefront.latency.runtimes import runtime
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.timing import LatencyStats, time_interleaved
from sparsefront.models.backbone import load_backbone
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.gated_encoding import Gates
from sparsefront.models.metrics import quality
from sparsefront.models.multiply_adds import adds_of_tokens, multiply_adds
from sparsefront.models.rank_distillation import RankTeacher, layers_to_teach, teacher_token_scores
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.state_distillation import StateTeacher, teacher_states
from sparsefront.models.task import Task
from sparsefront.models.token_gates import GateSample
from sparsefront.models.token_schedule import ScheduleOptions
from sparsefront.models.training import TrainOptions, train
from sparsefront.search.export import export_model
from sparsefront.search.measured import TABLES, Measured
from sparsefront.search.prepare import Prepared
from sparsefront.search.progress import Rich
from sparsefront.search.run import Run
from sparsefront.search.schedules import learn
from sparsefront.search.settings import PrepareSettings, SearchSettings
from sparsefront.spaces import Genome

REPOSITORY = Path(__file__).parent.parent
SEEDS = (0, 1, 2)
METHODS = (
    *("dense", *LEARNED, "without ranking"),
    *("first tokens", "random tokens", "falling schedule", "thresholds (LTP)"),
)


@dataclass(frozen=True)
class Kind:
    """One task.

    Attributes:
        folder: under the data folder.
        text: columns.
        metric: as GLUE reports it.
        padded: length that the paper pads to, or that rows are cut to.
        epochs: of the teacher, of the supernet and of the tuning.
        teacher_rate: learning rate of the teacher. At 1e-4 and four epochs that of RTE learns next to nothing, 54 % of
            the dev rows; at 3e-5 and eight it has 65 % of the held-back rows. CoLA's has 0.29 of them at 1e-4 and 1024
            tokens a batch, 0.32 at 5e-5 and 384 (one seed each, not stored).
        batch_tokens: of a step, in all trainings.
        saved: gentle, mild and high target: of what the tightest schedule takes off the dense model's latency on the
            same rows. Supernets are trained around the last two.
        most_rows: of the training rows that are used.
        graded: range of a label that is a number.
        spans: whether the label is an answer in the second text.
    """

    folder: str
    text: tuple[str, ...]
    metric: str
    padded: int
    epochs: tuple[float, float, float]
    teacher_rate: float = 1e-4
    saved: tuple[float, float, float] = (0.3, 0.5, 0.7)
    batch_tokens: int = 1024
    most_rows: int = 100_000
    graded: tuple[float, float] | None = None
    spans: bool = False


SAVED_OF_LONG = (0.5, 0.75, 0.95)
"""A long row has more words to spare."""
KINDS = {
    "rte": Kind("glue", ("sentence1", "sentence2"), "accuracy", 256, (8, 6, 3), teacher_rate=3e-5),
    "mrpc": Kind("glue", ("sentence1", "sentence2"), "f1", 128, (5, 6, 3), teacher_rate=5e-5),
    "cola": Kind(
        "glue",
        ("sentence",),
        "matthews",
        64,
        (5, 6, 3),
        teacher_rate=5e-5,
        batch_tokens=384,
    ),
    "stsb": Kind("glue", ("sentence1", "sentence2"), "pearson_spearman", 64, (4, 6, 3), graded=(0.0, 5.0)),
    "sst2": Kind("glue", ("sentence",), "accuracy", 64, (2, 2, 1), most_rows=20_000),
    "imdb": Kind("reviews16", ("text",), "accuracy", 256, (4, 4, 2), saved=SAVED_OF_LONG),
    "books": Kind("reviews16", ("text",), "accuracy", 256, (4, 4, 2), saved=SAVED_OF_LONG),
    "squad": Kind("squad11", ("question", "context"), "span_f1", 384, (1.5, 0.7, 0.3), most_rows=12_000, spans=True),
}


def load(name: str, kind: Kind, data: Path, quick: bool) -> Task:
    """The task with official dev rows (of the reviews: test rows) as its test rows."""
    if kind.spans:
        parts = {
            split: squad.read(data / kind.folder, part).sample(frac=1, random_state=0, ignore_index=True)
            for split, part in (("train", "train"), ("test", "dev"))
        }
    elif kind.folder == "glue":
        parts = {
            split: pd.read_parquet(data / "glue" / f"{name}_{part}.parquet")
            for split, part in (("train", "train"), ("test", "dev"))
        }
    else:
        parts = {
            split: pd.read_csv(
                data / "reviews16" / f"{name}.{split}.tsv.gz", sep="\t", quoting=3, keep_default_na=False
            )
            for split in ("train", "test")
        }
    most = 300 if quick else kind.most_rows
    frames = [frame.iloc[:most].assign(split=split) for split, frame in parts.items()]
    label: dict[str, Any] = {"column": "label", "kind": "binary"}
    if kind.graded:
        label = {"column": "label", "kind": "graded", "range": list(kind.graded)}
    if kind.spans:
        label = {"column": "answer", "kind": "span", "start": "answer_start"}
    content = {
        "name": name,
        "text": list(kind.text),
        "label": label,
        "split": {"column": "split", "valid": 0.1, "seed": 0, **({"group": "context_id"} if kind.spans else {})},
        "max_length": kind.padded,
        "metric": kind.metric,
        "protect": "first" if kind.spans else "none",
    }
    return Task.from_frame(pd.concat(frames, ignore_index=True), content)


class Bench:
    """One task and seed: prepared steps with and without ranking distillation, and what is made of them."""

    def __init__(self, work: Path, name: str, task: Task, seed: int, quick: bool) -> None:
        self.work, self.kind, self.task, self.seed, self.quick = work, KINDS[name], task, seed, quick
        self.folder = work / f"{name}-seed{seed}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.backbone = load_backbone("minilm").serving(task)
        self._prepared: dict[bool, Prepared] = {}

    def run(self, ranking: bool) -> Run:
        """With its own supernet around the last two targets."""
        return self.run_around(ranking, tuple(self.target(method) for method in LEARNED[1:]))

    def run_around(self, ranking: bool, shares: tuple[float, ...]) -> Run:
        """Around shares of latency; table and teacher are taken from elsewhere where they are made already."""
        teacher, elastic, _ = (0.3,) * 3 if self.quick else self.kind.epochs
        folder = self.folder / ("ranked" if ranking else "plain")
        for made, step in ((self.tables, TABLES), (self.folder / "ranked" / "teacher", "teacher")):
            if made.exists() and not (folder / step).exists():
                shutil.copytree(made, folder / step)
        return Run(
            folder / "run",
            shared=folder,
            task=self.task,
            backbone=self.backbone,
            settings=SearchSettings(budget_share=0.5, space="tokens", seed=self.seed),
            preparation=PrepareSettings(
                at_length="mean",
                focus_shares=shares,
                importance_rows=64,
                genomes_per_step=2,
                rank_weight=0.3 if ranking else 0.0,
                teacher=TrainOptions(
                    epochs=teacher,
                    learning_rate=self.kind.teacher_rate,
                    tokens_per_batch=self.kind.batch_tokens,
                    seed=self.seed,
                ),
                elastic=TrainOptions(
                    epochs=elastic,
                    learning_rate=1e-4,
                    tokens_per_batch=self.kind.batch_tokens,
                    distil_share=0.8,
                    dropout=0.1,
                    freeze_embeddings=True,
                    seed=self.seed,
                ),
                seed=self.seed,
            ),
            reporter=Rich(),
        )

    @property
    def tables(self) -> Path:
        """Latency tables of a length, for all tasks and seeds."""
        return self.work / f"tables-{self.kind.padded}"

    @cached_property
    def measured(self) -> Measured:
        """The latency table; the dense model's latency too is the table's, which was made when nothing was trained."""
        run = self.run_around(True, ())
        measured = run.measure()
        if not self.tables.exists():
            shutil.copytree(run.shared / TABLES, self.tables)
        return replace(measured, dense_us=float(measured.predict_roughly([self.backbone.config.genome])[0]))

    def prepared(self, ranking: bool) -> Prepared:
        """Table, teacher and supernet, made once."""
        if ranking not in self._prepared:
            run = self.run(ranking)
            self._prepared[ranking] = run.prepare(self.measured)
        return self._prepared[ranking]

    def row(self, method: str) -> dict[str, Any]:
        """A row of the result, made once."""
        made = once(self.path(method), lambda: {**self.made(method), **about_this_machine()})
        return {"task": self.task.name, "seed": self.seed, "method": method, **made}

    def path(self, method: str) -> Path:
        """Of what is kept of a method."""
        return self.folder / f"{method.replace(' ', '-')}.json"

    def made(self, method: str) -> dict[str, Any]:
        """What a method gives; all but ``dense`` and milder targets are compared at the high one."""
        ranked = self.prepared(True)
        if method == "dense":
            return self.scored(ranked.teacher, ranked.rows["test"])
        if method in LEARNED:
            export = self.path(method).with_suffix("")
            return {
                "target": self.target(method),
                **self.tuned(ranked, self.schedule(True, method), True, export=export),
            }
        if method == "without ranking":
            return self.tuned(self.prepared(False), self.schedule(False, HIGH), False)
        high = self.schedule(True, HIGH)
        gates = GateSample.of_schedule(high.column("keep_percent")[:-1])
        rules: dict[str, Gates] = {"first tokens": FirstTokens(gates), "random tokens": RandomTokens(gates, self.seed)}
        if method in rules:
            return self.tuned(ranked, high, False, gates=rules[method])
        if method == "falling schedule":
            return self.tuned(ranked, self.fallen(high), True)
        plain = self.prepared(False)
        return self.tuned(plain, high, False, gates=self.thresholds(plain, high))

    def target(self, method: str) -> float:
        """Share of the dense latency that a learned schedule is for, in whole percents."""
        whole = self.backbone.config.genome
        dense_us, least_us = self.measured.predict_roughly([whole, whole.keeping((1,) * (len(whole) - 1))])
        return round(1 - self.kind.saved[LEARNED.index(method)] * float(1 - least_us / dense_us), 2)

    def schedule(self, ranking: bool, method: str) -> Genome:
        options = ScheduleOptions(steps=20 if self.quick else 300, seed=self.seed)
        run, prepared = self.run(ranking), self.prepared(ranking)
        learned = learn(run.shared, prepared, self.target(method), options, by="latency", reporter=run.reporter)
        return learned.genome

    @cached_property
    def ranks(self) -> RankTeacher:
        """The teacher's ranking of the training rows' tokens; all methods have the same teacher."""
        teacher, rows = self.prepared(True).teacher, self.prepared(True).rows["train"]
        scores = teacher_token_scores(teacher, rows)
        return RankTeacher(scores, rows.offsets, layers=layers_to_teach(len(teacher.genome)), weight=0.3)

    @cached_property
    def states(self) -> StateTeacher | None:
        """What the teacher's head reads of the training rows; nothing where it reads every token."""
        prepared = self.prepared(True)
        return None if self.kind.spans else StateTeacher(teacher_states(prepared.teacher, prepared.rows["train"]))

    def tuned(
        self,
        prepared: Prepared,
        genome: Genome,
        ranking: bool,
        *,
        gates: Gates | None = None,
        export: Path | None = None,
    ) -> dict[str, Any]:
        """Tune the supernet for a schedule or a rule, score it, and export it to a folder."""
        rows = prepared.rows["train"]
        teaching = self.ranks if ranking else None
        model = prepared.supernet.slim(genome if gates is None else genome.keeping())
        epochs = 0.3 if self.quick else self.kind.epochs[2]
        options = replace(prepared.settings.elastic, epochs=epochs, learning_rate=5e-5)
        logits = prepared.teacher_logits
        train(model, rows, options, teacher_logits=logits, gates=gates, ranking=teaching, states=self.states)
        if export:
            self.exported(export, model)
        return self.scored(model, prepared.rows["test"], gates=gates)

    def exported(self, folder: Path, model: CrossEncoder) -> None:
        """Export a model anew."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        export_model(folder, model, self.backbone.tokenizer)

    def scored(self, model: CrossEncoder, rows: TokenRows, gates: Gates | None = None) -> dict[str, Any]:
        """Quality on test rows and multiply-adds of a mean one, without padding and of the dense model with it."""
        logits = score_rows(model, rows, gates=gates, precision="fp32")
        config = self.backbone.config
        lengths = rows.lengths
        own = float(multiply_adds([model.genome], lengths, config)[0].mean())
        score: dict[str, float] = {}
        if self.kind.spans:
            answers = self.task.frame["all_answers"].iloc[self.task.indices("test")].tolist()
            score = squad.scores(squad.told_answers(self.task, self.backbone.tokenizer, logits), answers)
        return {
            "score": score.pop("f1", quality(self.task.spec.metric, rows.positive, rows.target, logits)),
            **score,
            "genome": model.genome.key(),
            "multiply_adds": own if gates is None else adds_under(model, rows, gates),
            "dense_multiply_adds": float(multiply_adds([config.genome], lengths, config)[0].mean()),
            "dense_multiply_adds_padded": float(
                multiply_adds([config.genome], [self.kind.padded], config, cls_only=False)[0, 0]
            ),
            "tokens_mean": float(lengths.mean()),
        }

    def microseconds(self, method: str) -> dict[str, float]:
        """Of a mean test row, by the export of a method and the dense one; of that also with padding."""
        return once(self.path(f"{method} microseconds"), lambda: self._microseconds(self.path(method).with_suffix("")))

    def _microseconds(self, export: Path) -> dict[str, float]:
        serving, prepared = runtime("onnxruntime", threads=1), self.prepared(True)
        dense_export = self.folder / "dense-export"
        self.exported(dense_export, prepared.teacher)
        sessions = [serving.load_export(folder) for folder in (dense_export, export)]
        traffic = Statistic.of_traffic(prepared.rows["test"].lengths, at="mean", longest=self.kind.padded)
        whole = Statistic.of_length(self.kind.padded)
        dense, pruned, padded = measured_in_turn(
            [(sessions[0], traffic), (sessions[1], traffic), (sessions[0], whole)], visits=20
        )
        mean = Statistic.of_length(round(float(prepared.rows["test"].lengths.mean())), batch=ROWS_TOGETHER)
        dense_together, together = measure_sessions(sessions, statistic=mean, visits=10)
        return {
            "microseconds": pruned.median_us,
            "dense_microseconds": dense.median_us,
            "dense_microseconds_padded": padded.median_us,
            "microseconds_together": together.median_us / ROWS_TOGETHER,
            "dense_microseconds_together": dense_together.median_us / ROWS_TOGETHER,
        }

    def fallen(self, like: Genome) -> Genome:
        """A fixed schedule as PoWER-BERT has (arXiv 2001.08950), within the same predicted latency: each layer keeps
        the same share."""
        predict, layers = self.measured.predict_roughly, len(like) - 1
        path = [like.keeping((percent,) * layers) for percent in range(99, 0, -1)]
        return path[int(np.flatnonzero(predict(path) <= predict([like])[0])[0])]

    def thresholds(self, prepared: Prepared, like: Genome) -> Thresholds:
        """Thresholds that cost as many multiply-adds on the held-back rows."""
        rows, layers = prepared.rows["valid"], len(like) - 1
        target = float(multiply_adds([like], rows.lengths, self.backbone.config)[0].mean())

        def cost(final: float) -> float:
            return adds_under(prepared.supernet, rows, Thresholds(final, layers))

        return Thresholds(bisect(cost, target, 0.0, 3.0), layers)


def once(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What is kept at a path, made where it is not."""
    if not path.exists():
        path.write_text(json.dumps(make()), encoding="utf-8")
    kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return kept


def measured_in_turn(calls: Sequence[tuple[Session, Statistic]], visits: int) -> list[LatencyStats]:
    """Latency of sessions, each in a statistic of its own, all visited in turn."""
    sessions = [session for session, statistic in calls for _ in statistic.lengths]
    feeds = [one for _, statistic in calls for one in statistic.feeds()]
    left = iter(time_interleaved(sessions, feeds, visits=visits))
    return [statistic.summary(list(islice(left, len(statistic.lengths)))) for _, statistic in calls]


def adds_under(model: CrossEncoder, rows: TokenRows, gates: Gates) -> float:
    """Multiply-adds of a mean row under a rule, all heads and units kept."""
    seen = tokens_seen(model, rows, gates)
    left = seen[:, -1:] if model.config.per_token else np.ones((len(seen), 1), np.int64)
    seen = np.concatenate([seen, left], axis=1)
    heads, units = (np.array(model.genome.column(field)) for field in ("heads", "ffn_units"))
    return float(adds_of_tokens(seen, heads, units, model.config).mean())


def main() -> None:
    """Make what is missing, report all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 rows, the first task, one seed, hardly any training")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--report", action="store_true", help="make nothing new, report what is there")
    way.add_argument("--untimed", action="store_true", help="train what is missing, time and report nothing")
    parser.add_argument("--data", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "runs" / "benchmark-token-pruning")
    parser.add_argument("--tasks", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    quick = arguments.quick
    work = arguments.work / ("quick" if quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    tasks, seeds = (arguments.tasks[:1], [0]) if quick else (arguments.tasks, arguments.seeds)
    kept = {} if quick else stored()
    if not arguments.report:
        loaded = {name: load(name, KINDS[name], arguments.data, quick) for name in tasks}
        benches = [Bench(work, name, loaded[name], seed, quick) for seed in seeds for name in tasks]
        for bench in benches:
            print(f"{bench.task.name}: targets {', '.join(f'{bench.target(one):g}' for one in LEARNED)}")
        for bench in benches:
            for method in arguments.methods:
                kept[bench.task.name, bench.seed, method] = bench.row(method)
                if not arguments.untimed:
                    report(kept, quick)
        if arguments.untimed:
            return
        for bench in benches:
            for method in (one for one in arguments.methods if one in LEARNED):
                kept[bench.task.name, bench.seed, method] |= bench.microseconds(method)
    report(kept, quick)


Kept = dict[tuple[str, int, str], dict[str, Any]]


def stored() -> Kept:
    """What the result holds: rows of a task, a seed and a method."""
    path = RESULTS / "token_pruning.json"
    rows = json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []
    return {(row["task"], row["seed"], row["method"]): row for row in rows if "seed" in row}


def report(kept: Kept, quick: bool) -> None:
    """Write the result of what is there."""
    rows = sorted(kept.values(), key=lambda row: (list(KINDS).index(row["task"]), row["seed"]))
    means = summary(rows)
    write_result("token_pruning", [*means, *rows], list(targets_of(means)), sorted({r["seed"] for r in rows}), quick)


if __name__ == "__main__":
    main()
