"""Pictures of what a run found: the front, the table, and how probable a click is against how often it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.latency.table import LatencyTable

PICTURES = (".png", ".svg", ".pdf", ".html")
IMAGES = PICTURES[:-1]


def plot_front(
    path: Path,
    *,
    evaluated: Sequence[Mapping[str, Any]],
    front: Sequence[Mapping[str, Any]],
    budgets_us: Sequence[float],
    metric: str,
    title: str,
) -> None:
    """Draw all evaluations, the front and the budgets; ``.html`` is interactive, the others are not."""
    check_plot(path, overwrite=True)
    ordered = sorted(front, key=lambda row: float(row["latency_us"]))
    draw = _plot_html if path.suffix.lower() == ".html" else _plot_image
    draw(path, evaluated, ordered, budgets_us, metric, title)


def check_plot(path: Path, *, overwrite: bool, option: str = "--plot", formats: Sequence[str] = PICTURES) -> None:
    """Refuse a picture that cannot be drawn or that would replace a file."""
    if path.suffix.lower() not in formats:
        raise InputError(f"{option} {path}: the file must end in {', '.join(formats[:-1])} or {formats[-1]}")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder: {path.parent}")
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: exists already; choose another file or add --overwrite")


def plot_reliability(path: Path, models: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Draw how often a click happens where it is said to be so probable: a line per model, of its test rows.

    Args:
        path: an image.
        models: name -> ``test_scores`` of a row of the result.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 5), layout="constrained")
    axes = figure.subplots()
    axes.axline((0, 0), slope=1, color="0.7", linewidth=1, linestyle="--")
    for name, scores in models.items():
        bins = scores["reliability"]
        label = f"{name}: off by {scores['calibration_error']:.2%}"
        axes.plot(bins["predicted"], bins["happened"], "o-", markersize=4, label=label)
    axes.set(xlabel="predicted probability", ylabel="share that happened", title=title, xlim=(0, 1), ylim=(0, 1))
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=130)


def plot_table(path: Path, table: LatencyTable) -> None:
    """Draw what attention and FFN of one layer cost against their width, a line per measured length."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    lengths = [row["tokens"] for row in table.layer_costs()]
    parts = (("heads", table.blocks.attention), ("FFN units", table.blocks.ffn))
    for axes, (name, microseconds) in zip(figure.subplots(1, 2, sharey=True), parts, strict=True):
        for number, length in enumerate(lengths):
            shade = str(0.8 * (1 - (number + 1) / len(lengths)))
            axes.plot(microseconds[:, length], color=shade, label=f"{length} tokens")
        axes.set(xlabel=name, ylabel="microseconds per layer")
    axes.legend(loc="upper left", fontsize="small")
    how = table.fingerprint
    figure.suptitle(f"{how.runtime} {how.precision}, {how.threads} threads, batch {how.batch}")
    figure.savefig(path, dpi=130)


def _plot_image(
    path: Path,
    evaluated: Sequence[Mapping[str, Any]],
    front: Sequence[Mapping[str, Any]],
    budgets_us: Sequence[float],
    metric: str,
    title: str,
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.scatter(
        [row["latency_us"] for row in evaluated],
        [row["quality"] for row in evaluated],
        s=10,
        color="0.7",
        label="evaluated",
    )
    axes.plot(
        [row["latency_us"] for row in front],
        [row["quality"] for row in front],
        "o-",
        markersize=4,
        color="tab:blue",
        label="front",
    )
    for budget_us in budgets_us:
        axes.axvline(budget_us, color="tab:red", linewidth=1, linestyle="--", label=f"budget {budget_us:.0f} us")
    axes.set(xlabel="predicted latency (us)", ylabel=f"{metric} on validation rows (supernet)", title=title)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)


def _plot_html(
    path: Path,
    evaluated: Sequence[Mapping[str, Any]],
    front: Sequence[Mapping[str, Any]],
    budgets_us: Sequence[float],
    metric: str,
    title: str,
) -> None:
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, rows, mode in (("evaluated", evaluated, "markers"), ("front", front, "lines+markers")):
        figure.add_trace(
            go.Scatter(
                x=[row["latency_us"] for row in rows],
                y=[row["quality"] for row in rows],
                text=[row["genome"] for row in rows],
                mode=mode,
                name=name,
            )
        )
    for budget_us in budgets_us:
        figure.add_vline(x=budget_us, line_dash="dash", annotation_text=f"budget {budget_us:.0f} us")
    figure.update_layout(
        title=title, xaxis_title="predicted latency (us)", yaxis_title=f"{metric} on validation rows (supernet)"
    )
    figure.write_html(path, include_plotlyjs=True)
