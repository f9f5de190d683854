"""What a step of training costs: histories of looked-up vectors against the same histories as one text, as they grow.

All ways take one optimiser step (batch, lookup, forward, backward, clipping, AdamW) over the same rows at once, in
single or bf16 precision as ``train`` chooses, on ``THREADS`` thread. Seconds are taken in turn in one process, medians
of the rounds; the first round warms up. Peak memory is that of a step in a process of its own, above what is resident
with model and rows loaded and a step of one row done, median of as many processes; the kernel keeps the peak.

Rows are drawn from those whose history is long enough for the largest number of tokens; the flat model reads that many
tokens of it, behind the item, and Bahe the films that the flat model sees a part of. Both train as models do here: from
64 tokens on by the fused attention kernel, without which the flat model's memory would grow with the square of the
tokens.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import clicks
import numpy as np
import torch
from common import Target, about_this_machine, save_picture
from flat_history import FilmTokens, FlatHistory
from memory import resident_bytes_of

from sparsefront.models.backbone import load_backbone
from sparsefront.models.bahe import Bahe
from sparsefront.models.batching import best_device, uses_bf16
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.frozen_layers import FrozenLayers
from sparsefront.models.rows import TokenRows
from sparsefront.models.tokens import load_arrays, save_arrays
from sparsefront.models.training import TrainOptions, train

TOKENS, QUICK_TOKENS = (256, 512, 1024, 2048), (128, 256)
ROWS, QUICK_ROWS = 16, 4
ROUNDS, QUICK_ROUNDS = 3, 1
PROCESSES, QUICK_PROCESSES = 3, 1
DRAWN, QUICK_DRAWN = 2000, 300
THREADS = 1
MOST_FILMS = 250
"""Of a history: more than 2048 tokens hold."""
MAX_TOKENS: dict[clicks.Form, int] = {"short": 64, "long": 256}
"""To which films are cut before they are encoded."""
LEAST_FILMS: dict[clicks.Form, int] = {"short": 180, "long": 30}
"""That were liked before, of rows that are drawn: about as many as hold 2048 tokens."""
BAHE, FLAT = WAYS = "Bahe", "flat"
LESS_TIME, LESS_MEMORY = 5.7, 6.0
"""At the largest number of tokens; the paper's one row says 5.66 and 5.98."""


def training_costs(
    work: Path, data: Path, frozen_layers: int, rows_trained: int, quick: bool, *, only_there: bool
) -> list[dict[str, Any]]:
    """A row per form of behaviours, number of tokens and way of training, each kept as it is made.

    Args:
        work: folder of what is kept.
        data: folder of the data set.
        frozen_layers: of both models.
        rows_trained: rows that a whole training passes, over which the encoding of all films is spread.
        quick: few rows and rounds, short behaviours alone.
        only_there: make nothing new.
    """
    found: list[dict[str, Any]] = []
    forms: tuple[clicks.Form, ...] = ("short",) if quick else ("short", "long")
    for form in forms:
        folder = work / f"costs-{form}"
        cells = {tokens: folder / f"cost-{tokens}.json" for tokens in (QUICK_TOKENS if quick else TOKENS)}
        if not only_there and not all(path.exists() for path in cells.values()):
            folder.mkdir(parents=True, exist_ok=True)
            encoding = prepare(folder, data, form, frozen_layers, quick)
            for tokens, path in cells.items():
                if not path.exists():
                    made = costs_at(folder, tokens, frozen_layers, encoding, rows_trained, quick)
                    rows = [{"form": form, "history_tokens": tokens, **row, **about_this_machine()} for row in made]
                    path.write_text(json.dumps(rows), encoding="utf-8")
        for path in cells.values():
            found += json.loads(path.read_text("utf-8")) if path.exists() else []
    return found


