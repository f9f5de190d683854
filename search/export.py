"""Exports: a slim Hugging Face folder with its ONNX graph, tokenizer and ``sparse_config.json``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from transformers import PreTrainedTokenizerBase

from sparsefront.latency.runtime import Runtime, Session
from sparsefront.latency.statistic import Statistic
from sparsefront.latency.two_sides import export_sides
from sparsefront.models.bahe import Bahe
from sparsefront.models.batching import to_tensors
from sparsefront.models.behaviours import Sequences
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.features import Features
from sparsefront.models.metrics import quality
from sparsefront.models.onnx_graph import INPUTS, Precision
from sparsefront.models.rows import Batch, TokenRows
from sparsefront.models.scoring import no_span_logits, put_logits
from sparsefront.models.task_file import Metric
from sparsefront.search.run_file import TaskRef
from sparsefront.search.settings import Positive
from sparsefront.search.steps import RECORD, write_json
from sparsefront.spaces import Genome, InputError

SPARSE_CONFIG = "sparse_config.json"
ONNX_MODEL = "model.onnx"
FEATURES = "features.safetensors"


def export_model(
    target: Path,
    model: CrossEncoder,
    tokenizer: PreTrainedTokenizerBase,
    *,
    features: Features | None = None,
    precision: Precision = "fp32",
    static_shape: tuple[int, int] | None = None,
) -> None:
    """Write the model in Hugging Face's format, its ONNX graph and its tokenizer.

    Of a model with features also what encodes raw values, and the graphs of its two sides.
    """
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    export_onnx(model, target / ONNX_MODEL, precision=precision, static_shape=static_shape)
    if model.config.features:
        (features or Features()).save(target / FEATURES)
    if isinstance(model, Bert4Ctr) and not isinstance(model, Bahe):
        export_sides(model, target)


def serve_rows(session: Session, rows: TokenRows) -> NDArray[np.float32]:
    """Logits by a serving runtime, in padded batches of rows of unlike length, of the rows' ``logits_shape``."""
    logits = no_span_logits(rows) if rows.spans else np.empty(rows.logits_shape, np.float32)
    for batch in rows.batches(batch_size=32, shuffle_seed=0):
        put_logits(logits, batch.index, session.run(feeds_of(batch)))
    return logits


def feeds_of(batch: Batch) -> dict[str, NDArray[Any]]:
    """What a serving runtime is called with."""
    feeds: dict[str, NDArray[Any]] = {name: getattr(batch, name) for name in INPUTS}
    if batch.vectors is not None:
        feeds = Sequences.of(to_tensors(batch, torch.device("cpu"))).feeds()
    if batch.features is not None:
        own: dict[str, NDArray[Any]] = {
            "numeric": batch.features.numeric,
            "categorical": batch.features.categorical.astype(np.int64),
        }
        feeds |= {name: values for name, values in own.items() if values.shape[1]}
    return feeds


def served_quality(folder: Path, serving: Runtime, rows: TokenRows, metric: Metric) -> float:
    """Quality of an export on rows, scored by the runtime that serves it."""
    return quality(metric, rows.positive, rows.target, serve_rows(serving.load_export(folder), rows))


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse to write where something stands, unless it is an export and may be replaced."""
    if not out.exists():
        return
    if not overwrite:
        raise InputError(f"{out}: exists already; choose another --out or add --overwrite")
    if not out.is_dir() or (any(out.iterdir()) and not (out / SPARSE_CONFIG).is_file()):
        raise InputError(f"{out}: is not an export (no {SPARSE_CONFIG}), so it is not overwritten")


def publish(
    source: Path,
    out: Path,
    sparse_config: dict[str, Any],
    *,
    overwrite: bool,
    beside: Mapping[str, Path] | None = None,
) -> None:
    """Copy a finalist to where the user wants it, with its ``sparse_config.json``; all of it or nothing.

    Args:
        source: folder of the finalist.
        out: of the export.
        sparse_config: see :class:`SparseConfig`.
        overwrite: replace an export that is there.
        beside: folders that become part of the export, by their name there.

    Raises:
        InputError: when ``out`` exists and ``overwrite`` is not set, or is something other than an export.
    """
    check_out(out, overwrite=overwrite)
    SparseConfig.model_validate_json(json.dumps(sparse_config))
    partial, old = (out.with_name(f".{out.name}.{end}") for end in ("partial", "old"))
    for left in (partial, old):
        shutil.rmtree(left, ignore_errors=True)
    shutil.copytree(source, partial, ignore=shutil.ignore_patterns(RECORD))
    for name, folder in (beside or {}).items():
        shutil.copytree(folder, partial / name, ignore=shutil.ignore_patterns(RECORD))
    write_json(partial / SPARSE_CONFIG, sparse_config)
    if out.exists():
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)


class SparseConfig(BaseModel):
    """What ``sparse_config.json`` says of an export.

    Attributes:
        genome: its key; ``heads``, ``ffn_units`` and ``keep_percent`` are its columns, the last the keep schedule;
            ``feature_heads`` is another where the model has features.
        features: names of the columns beside the text, the numeric ones first; ``None`` where there are none.
        behaviours: the newest of a history that the model reads; ``None`` where there are no histories.
        supernet_quality: what the search saw; ``valid_quality`` after fine-tuning, on all validation rows;
            ``test_quality`` for the winner and the best uniform genome only; both as served, in the run's precision.
        fp32_valid_quality: the same model's before its numbers were rounded for serving.
        predicted_us: by the latency table; ``measured_us`` and ``measured_p95_us`` in the serving runtime.
        budget_us: what the run was asked for, less ``lookup_us``.
        lookup_us: what it takes to look up the behaviours of a call; ``None`` where there are none.
        statistic: what the latencies and the budget mean.
        classes: which class each logit is of; ``None`` where there is one logit.
        spans: whether there are two logits of every token, for the ends of an answer.
        fingerprint: machine and way of serving that the latencies hold for.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    genome: str
    heads: list[int]
    ffn_units: list[int]
    keep_percent: list[int]
    feature_heads: list[int] | None = None
    features: list[str] | None = None
    behaviours: Annotated[int, Field(ge=1)] | None = None
    parameters: int
    supernet_quality: float
    valid_quality: float
    fp32_valid_quality: float
    test_quality: float | None
    predicted_us: Positive
    measured_us: Positive
    measured_p95_us: Positive
    budget_us: Positive
    lookup_us: Positive | None = None
    metric: Metric
    task: TaskRef
    classes: list[int] | list[str] | None = None
    spans: bool = False
    backbone: str
    statistic: Statistic
    fingerprint: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def read(cls, folder: Path) -> SparseConfig:
        """That of an export; ``InputError`` when the folder is none, or names the key that is wrong."""
        path = folder / SPARSE_CONFIG
        if not folder.is_dir():
            raise InputError(f"{folder}: no such folder")
        try:
            config = cls.model_validate_json(path.read_bytes())
            Genome.parse(config.genome)
        except FileNotFoundError as error:
            raise InputError(f"{folder}: is not an export (no {SPARSE_CONFIG})") from error
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{path}: damaged: {key + ': ' if key else ''}{first['msg']}") from error
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: damaged: {error}") from error
        return config
