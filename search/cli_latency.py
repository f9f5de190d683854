"""Commands about latency: ``profile``, ``bench``, ``latency show`` and ``latency check``."""

from __future__ import annotations

import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from sparsefront.search.cli_options import (
    Backbone,
    Batch,
    Json,
    PrecisionOption,
    Runtime,
    Shapes,
    Threads,
    Verbose,
    chosen_runtime,
    out,
    print_json,
    quiet_libraries,
    reporter_for,
)
from sparsefront.spaces import InputError

latency = typer.Typer(no_args_is_help=True, help="Look at a latency table, or measure a part of it again.")


def profile(
    out_dir: Annotated[Path, typer.Option("--out", help="Folder of the table to write.")],
    backbone: Backbone = "minilm",
    runtime: Runtime = "onnxruntime",
    precision: PrecisionOption = "fp32",
    shapes: Shapes = "dynamic",
    threads: Threads = 1,
    length: Annotated[int, typer.Option(min=3, help="Most tokens per row; shorter rows are covered too.")] = 48,
    batch: Batch = 1,
    effort: Annotated[str, typer.Option(help="quick or normal.")] = "normal",
    seed: Annotated[int, typer.Option(help="Seed of the calibration and held-out genomes.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table that is there.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure blocks in the serving runtime and write a latency table with its error on held-out whole models."""
    quiet_libraries(verbose)
    from sparsefront.latency.profile import profile as measure_table
    from sparsefront.latency.runtimes import runtime as runtime_named
    from sparsefront.latency.table import META_FILE
    from sparsefront.models.backbone import load_backbone

    if out_dir.exists() and not overwrite:
        raise InputError(f"{out_dir}: exists already; choose another --out or add --overwrite")
    if out_dir.exists() and not (out_dir / META_FILE).is_file():
        raise InputError(f"{out_dir}: is not a latency table (no {META_FILE}), so it is not overwritten")
    config = load_backbone(backbone).config
    if length > config.max_position_embeddings:
        raise InputError(f"--length {length}: backbone {backbone} has {config.max_position_embeddings} positions")
    reporter = reporter_for(as_json)
    name = chosen_runtime(
        runtime,
        config,
        threads=threads,
        precision=precision,
        shapes=shapes,
        length_tokens=length,
        batch=batch,
        reporter=reporter,
    )
    serving = runtime_named(name, threads=threads, precision=precision, shapes=shapes)
    with reporter.step("measuring latency blocks") as advance:
        table = measure_table(
            config,
            runtime=serving,
            length_tokens=length,
            batch=batch,
            effort=cast(Any, effort),  # the profiler refuses what it does not know
            seed=seed,
            progress=advance,
            say=reporter.say,
            log=out_dir.with_name(f".{out_dir.name}.passes.jsonl"),
        )
    table.save(out_dir, overwrite=overwrite)
    dense_us = table.predict(config.genome)
    report: dict[str, Any] = {
        "table": str(out_dir),
        "dense_predicted_us": dense_us,
        "error": asdict(table.error),
        "fingerprint": table.fingerprint.to_json(),
    }
    if as_json:
        print_json(report)
        return
    out.print(f"table: {out_dir}   dense model: {dense_us:.0f} us", highlight=False)
    for name, value in report["error"].items():
        out.print(f"  {name}: {value:.4g}", highlight=False)


def bench(
    directory: Annotated[Path, typer.Argument(help="Export folder.")],
    clients: Annotated[str, typer.Option(help="Callers at a time, e.g. 1,2; auto: 1 to the number of CPUs.")] = "auto",
    batch: Batch = 1,
    length: Annotated[int | None, typer.Option(min=1, help="Tokens per row; the export's own by default.")] = None,
    seconds: Annotated[float, typer.Option(min=0.01, help="How long each number of clients calls.")] = 2.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Call an export as a server would: latency and throughput with several clients, beside the dense model."""
    quiet_libraries(verbose)
    from sparsefront.search.bench import bench as measure

    found = measure(
        directory,
        clients=clients_of(clients),
        batch=batch,
        length_tokens=length,
        seconds=seconds,
        reporter=reporter_for(as_json),
    )
    if as_json:
        print_json(asdict(found))
        return
    out.print(f"{found.runtime}, batch {found.batch}, {found.length_tokens} tokens, unpadded", highlight=False)
    for name, loads in (("export", found.export), ("dense", found.dense)):
        for load in loads:
            stats = load.latency
            out.print(
                f"  {name}, {load.clients} clients: median {stats.median_us:.0f} us, p95 {stats.p95_us:.0f}, "
                f"p99 {stats.p99_us:.0f}, {load.rows_per_second:.0f} rows/s",
                highlight=False,
            )
    if found.dense:
        out.print(f"  {found.speed_up:.2f} times as fast as the dense model, alone", highlight=False)
    else:
        out.print(f"  the dense model was not called: {found.dense_note}", highlight=False)


@latency.command()
def show(
    table: Annotated[Path, typer.Argument(help="Folder of the table.")],
    plot: Annotated[Path | None, typer.Option(help="Draw microseconds against width and tokens: FILE.png.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a picture that is there.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print what a table was measured on, its error, and what each part of a layer costs."""
    quiet_libraries(verbose)
    from sparsefront.latency.table import LatencyTable
    from sparsefront.search.pictures import IMAGES, check_plot, plot_table

    if plot is not None:
        check_plot(plot, overwrite=overwrite, formats=IMAGES)
    found = LatencyTable.load(table)
    if plot is not None:
        plot_table(plot, found)
    costs = found.layer_costs()
    if as_json:
        print_json(
            {
                "fingerprint": found.fingerprint.to_json(),
                "backbone": asdict(found.backbone),
                "error": {name: None if math.isnan(value) else value for name, value in asdict(found.error).items()},
                "notes": {name: value for name, value in found.notes.items() if not isinstance(value, list)},
                "costs": costs,
                "plot": str(plot) if plot else None,
            }
        )
        return
    for name, value in found.fingerprint.to_json().items():
        out.print(f"{name}: {' '.join(value) if isinstance(value, list) else value}", highlight=False)
    for part, name in (("attention", "heads"), ("ffn", "FFN units"), ("ffn", "tokens")):
        column = "length_tokens" if name == "tokens" else "width"
        values = sorted({int(value) for value in found.measured.loc[found.measured["part"] == part, column]} - {0})
        out.print(f"measured {name}: {', '.join(map(str, values))}; between them interpolated", highlight=False)
    out.print(f"error on held-out models: {found.error}", highlight=False)
    for row in costs:
        out.print(
            f"  {row['tokens']:>4} tokens: {row['heads']} heads {row['attention_us']:.0f} us, "
            f"{row['ffn_units']} FFN units {row['ffn_us']:.0f} us, norms {row['norms_us']:.0f} us, "
            f"selection {row['selection_us']:.0f} us",
            highlight=False,
        )
    if plot is not None:
        out.print(f"picture: {plot}", highlight=False)


@latency.command()
def check(
    table: Annotated[Path, typer.Argument(help="Folder of the table.")],
    models: Annotated[int, typer.Option(min=3, help="Held-out models to measure again.")] = 12,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure some of a table's held-out models again. Exit status 1: the machine is not as fast as it was."""
    quiet_libraries(verbose)
    from sparsefront.latency.recheck import recheck
    from sparsefront.latency.runtimes import runtime_of
    from sparsefront.latency.table import LatencyTable

    found = LatencyTable.load(table)
    stated = found.fingerprint
    serving = runtime_of(stated)
    differences = stated.differences(serving.fingerprint(length_tokens=stated.length_tokens, batch=stated.batch))
    with reporter_for(as_json).step("measuring again") as advance:
        again = recheck(found, serving, models=models, progress=advance)
    holds = again.holds and not differences
    if as_json:
        print_json({**asdict(again), "machine_differences": differences, "holds": holds})
    else:
        for line in differences:
            out.print(f"another machine than the table's: {line}", highlight=False)
        out.print(
            f"{len(again.genomes)} models take {again.drift:+.1%} compared with the table's day "
            f"(its reference moved by {again.repeat_drift:.1%} meanwhile); the table errs by {again.error:.1%} now",
            highlight=False,
        )
        out.print("the table holds" if holds else "the table does NOT hold: profile anew", highlight=False)
    if not holds:
        raise typer.Exit(1)


def clients_of(text: str) -> list[int]:
    """Numbers of clients asked for."""
    if text == "auto":
        return list(range(1, (os.cpu_count() or 1) + 1))
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise InputError(f"--clients: expected 'auto' or positive whole numbers like 1,2, got {text!r}")
    return [int(part) for part in parts]