def prepare(folder: Path, data: Path, form: clicks.Form, frozen_layers: int, quick: bool) -> dict[str, float]:
    """Both models and the rows of each number of tokens, on disk; what the encoding of all films has cost."""
    kept = folder / "encoding.json"
    if kept.exists():
        found: dict[str, float] = json.loads(kept.read_text("utf-8"))
        return found
    drawn, count, lengths = (QUICK_DRAWN, QUICK_ROWS, QUICK_TOKENS) if quick else (DRAWN, ROWS, TOKENS)
    task = clicks.movielens_histories(data, drawn, form=form, least=LEAST_FILMS[form], most=MOST_FILMS)
    histories = task.histories
    if histories is None:
        raise ValueError("a task of histories is needed")
    backbone = load_backbone("minilm")
    above = backbone.above(FrozenLayers(layers=frozen_layers, max_tokens=MAX_TOKENS[form]), task)
    if above.below is None:
        raise ValueError("a backbone of histories has layers below")
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    started = time.perf_counter()
    vectors = above.below.encode(histories.texts)
    seconds = time.perf_counter() - started
    torch.set_num_threads(before)
    rows, films = task.history_rows(vectors)["train"], FilmTokens(histories.texts, backbone.tokenizer)
    long_enough = np.flatnonzero(films.history_tokens(rows) >= lengths[-1])
    if len(long_enough) < count:
        raise ValueError(f"{count} rows of {lengths[-1]} tokens are needed, got {len(long_enough)}")
    rows = rows.subset(np.random.default_rng(0).choice(long_enough, size=count, replace=False))
    longest = 0
    for tokens in lengths:
        flat = films.flat(rows, tokens)
        longest = max(longest, int(flat.lengths.max()))
        save_arrays(folder / f"flat-{tokens}.safetensors", flat.to_arrays())
        save_arrays(folder / f"bahe-{tokens}.safetensors", films.within(rows, tokens).to_arrays())
    above.cross_encoder(seed=0).save_pretrained(folder / "bahe")
    FlatHistory.over(backbone, frozen_layers=frozen_layers, longest_tokens=longest).save_pretrained(folder / "flat")
    encoding = {"encoding_seconds": seconds, "encoded_texts": len(histories.texts)}
    kept.write_text(json.dumps(encoding), encoding="utf-8")
    return encoding


def costs_at(
    folder: Path, tokens: int, frozen_layers: int, encoding: dict[str, float], rows_trained: int, quick: bool
) -> list[dict[str, Any]]:
    """A row per way at so many tokens of history."""
    memory = {
        way: [_alone(folder, way, tokens, frozen_layers) for _ in range(QUICK_PROCESSES if quick else PROCESSES)]
        for way in WAYS
    }
    seconds = _in_turn(folder, tokens, frozen_layers, rounds=QUICK_ROUNDS if quick else ROUNDS)
    found = []
    for way in WAYS:
        rows = _rows(folder, way, tokens)
        row: dict[str, Any] = {
            "trained": way,
            "rows": len(rows),
            "tokens_computed": int(rows.lengths.sum()) + (len(rows) if way == BAHE else 0),
            "threads": THREADS,
            "precision": "bf16" if uses_bf16(best_device(), "auto") else "fp32",
            "step_seconds": float(np.median(seconds[way])),
            "step_seconds_of_rounds": seconds[way],
            "step_memory_mib": float(np.median([peak - before for before, peak in memory[way]])) / 2**20,
            "whole_memory_mib": float(np.median([peak for _, peak in memory[way]])) / 2**20,
        }
        if way == BAHE:
            spread = encoding["encoding_seconds"] * len(rows) / rows_trained
            row |= {**encoding, "step_seconds_with_encoding": row["step_seconds"] + spread}
            row["behaviours_a_row"] = float(rows.lengths.mean()) - 1
        found.append(row)
    ours, flat = found
    for name, key in (("seconds", "step_seconds"), ("memory", "step_memory_mib"), ("whole_memory", "whole_memory_mib")):
        flat[f"times_the_{name}_of_bahe"] = flat[key] / ours[key]
    return found


