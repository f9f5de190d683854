"""What the commands share: options, the output, quiet libraries."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sparsefront.spaces import InputError

out = Console(width=None if sys.stdout.isatty() else 160)

Json = Annotated[
    bool, typer.Option("--json", help="Print the report as JSON on standard output, and nothing else there.")
]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Also print the libraries' own log lines.")]
Runtime = Annotated[
    str,
    typer.Option(
        help="Serving runtime that latency is measured in: onnxruntime, openvino or torch; auto: the one that runs the "
        "dense model fastest here."
    ),
]
PrecisionOption = Annotated[str, typer.Option("--precision", help="Numeric format it computes in: fp32, bf16 or int8.")]
Shapes = Annotated[
    str,
    typer.Option(
        help="dynamic: rows as long as they are; static: the model is compiled for the longest row and shorter ones "
        "are padded, which is faster in openvino."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the serving runtime.")]
PercentileOption = Annotated[int, typer.Option("--percentile", help="Of a call's time that counts: 50, 95 or 99.")]
AtLengthOption = Annotated[
    str,
    typer.Option(
        "--at-length",
        help="Rows of which length count: max, p50 or p95 of the task's token lengths, or mean: the expected time.",
    ),
]
Batch = Annotated[int, typer.Option(min=1, help="Rows per call.")]
Backbone = Annotated[
    str, typer.Option(help="'minilm' (from the extra), a local Hugging Face BERT folder, or a hub name when online.")
]

RankWeight = Annotated[
    float, typer.Option(help="Weight of the teacher's ranking of tokens in the supernet's training.")
]

FrozenLayersOption = Annotated[
    int | None,
    typer.Option(
        "--frozen-layers",
        help="Where a task has histories: the lowest layers, which make a vector of each text once; half by default.",
    ),
]
PoolingOption = Annotated[str, typer.Option("--pooling", help="What they take of a text's tokens: mean or cls.")]
MaxTokensOption = Annotated[
    int,
    typer.Option(
        "--max-tokens", help="Tokens to which longer texts are cut; the backbone's places where it has fewer."
    ),
]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Store of behaviours (sparsefront encode); one in the run by default.")
]


def reporter_for(as_json: bool) -> Any:
    """Bars on standard error, or silence when the output is for a program."""
    from sparsefront.search.progress import Rich, Silent

    return Silent() if as_json else Rich()


def quiet_libraries(verbose: bool) -> None:
    """Keep other packages' log lines and bars away from the report unless asked for."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        return
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    warnings.filterwarnings("ignore")
    import optuna
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def chosen_runtime(
    name: str,
    config: Any,
    *,
    threads: int,
    precision: str,
    shapes: str,
    length_tokens: int,
    batch: int,
    reporter: Any,
) -> str:
    """The runtime's name; ``auto`` is settled here by measuring the dense model in each."""
    from sparsefront.latency.auto import AUTO, fastest_runtime
    from sparsefront.latency.statistic import Statistic

    if name != AUTO:
        return name
    statistic = Statistic.of_length(length_tokens, batch=batch)
    with reporter.step("comparing runtimes") as advance:
        found = fastest_runtime(config, threads=threads, precision=precision, shapes=shapes, statistic=statistic)
        advance(1, 1)
    times = ", ".join(f"{one} {us:.0f} us" for one, us in sorted(found.microseconds.items(), key=lambda one: one[1]))
    reporter.say(f"runtime {found.runtime.name}: the dense model takes {times}")
    return found.runtime.name


def options(name: str, **changes: Any) -> Any:
    """The default training options of a step with changes; bad values become one line."""
    from dataclasses import replace

    from sparsefront.search.settings import PrepareSettings, SearchSettings

    base = SearchSettings().finetune if name == "finetune" else getattr(PrepareSettings(), name)
    try:
        return replace(base, **changes)
    except ValueError as error:
        raise InputError(f"--{name}-epochs: {error}") from error


def frozen_of(layers: int | None, pooling: str, max_tokens: int) -> Any:
    """Which layers make vectors of behaviours; a bad value becomes one line."""
    from sparsefront.models.frozen_layers import FrozenLayers

    if pooling not in ("mean", "cls"):
        raise InputError(f"--pooling: must be mean or cls, got {pooling!r}")
    if layers is not None and layers < 1:
        raise InputError(f"--frozen-layers: must be at least 1, got {layers}")
    return FrozenLayers(layers=layers, pooling="cls" if pooling == "cls" else "mean", max_tokens=max_tokens)


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2))
