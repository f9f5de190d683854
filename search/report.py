"""What a run found, for people: tables and lines on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from sparsefront.latency.statistic import Statistic
from sparsefront.models.labels import SHOWN_CLASSES


def task_line(report: Mapping[str, Any]) -> str:
    """Rows, labels, token lengths and truncation of a task that has been tokenised."""
    rows = ", ".join(f"{name} {split['rows']}" for name, split in report["splits"].items())
    about = f"{report['name']}: {report['rows']} rows ({rows}), {_labels(report)}"
    if histories := report.get("histories"):
        return f"{about}; {_behaviours(histories)}"
    tokens = report["tokens"]
    lengths = f"p50 {tokens['p50']:.0f}, p95 {tokens['p95']:.0f}, max {tokens['max']:.0f}"
    cut = f", {tokens['answers_cut_share']:.1%} without their answer" if "answers_cut_share" in tokens else ""
    truncated = f"{tokens['truncated_share']:.1%} of the rows longer than {report['max_length']}"
    return f"{about}; tokens {lengths}, {truncated}{cut}"


def _behaviours(histories: Mapping[str, Any]) -> str:
    """Distinct texts, and how many behaviours rows have."""
    each = ", ".join(
        f"p50 {one['p50']:.0f}, max {one['max']:.0f}" for one in (h["per_row"] for h in histories["histories"])
    )
    return f"{histories['texts']} texts, behaviours {each}"


def _labels(report: Mapping[str, Any]) -> str:
    """How often each label comes, or how long answers are."""
    if (characters := report.get("answer_characters_mean")) is not None:
        return f"answers of {characters:.0f} characters"
    if (counts := report.get("class_counts")) is None:
        rate = report.get("positive_rate")
        return f"mean target {report['target_mean']:.3f} of 1" if rate is None else f"{rate:.1%} positive"
    shares = [f"{name} {count / report['rows']:.1%}" for name, count in zip(report["classes"], counts, strict=True)]
    if len(shares) > SHOWN_CLASSES:
        rows = report["rows"]
        return f"{len(shares)} classes of {min(counts) / rows:.1%} to {max(counts) / rows:.1%} of the rows"
    return f"{len(shares)} classes ({', '.join(shares)})"


def result_table(result: Mapping[str, Any], at: Mapping[str, Any]) -> Table:
    """Dense teacher, best uniform and winner of one entry of the result's budgets side by side."""
    metric = result["metric"]
    meaning = Statistic.from_json(result["statistic"]).in_words
    title = f"{result['task']['name']}: budget {at['budget_us']:.0f} us, {meaning}"
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    times = ("predicted us", "measured us", "p95 us")
    for name in (f"{metric} valid", f"{metric} test", *times, "parameters", "speed-up"):
        table.add_column(name, justify="right")
    for name in ("dense", "uniform", "winner"):
        row = result["dense"] if name == "dense" else at.get(name)
        if row is None:
            continue
        predicted = "" if row["predicted_us"] is None else f"{row['predicted_us']:.0f}"
        table.add_row(
            {"dense": "dense teacher", "uniform": "best uniform", "winner": "winner"}[name],
            f"{row['valid_quality']:.4f}",
            f"{row['test_quality']:.4f}",
            predicted,
            f"{row['measured_us']:.0f}",
            f"{row['measured_p95_us']:.0f}",
            f"{row['parameters'] / 1e6:.2f} M",
            f"{result['dense']['measured_us'] / row['measured_us']:.2f} x",
        )
    return table


def rounding_line(result: Mapping[str, Any], at: Mapping[str, Any]) -> str | None:
    """What the winner of a budget lost by being served in a rounded precision; ``None`` where nothing was rounded."""
    winner, precision = at["winner"], result["fingerprint"]["precision"]
    if precision == "fp32":
        return None
    lost = winner["fp32_valid_quality"] - winner["valid_quality"]
    return (
        f"served in {precision}: {result['metric']} {winner['valid_quality']:.4f} on the validation rows, "
        f"{abs(lost):.4f} {'below' if lost > 0 else 'above'} the same model in fp32"
    )


def scores_line(row: Mapping[str, Any]) -> str | None:
    """How the winner's probabilities and its order within users are on the test rows; ``None`` where it has none."""
    scores = row["winner"].get("test_scores")
    if not scores:
        return None
    within = f"AUC within users {scores['gauc']:.4f}, " if "gauc" in scores else ""
    return (
        f"winner on the test rows: {within}log loss {scores['log_loss']:.4f} nats, "
        f"probabilities off by {scores['calibration_error']:.2%} (expected calibration error)"
    )


def costs_line(result: Mapping[str, Any]) -> str:
    """Where the time went."""
    walls = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in result["wall_seconds"].items())
    return (
        f"{walls}; {result['seconds_per_evaluation']:.2f} s per evaluation, "
        f"{result['forward_share_of_actor_time']:.0%} of it in the forward pass; "
        f"{result['driver_peak_memory_mib']:.0f} MiB peak in the driver"
    )


def front_table(front: Sequence[Mapping[str, Any]], *, metric: str, budgets_us: Sequence[float]) -> Table:
    """The non-dominated set, best first, and the smallest budget that each keeps."""
    asked = ", ".join(f"{budget_us:.0f} us" for budget_us in budgets_us)
    table = Table(title=f"Pareto front ({len(front)} genomes, budget {asked})", title_justify="left")
    table.add_column("within us", justify="right")
    table.add_column(f"{metric} (supernet)", justify="right")
    table.add_column("predicted us", justify="right")
    table.add_column("genome", overflow="fold")
    for row in front:
        within = "" if row["within_us"] is None else f"{row['within_us']:.0f}"
        table.add_row(within, f"{row['quality']:.4f}", f"{row['latency_us']:.0f}", row["genome"])
    return table
