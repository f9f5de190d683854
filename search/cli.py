"""The command line: ``sparsefront search | tokens | encode | profile | front | export | verify | bench | latency``."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sparsefront.search import cli_encode, cli_latency, cli_search, cli_tokens
from sparsefront.search.cli_options import (
    Json,
    Verbose,
    out,
    print_json,
    quiet_libraries,
    reporter_for,
)
from sparsefront.spaces import InputError, RunFailed

app = typer.Typer(
    name="sparsefront",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""
    Finds the BERT-like CTR or ad-relevance model that ranks best within a microsecond budget on this CPU,
    and exports it physically small.

    Start with [bold]sparsefront search --budget-us 1500[/bold]: without a task file it searches on a built-in ad log.
    Every command takes --json for a machine-readable report. Bad input ends with one line and exit status 2.
    """,
    rich_markup_mode="rich",
)
app.command(epilog=cli_search.EXAMPLES)(cli_search.search)
app.command(epilog=cli_tokens.EXAMPLES)(cli_tokens.tokens)
app.command(epilog=cli_encode.EXAMPLES)(cli_encode.encode)
app.command()(cli_latency.profile)
app.command()(cli_latency.bench)
app.add_typer(cli_latency.latency, name="latency")
INTERRUPTED = 130


def main() -> None:
    """Entry point: turns bad input into one line and exit status 2."""
    try:
        status = app(standalone_mode=False)  # the code of a typer.Exit; 130 stands for Ctrl-C
    except InputError as error:
        fail(str(error))
    except (RunFailed, FloatingPointError) as error:
        typer.echo(f"sparsefront: {' '.join(str(error).split())}", err=True)
        status = 1
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except OSError as error:  # no room, no permission, a file where a folder should be
        if error.filename is None or error.strerror is None:
            raise
        fail(f"{error.filename}: {error.strerror}")
    except Exception as error:
        shown = getattr(error, "format_message", None)  # a usage error of the option parser
        if shown is None:
            raise
        fail(shown())
    if status == INTERRUPTED:
        command = shlex.join(["sparsefront", *sys.argv[1:]])
        typer.echo(f"\ninterrupted; what is finished is kept, the same command continues: {command}", err=True)
    sys.exit(status)


def fail(line: str) -> NoReturn:
    """Print one line on standard error and leave with status 2."""
    typer.echo(f"sparsefront: {' '.join(line.split())}", err=True)
    sys.exit(2)


