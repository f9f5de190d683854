"""The command ``encode``: vectors of behaviours, once and for all."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from sparsefront.search.cli_options import Backbone, Json, Verbose, out, print_json, quiet_libraries, reporter_for
from sparsefront.spaces import InputError

EXAMPLES = """
[bold]Examples[/bold]

Every text of a column of lists, once:  [bold]sparsefront encode clicks.parquet --column history --store store[/bold]

On a cluster:  [bold]sparsefront encode logs/ --column history --store store --address auto --shards /all/shards[/bold]

Keep only what these rows hold:  [bold]sparsefront encode clicks.parquet --store store --compact-to smaller[/bold]
"""


def encode(
    texts: Annotated[Path, typer.Argument(help="CSV, TSV, Parquet, or a folder of Parquet parts.")],
    store: Annotated[Path, typer.Option(help="Folder of the behaviour store; made where there is none.")],
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="Column of texts, or of lists of texts (of CSV and TSV in JSON); may be given several times. The only "
            "one by default."
        ),
    ] = None,
    backbone: Backbone = "minilm",
    layers: Annotated[
        int | None,
        typer.Option(help="Layers of the backbone that a text goes through; the first half, rounded down, by default."),
    ] = None,
    pooling: Annotated[str, typer.Option(help="What a vector is: mean of a text's tokens, or cls.")] = "mean",
    max_tokens: Annotated[int, typer.Option(help="Tokens to which longer texts are cut.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Texts that are encoded and committed together.")] = 8192,
    shards: Annotated[
        Path | None, typer.Option(help="Encode with Ray Data, into Parquet shards in this folder, and load those.")
    ] = None,
    address: Annotated[str | None, typer.Option(help="Ray cluster for --shards; this machine by default.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Encoders at a time for --shards; 0: one per CPU.")] = 0,
    compact_to: Annotated[
        Path | None, typer.Option(help="Afterwards write another store, of these texts only, to this new folder.")
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Encode texts with the lower layers of a backbone into a behaviour store; only those that it does not know yet.

    The same command goes on where it was interrupted.
    """
    quiet_libraries(verbose)
    from sparsefront.models.backbone import load_backbone
    from sparsefront.models.behaviour_encoder import BehaviourEncoder
    from sparsefront.models.behaviour_store import BehaviourStore
    from sparsefront.models.frozen_layers import FrozenLayers
    from sparsefront.models.text_columns import TextColumns
    from sparsefront.search.encode import all_texts, encode_columns
    from sparsefront.search.rows import alike_line, spread_share

    for name, given in (("--address", address is not None), ("--workers", workers > 0)):
        if given and shards is None:
            raise InputError(f"{name}: is for a cluster; expected --shards FOLDER with it")
    if compact_to is not None and compact_to.exists():
        raise InputError(f"--compact-to: {compact_to} exists already; expected the name of a new store")
    columns = TextColumns.of(texts, column or ())
    lower = load_backbone(backbone)
    depth = FrozenLayers(layers).count(lower.config.num_hidden_layers)
    try:
        encoder = BehaviourEncoder.of(lower, layers=depth, pooling=pooling, max_tokens=max_tokens)  # type: ignore[arg-type]
    except ValueError as error:
        raise InputError(f"--layers, --pooling, --max-tokens: {error}") from error
    reporter = reporter_for(as_json)
    with BehaviourStore.open(store, encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=True) as opened:
        with reporter.step("encoding") as advance:
            if shards is None:
                report = encode_columns(columns, opened, encoder, batch_texts=batch, advance=advance)
            else:
                from sparsefront.search.encode_cluster import encode_on_ray

                report = encode_on_ray(
                    columns, opened, encoder, shards=shards, address=address, workers=workers, batch_texts=batch,
                    advance=advance,
                )  # fmt: skip
        stats = opened.stats()
        spread, alike = spread_share(opened.matrix), alike_line(opened.matrix)
        compacted = None if compact_to is None else opened.compact(all_texts(columns), compact_to)
    values: dict[str, Any] = {
        **asdict(report),
        "hit_rate": report.hit_rate,
        "vectors_per_second": report.vectors_per_second,
        "store": str(store),
        "encoder": encoder.fingerprint,
        **{name: stats[name] for name in ("distinct", "width", "bytes", "bytes_per_vector")},
        "spread_share": spread,
        "compacted": compacted,
    }
    if as_json:
        print_json(values)
        return
    _print(values, columns=", ".join(columns.names), compact_to=compact_to)
    if alike is not None:
        out.print(alike, highlight=False, markup=False)


def _print(values: dict[str, Any], *, columns: str, compact_to: Path | None) -> None:
    hit_rate, rate = values["hit_rate"], values["vectors_per_second"]
    already = "" if hit_rate is None else f", {hit_rate:.1%} had a vector or share one"
    lines = [
        f"{columns}: {values['texts']:,} texts in {values['rows']:,} rows{already}",
        f"encoded: {values['encoded']:,} in {values['seconds']:.1f} s"
        + (f", {values['recovered']:,} of them by an interrupted call" if values["recovered"] else "")
        + ("" if rate is None else f", {rate:,.0f} vectors/s")
        + (f"; {values['cut']:,} were cut to the encoder's tokens" if values["cut"] else ""),
        f"store: {values['store']}: {values['distinct']:,} texts, {values['bytes']:,} bytes"
        + ("" if not values["distinct"] else f", {values['bytes_per_vector']:.0f} per text"),
    ]
    lines += [f"not a whole shard, and of no use any more: {name}" for name in values["damaged_shards"]]
    if compact_to is not None:
        lines.append(f"compacted: {compact_to}: {values['compacted']:,} texts")
    for line in lines:
        out.print(line, highlight=False, markup=False)
