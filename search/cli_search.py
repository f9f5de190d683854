"""The command ``search``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sparsefront.search.cli_options import (
    AtLengthOption,
    Backbone,
    Batch,
    FrozenLayersOption,
    Json,
    MaxTokensOption,
    PercentileOption,
    PoolingOption,
    PrecisionOption,
    RankWeight,
    Runtime,
    Shapes,
    StoreOption,
    Threads,
    Verbose,
    chosen_runtime,
    frozen_of,
    options,
    out,
    print_json,
    quiet_libraries,
    reporter_for,
)
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.task import Task
    from sparsefront.search.run_result import RunResult

EXAMPLES = """
[bold]Examples[/bold]

The built-in ad log:  [bold]sparsefront search --budget-us 1500[/bold]

A fifth of the dense model's latency:  [bold]sparsefront search task.yaml --budget-share 0.2[/bold]

Your own checkpoint, no token pruning:  [bold]sparsefront search task.yaml --budget-us 900 --backbone my-bert/
--space weights --out runs/mine[/bold]

Three budgets, one search, one winner each:  [bold]sparsefront search task.yaml --budget-us 800,1500,3000[/bold]

Another budget with the same teacher and supernet:  [bold]sparsefront search task.yaml --budget-us 500
--prepared runs/mine --out runs/tighter[/bold]

[bold]A task file[/bold]

data: rows.parquet

text: \\[query, title]

label: {column: click, kind: binary}

split: {group: query, valid: 0.1, test: 0.1}
"""


def search(
    task: Annotated[Path | None, typer.Argument(help="Task file (YAML). Without one: the built-in ad log.")] = None,
    budget_us: Annotated[
        str | None, typer.Option(help="Latency budget in microseconds per call; several: 800,1500,3000.")
    ] = None,
    budget_share: Annotated[
        str | None, typer.Option(help="Budget as a share of the dense model's measured latency, e.g. 0.2; or several.")
    ] = None,
    skip_infeasible: Annotated[
        bool, typer.Option("--skip-infeasible", help="Of several budgets leave out those that nothing meets.")
    ] = False,
    backbone: Backbone = "minilm",
    space: Annotated[str, typer.Option(help="weights, tokens, joint or uniform.")] = "joint",
    runtime: Runtime = "onnxruntime",
    precision: PrecisionOption = "fp32",
    shapes: Shapes = "dynamic",
    threads: Threads = 1,
    percentile: PercentileOption = 50,
    at_length: AtLengthOption = "max",
    batch: Batch = 1,
    evaluations: Annotated[int, typer.Option(help="Genomes evaluated on the supernet.")] = 300,
    workers: Annotated[str, typer.Option(help="Parallel evaluations; auto: as many as there are CPUs for.")] = "auto",
    cpus_per_worker: Annotated[float, typer.Option(help="CPUs that Ray reserves for each, also fractions.")] = 1.0,
    address: Annotated[
        str | None,
        typer.Option(help="Evaluate and fine-tune on a running Ray cluster: HOST:PORT, ray://HOST:PORT or auto."),
    ] = None,
    most_failed_share: Annotated[
        float, typer.Option(help="Share of the evaluations that may fail before the search ends.")
    ] = 0.2,
    sampler: Annotated[str, typer.Option(help="reinforced, random, tpe or nsga2.")] = "reinforced",
    seed: Annotated[int, typer.Option(help="Seed of training, search and fine-tuning.")] = 0,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/TASK-BUDGET by default.")] = None,
    share: Annotated[
        Path | None, typer.Option("--prepared", help="Take latency table, teacher and supernet from this run folder.")
    ] = None,
    finalists: Annotated[
        int, typer.Option(help="Genomes of the front that are fine-tuned; the poorer ones are stopped early.")
    ] = 4,
    uniform: Annotated[
        str, typer.Option(help="Uniform genomes swept for comparison: largest, all or none.")
    ] = "largest",
    search_rows: Annotated[int, typer.Option(help="Validation rows that one evaluation scores.")] = 2000,
    head_granule: Annotated[int, typer.Option(help="Heads are offered in multiples of this.")] = 1,
    ffn_granule: Annotated[int | None, typer.Option(help="FFN units are offered in multiples of this.")] = None,
    teacher_epochs: Annotated[float, typer.Option(help="Epochs of the teacher.")] = 2.0,
    elastic_epochs: Annotated[float, typer.Option(help="Epochs of the supernet.")] = 1.0,
    rank_weight: RankWeight = 0.0,
    frozen_layers: FrozenLayersOption = None,
    pooling: PoolingOption = "mean",
    max_tokens: MaxTokensOption = 64,
    store: StoreOption = None,
    finetune_epochs: Annotated[float, typer.Option(help="Epochs of each finalist.")] = 1.0,
    effort: Annotated[str, typer.Option(help="Profiling effort: quick or normal.")] = "quick",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Search, fine-tune the finalists, measure them, and keep the best that holds the budget.

    The run folder gets result.json and export/, a model that is ready to serve. Interrupt it whenever you like:
    the same command continues. --evaluations, --finalists and --uniform may be raised later on.
    """
    quiet_libraries(verbose)
    from sparsefront.latency.auto import AUTO
    from sparsefront.models.backbone import load_backbone
    from sparsefront.models.task import Task
    from sparsefront.search.budget import check_asked
    from sparsefront.search.run import Run
    from sparsefront.search.run_file import RUN, RunFile
    from sparsefront.search.run_result import export_winners
    from sparsefront.search.settings import PrepareSettings, SearchSettings

    settings = SearchSettings.check(
        budget_us=numbers("--budget-us", budget_us),
        budget_share=numbers("--budget-share", budget_share),
        skip_infeasible=skip_infeasible,
        space=space,
        head_granule=head_granule,
        ffn_granule=ffn_granule,
        evaluations=evaluations,
        sampler=sampler,
        workers=worker_count(workers),
        cpus_per_worker=cpus_per_worker,
        most_failed_share=most_failed_share,
        search_rows=search_rows,
        finalists=finalists,
        uniform=uniform,
        finetune=options("finetune", epochs=finetune_epochs, seed=seed),
        seed=seed,
    )
    check_asked(settings)
    reporter = reporter_for(as_json)
    rows = Task.builtin() if task is None else Task.from_file(task)
    own, frozen = load_backbone(backbone), frozen_of(frozen_layers, pooling, max_tokens)
    budget = f"{budget_us}us" if budget_us is not None else f"{budget_share}"
    folder = out_dir or Path("runs") / f"{rows.name}-{budget.replace(',', '-')}"
    if runtime == AUTO and (folder / RUN).is_file():  # an interrupted run goes on as it began
        runtime = RunFile.read(folder).prepare.runtime
    runtime = chosen_runtime(
        runtime,
        own.serving(rows, frozen).config,
        threads=threads,
        precision=precision,
        shapes=shapes,
        length_tokens=rows.length_tokens,
        batch=batch,
        reporter=reporter,
    )
    preparation = PrepareSettings.check(
        runtime=runtime,
        precision=precision,
        shapes=shapes,
        threads=threads,
        percentile=percentile,
        at_length=at_length,
        batch=batch,
        effort=effort,
        teacher=options("teacher", epochs=teacher_epochs, seed=seed),
        elastic=options("elastic", epochs=elastic_epochs, seed=seed),
        rank_weight=rank_weight,
        frozen=frozen,
        seed=seed,
    )
    if task is None:
        reporter.say(about_builtin(rows))
    run = Run(
        folder,
        task=rows,
        backbone=own,
        settings=settings,
        preparation=preparation,
        shared=share,
        store=store,
        address=address,
        reporter=reporter,
    )
    run.check()
    reporter.say(f"run folder: {folder}")
    result = run.execute()
    exports = export_winners(result, run.finish_late)
    if as_json:
        print_json({**result.values, "exports": {budget: str(export) for budget, export in exports.items()}})
    else:
        print_result(result, exports.values(), rows.spec.metric)