@app.command()
def front(
    run: Annotated[Path, typer.Argument(help="Run folder, finished or not.")],
    plot: Annotated[Path | None, typer.Option(help="Also draw it: FILE.png, .svg, .pdf or .html.")] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Also draw how often is clicked what is said to be how probable: FILE.png, .svg or .pdf."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a picture that is there.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Print the non-dominated set of a run; and the smallest budget that each keeps."""
    quiet_libraries(verbose)
    from sparsefront.search.pictures import IMAGES, check_plot, plot_front, plot_reliability
    from sparsefront.search.report import front_table
    from sparsefront.search.run_result import evaluated_rows, front_rows, read_result, read_run, scorecards

    if plot is not None:
        check_plot(plot, overwrite=overwrite)
    if calibration is not None:
        check_plot(calibration, overwrite=overwrite, option="--calibration", formats=IMAGES)
        result = read_result(run)
        title = f"{result.values['task']['name']}: test rows"
        plot_reliability(calibration, scorecards(result), title=title)
    record = read_run(run)
    evaluated, budgets_us, metric = record.evaluated, record.budgets_us, record.metric
    if not evaluated:
        raise InputError(f"{run}: no evaluation has finished yet")
    rows = front_rows(evaluated, budgets_us)
    if plot is not None:
        title = f"{record.task_name}: {len(evaluated)} evaluations"
        plot_front(
            plot,
            evaluated=evaluated_rows(evaluated, budgets_us),
            front=rows,
            budgets_us=budgets_us,
            metric=metric,
            title=title,
        )
    if as_json:
        pictures = {"plot": str(plot) if plot else None, "calibration": str(calibration) if calibration else None}
        print_json({"budgets_us": budgets_us, "metric": metric, "front": rows, **pictures})
        return
    out.print(front_table(rows, metric=metric, budgets_us=budgets_us))
    for picture in (plot, calibration):
        if picture is not None:
            out.print(f"picture: {picture}", highlight=False)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    out_dir: Annotated[Path, typer.Option("--out", help="Folder to write the export to.")],
    genome: Annotated[
        str | None, typer.Option(help="Key of another genome of the front; the winner by default.")
    ] = None,
    budget_us: Annotated[
        float | None, typer.Option(help="Budget whose winner is meant, where the run had several.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export that is there.")] = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the winner, or another genome (fine-tuned first if it is not yet), as a folder that is ready to serve."""
    quiet_libraries(verbose)
    from sparsefront.search.run import Run
    from sparsefront.search.run_result import export_run
    from sparsefront.spaces import Genome

    wanted = None
    if genome is not None:
        try:
            wanted = Genome.parse(genome)
        except ValueError as error:
            raise InputError(f"--genome: {error}") from error
    config = export_run(
        run,
        out_dir,
        budget_us=budget_us,
        genome=wanted,
        overwrite=overwrite,
        # only a genome that must be fine-tuned first needs the task's data
        fine_tune=lambda one, at_us: Run.reopen(run, reporter=reporter_for(as_json)).finish_late(one, at_us),
    )
    if as_json:
        print_json({**config, "export": str(out_dir)})
        return
    out.print(f"export: {out_dir}   genome: {config['genome']}", highlight=False)
    out.print(
        f"predicted {config['predicted_us']:.0f} us, measured {config['measured_us']:.0f} us, "
        f"{config['metric']} {config['valid_quality']:.4f} on validation rows",
        highlight=False,
    )


@app.command()
def verify(
    directory: Annotated[Path, typer.Argument(help="Export folder.")],
    task: Annotated[
        Path | None, typer.Option(help="Task file whose test rows are scored; the export's own by default.")
    ] = None,
    tolerance: Annotated[float, typer.Option(min=0, help="Share by which the latency may exceed the budget.")] = 0.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Re-measure an export, compare it with torch, score the test rows.

    Exit status 1: over budget, out of parity, or with features that are not the model's.
    """
    quiet_libraries(verbose)
    from sparsefront.models.task import Task
    from sparsefront.search.export import SparseConfig
    from sparsefront.search.verify import verify as check

    SparseConfig.read(directory)  # before a bar is drawn
    with reporter_for(as_json).step("verifying") as advance:
        found = check(directory, task=None if task is None else Task.from_file(task), tolerance=tolerance)
        advance(1, 1)
    if as_json:
        print_json({**asdict(found), "holds": found.holds})
    else:
        for line in found.machine_differences:
            out.print(f"another machine than the export's: {line}", highlight=False)
        budget = "within" if found.within_budget else "OVER"
        looking_up = "" if found.lookup_us is None else f", {found.lookup_us:.0f} us of it to look behaviours up"
        parity = "equal to torch" if found.parity_holds else "NOT EQUAL to torch"
        out.print(
            f"{found.statistic}: {found.measured_us:.0f} us (p95 {found.measured_p95_us:.0f}), {budget} the budget of "
            f"{found.budget_us:.0f} us{looking_up}",
            highlight=False,
        )
        out.print(f"{parity}: largest difference of a logit {found.parity:.1e}", highlight=False)
        if found.sides_parity is not None:
            equal = "equal to torch" if found.sides_hold else "NOT EQUAL to torch"
            out.print(f"by its two sides {equal}: largest difference {found.sides_parity:.1e}", highlight=False)
        for line in found.feature_differences:
            out.print(f"features are NOT the model's: {line}", highlight=False)
        if found.test_quality is not None:
            promised = "" if found.promised_quality is None else f" (the export says {found.promised_quality:.4f})"
            out.print(f"quality on the test rows: {found.test_quality:.4f}{promised}", highlight=False)
        else:
            out.print(f"the test rows were not scored: {found.rows_note}", highlight=False)
    if not found.holds:
        raise typer.Exit(1)
