"""The command ``tokens``: learn which layers drop how many tokens, and look at it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sparsefront.search.cli_options import (
    AtLengthOption,
    Backbone,
    Json,
    PrecisionOption,
    RankWeight,
    Runtime,
    Threads,
    Verbose,
    options,
    out,
    print_json,
    quiet_libraries,
    reporter_for,
)
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.search.run import Run
    from sparsefront.search.schedules import LearnedSchedule

BAR = 40
FOCUS_SHARES = (0.25, 0.5, 0.75)
"""Of the dense latency, around which the supernet is trained: it serves all targets."""
EXAMPLES = """
[bold]Examples[/bold]

Half of the dense model's latency:  [bold]sparsefront tokens task.yaml --target 0.5[/bold]

Which words are left of a row, layer by layer:  [bold]sparsefront tokens task.yaml --target 0.5 --explain 17[/bold]

Refine it, heads and FFN units included:  [bold]sparsefront tokens task.yaml --target 0.3 --space joint --out runs/t[/bold]
and then  [bold]sparsefront search task.yaml --budget-share 0.3 --prepared runs/t[/bold]
"""  # noqa: E501


def tokens(
    task: Annotated[Path | None, typer.Argument(help="Task file (YAML). Without one: the built-in ad log.")] = None,
    target: Annotated[float, typer.Option(help="Share of the dense model's latency that the schedule may take.")] = 0.5,
    by: Annotated[str, typer.Option(help="What the share is of: latency or multiply-adds.")] = "latency",
    explain: Annotated[
        int | None, typer.Option(help="Show which words of this row of the data, from 1, are left after each layer.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Steps of the optimiser.")] = 300,
    shape: Annotated[
        str, typer.Option(help="Gates: prefix, a share per layer, or bins, one per rank bin, as in ToP.")
    ] = "prefix",
    space: Annotated[
        str, typer.Option(help="What the supernet is trained for: tokens, or joint to search widths later on.")
    ] = "tokens",
    rank_weight: RankWeight = 0.0,
    backbone: Backbone = "minilm",
    runtime: Runtime = "onnxruntime",
    precision: PrecisionOption = "fp32",
    threads: Threads = 1,
    at_length: AtLengthOption = "max",
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    out_dir: Annotated[Path | None, typer.Option("--out", help="Run folder; runs/TASK-tokens by default.")] = None,
    share: Annotated[
        Path | None, typer.Option("--prepared", help="Take latency table, teacher and supernet from this run folder.")
    ] = None,
    teacher_epochs: Annotated[float, typer.Option(help="Epochs of the teacher.")] = 2.0,
    elastic_epochs: Annotated[float, typer.Option(help="Epochs of the supernet.")] = 1.0,
    effort: Annotated[str, typer.Option(help="Profiling effort: quick or normal.")] = "quick",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Learn a token schedule: the share of tokens that every layer keeps, for a share of the cost.

    It stays in the run folder; a search with --prepared of that folder begins with it. Another target needs no training
    of the supernet.
    """
    quiet_libraries(verbose)
    from typing import get_args

    from sparsefront.models.backbone import load_backbone
    from sparsefront.models.task import Task
    from sparsefront.models.token_schedule import ScheduleOptions
    from sparsefront.search.run import Run
    from sparsefront.search.schedules import By
    from sparsefront.search.settings import PrepareSettings, SearchSettings

    if not 0 < target < 1:
        raise InputError(f"--target: expected a share between 0 and 1, got {target:g}")
    if by not in get_args(By):
        raise InputError(f"--by: expected {' or '.join(get_args(By))}, got {by!r}")
    if space not in ("tokens", "joint"):
        raise InputError(f"--space: expected tokens or joint, got {space!r}")
    try:
        learning = ScheduleOptions(steps=steps, shape=shape, seed=seed)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"--steps, --shape: {error}") from error
    settings = SearchSettings.check(budget_share=target, space=space, seed=seed)
    preparation = PrepareSettings.check(
        runtime=runtime,
        precision=precision,
        threads=threads,
        at_length=at_length,
        effort=effort,
        focus_shares=FOCUS_SHARES,
        teacher=options("teacher", epochs=teacher_epochs, seed=seed),
        elastic=options("elastic", epochs=elastic_epochs, seed=seed),
        rank_weight=rank_weight,
        seed=seed,
    )
    rows = Task.builtin() if task is None else Task.from_file(task)
    if explain is not None and not 1 <= explain <= len(rows):
        raise InputError(f"--explain: expected a row from 1 to {len(rows)}, got {explain}")
    run = Run(
        out_dir or Path("runs") / f"{rows.name}-tokens",
        task=rows,
        backbone=load_backbone(backbone),
        settings=settings,
        preparation=preparation,
        shared=share,
        reporter=reporter_for(as_json),
    )
    learned = run.learn_schedule(target, learning, by=by)  # type: ignore[arg-type]
    words = None if explain is None else explained(run, learned, explain)
    if as_json:
        print_json({**asdict(learned), **({} if words is None else {"row": explain, "words": words})})
        return
    print_schedule(learned, rows.spec.metric, read="all" if rows.spec.label.kind == "span" else "[CLS]")
    if words is not None:
        for layer, left in enumerate(words):
            seen = f"row {explain}" if not layer else f"after layer {layer - 1}"
            out.print(f"{seen:<14} {' '.join(left)}", highlight=False, markup=False)


def print_schedule(learned: LearnedSchedule, metric: str, *, read: str) -> None:
    """A bar per layer and the numbers; ``read``: what a head reads of the last layer."""
    most = learned.tokens[0]
    out.print(f"{'':10}{'keeps':>6}  tokens that its attention sees, of {most:.1f} in the mean", highlight=False)
    for layer, (gene, there) in enumerate(zip(learned.genome, learned.tokens, strict=True)):
        last = layer == len(learned.tokens) - 1
        keeps = read if last else f"{gene.keep_percent} %"
        bar = "█" * max(1, round(BAR * there / most))
        out.print(f"layer {layer:<4}{keeps:>6}  {bar:<{BAR}} {there:.1f}", highlight=False, markup=False)
    out.print(
        f"latency {learned.latency_share:.1%} ({learned.predicted_us:.0f} us), multiply-adds "
        f"{learned.multiply_adds_share:.1%} of keeping all tokens, without padding; validation {metric} "
        f"{learned.quality:.4f} against {learned.dense_quality:.4f} with all tokens, before fine-tuning",
        highlight=False,
    )
    out.print(f"genome: {learned.key}", highlight=False)


def explained(run: Run, learned: LearnedSchedule, row: int) -> list[list[str]]:
    """The tokens of a row of the data that are there at first, and after each layer that prunes or not."""
    import numpy as np

    from sparsefront.models.task_file import SPLITS
    from sparsefront.search.schedules import survivors

    split = SPLITS[int(run.task.split[row - 1])]
    place = int(np.searchsorted(run.task.indices(split), row - 1))
    rows = run.task.tokenise(run.backbone.tokenizer)[split]
    supernet = run.supernet()
    tokenizer: Any = run.backbone.tokenizer
    ids = rows.subset([place]).input_ids.tolist()
    return [
        [str(tokenizer.convert_ids_to_tokens(ids[at])) for at in positions]
        for positions in survivors(supernet, rows, place, learned.genome)
    ]