def about_builtin(task: Task) -> str:
    """What is searched on where no task file was given."""
    from sparsefront.models.ad_log import best_achievable_auc

    best = best_achievable_auc(task.frame.iloc[task.indices("test")])
    return (
        "no task file given: searching on the built-in ad log; on its test rows the best achievable AUC is "
        f"{best['text']:.3f} from the text alone and {best['full']:.3f} with everything known"
    )


def print_result(result: RunResult, exports: Iterable[Path], metric: str) -> None:
    """The front, a table per budget, what it cost, and where the exports are."""
    from sparsefront.search.report import costs_line, front_table, result_table, rounding_line, scores_line

    budgets_us = [row["budget_us"] for row in result.budgets]
    out.print(front_table(result.front[:10], metric=metric, budgets_us=budgets_us))
    for row in result.budgets:
        out.print(result_table(result.values, row))
        for line in (rounding_line(result.values, row), scores_line(row)):
            if line is not None:
                out.print(line, highlight=False)
    out.print(costs_line(result.values), highlight=False)
    for export in exports:
        out.print(f"export: {export}   check it with: sparsefront verify {export}", highlight=False)


def numbers(option: str, text: str | None) -> float | tuple[float, ...] | None:
    """One number or several with commas between."""
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise InputError(f"{option}: expected a number, or several as in 800,1500, got {text!r}") from error
    return found[0] if len(found) == 1 else found


def worker_count(text: str) -> int:
    """Workers asked for; 0 stands for as many as there are CPUs for."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--workers: expected 'auto' or a positive whole number, got {text!r}")
    return int(text)
