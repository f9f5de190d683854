"""Exports: a slim Hugging Face folder with its ONNX graph, tokenizer and ``sparse_config.json``."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from sparsefront.latency.runtimes import Runtime, Session, feeds_of_length
from sparsefront.latency.timing import LatencyStats, time_interleaved
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.search.steps import RECORD, read_json, write_json
from sparsefront.spaces import InputError

SPARSE_CONFIG = "sparse_config.json"
ONNX_MODEL = "model.onnx"


def export_model(target: Path, model: CrossEncoder, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write the model in Hugging Face's format, its ONNX graph and its tokenizer."""
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    export_onnx(model, target / ONNX_MODEL)


def measure_session(session: Session, *, length_tokens: int, rounds: int = 30, repeats: int = 20) -> LatencyStats:
    """Wall-clock latency of single calls at batch 1 and full length, unpadded.

    Other work on the machine only ever adds time, so the rounds are ordered by their medians and the quieter half of
    them makes the statistic.
    """
    feeds = feeds_of_length(length_tokens)
    calls = time_interleaved([session], [feeds], rounds=rounds, repeats=repeats, warmup=2)[0].reshape(rounds, repeats)
    quiet = np.argsort(np.median(calls, axis=1))[: max(1, rounds // 2)]
    return LatencyStats.of(calls[quiet].ravel())


def measure_export(folder: Path, serving: Runtime, *, length_tokens: int) -> LatencyStats:
    """Latency of an export at batch 1 and full length, unpadded."""
    return measure_session(serving.load_export(folder), length_tokens=length_tokens)


def publish(source: Path, out: Path, sparse_config: dict[str, Any], *, overwrite: bool) -> None:
    """Copy a finalist to where the user wants it, with its ``sparse_config.json``; all of it or nothing.

    Raises:
        InputError: when ``out`` exists and ``overwrite`` is not set, or is something other than an export.
    """
    if out.exists():
        if not overwrite:
            raise InputError(f"{out}: exists already; choose another --out or add --overwrite")
        if not out.is_dir() or (any(out.iterdir()) and not (out / SPARSE_CONFIG).is_file()):
            raise InputError(f"{out}: is not an export (no {SPARSE_CONFIG}), so it is not overwritten")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(RECORD))
    write_json(partial / SPARSE_CONFIG, sparse_config)
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    os.replace(partial, out)


def read_sparse_config(folder: Path) -> dict[str, Any]:
    """An export's ``sparse_config.json``; ``InputError`` when the folder is no export."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    config = read_json(folder / SPARSE_CONFIG)
    wanted = {"genome", "budget_us", "measured_us", "predicted_us", "fingerprint", "valid_quality", "task"}
    missing = sorted(wanted - set(config)) if isinstance(config, dict) else sorted(wanted)
    if missing:
        raise InputError(f"{folder / SPARSE_CONFIG}: key {missing[0]!r} is missing")
    result: dict[str, Any] = config
    return result