def _in_turn(folder: Path, tokens: int, frozen_layers: int, *, rounds: int) -> dict[str, list[float]]:
    """Seconds of a step per way and round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    rows = {way: _rows(folder, way, tokens) for way in WAYS}
    models = {way: _model(folder, way, frozen_layers) for way in WAYS}
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            started = time.perf_counter()
            _step(models[way], rows[way])
            if number:
                seconds[way].append(time.perf_counter() - started)
            models[way].zero_grad()
    torch.set_num_threads(threads)
    return seconds


def _alone(folder: Path, way: str, tokens: int, frozen_layers: int) -> tuple[int, int]:
    """Resident bytes before a step and the most in it, in a new process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_resident_bytes, folder, way, tokens, frozen_layers).result()


def _resident_bytes(folder: Path, way: str, tokens: int, frozen_layers: int) -> tuple[int, int]:
    torch.set_num_threads(THREADS)
    model, rows = _model(folder, way, frozen_layers), _rows(folder, way, tokens)
    _step(model, rows.subset([0]))
    model.zero_grad()
    return resident_bytes_of(lambda: _step(model, rows))


def _step(model: CrossEncoder, rows: TokenRows) -> None:
    """One step over all rows at once."""
    whole = len(rows) * int(rows.lengths.max())
    frozen = isinstance(model, FlatHistory)
    train(model, rows, TrainOptions(learning_rate=1e-5, tokens_per_batch=whole, freeze_embeddings=frozen))


def _rows(folder: Path, way: str, tokens: int) -> TokenRows:
    path = folder / f"{'bahe' if way == BAHE else 'flat'}-{tokens}.safetensors"
    arrays = load_arrays(path)
    if arrays is None:
        raise ValueError(f"{path}: damaged; expected rows, delete the folder to make them anew")
    return TokenRows.from_arrays(arrays)


def _model(folder: Path, way: str, frozen_layers: int) -> CrossEncoder:
    if way == BAHE:
        return Bahe.from_pretrained(folder / "bahe")
    model = FlatHistory.from_pretrained(folder / "flat")
    model.frozen_layers = frozen_layers
    return model


def cost_targets(rows: Sequence[dict[str, Any]]) -> Iterator[Target]:
    """What is claimed of the longest histories."""
    for row in rows:
        if row.get("trained") == FLAT and row["history_tokens"] == TOKENS[-1]:
            at = f"{row['history_tokens']} tokens of history, {row['form']} behaviours, flat model over Bahe"
            yield Target(f"time of a training step, {at}", ">=", LESS_TIME, row["times_the_seconds_of_bahe"])
            yield Target(f"memory of a training step, {at}", ">=", LESS_MEMORY, row["times_the_memory_of_bahe"])


def draw_growth(rows: Sequence[dict[str, Any]], quick: bool) -> None:
    """Seconds and memory of a step as histories grow."""
    costs = [row for row in rows if "trained" in row]

    def draw(figure: Any, axes: Any) -> None:
        axes.remove()
        panels = dict(zip(("step_seconds", "step_memory_mib"), figure.subplots(1, 2), strict=True))
        labels = ("seconds of a training step", "memory of a training step, MiB")
        for (name, panel), label in zip(panels.items(), labels, strict=True):
            for form, way in dict.fromkeys((row["form"], row["trained"]) for row in costs):
                own = [row for row in costs if (row["form"], row["trained"]) == (form, way)]
                told = {"short": "title and genres", "long": "title and plot"}[form]
                style = {"marker": "o", "linestyle": "-" if form == "short" else "--"}
                at = [row["history_tokens"] for row in own]
                panel.loglog(at, [row[name] for row in own], **style, label=f"{way}; {told}")
            ticks = sorted({row["history_tokens"] for row in costs})
            panel.set_xticks(ticks, [str(one) for one in ticks], minor=False)
            panel.set_xticks([], minor=True)
            panel.set_xlabel("tokens of history")
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
        panels["step_seconds"].legend(fontsize=7)

    if costs:
        save_picture("bahe", quick, draw, size=(10, 4))
