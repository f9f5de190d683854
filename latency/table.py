"""LatencyTable: measured blocks -> microseconds of any genome, with the error that was measured beside it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sparsefront.latency.blocks import Blocks, Floats, fill
from sparsefront.latency.cost import BYTES, COMPONENTS, EXTRAS, GenomeColumns, component_costs, extra_features
from sparsefront.latency.machine import MachineFingerprint
from sparsefront.spaces import Genome, InputError, LayerGene, SearchSpace, Widths
from sparsefront.spaces.genomes import Genomes

BLOCKS_FILE = "blocks.parquet"
META_FILE = "table.json"
FORMAT = 2
_COLUMNS = ["part", "width", "length_tokens", "microseconds"]
# Which axes a part has: its width counts heads or units, or it has none.
_AXES: dict[str, tuple[str, ...]] = {
    "cls_only": (), "call": ("length",), "norms": ("length",), "attention": ("heads", "length"),
    "ffn": ("units", "length"), "reading": ("reading", "length"), "scoring": ("heads", "length"),
    "selection": ("length",), "cls_norms": (),
    "cls_attention": ("heads", "length"), "cls_ffn": ("units",),
}  # fmt: skip


@dataclass(frozen=True)
class Backbone:
    """What besides the genome decides a latency; a table serves one backbone."""

    layers: int
    heads: int
    ffn_units: int
    hidden_size: int
    head_size: int
    hidden_act: str
    per_token: bool = False
    feature_heads: int = 0
    features: int = 0
    feature_width: int = 0
    feature_head_size: int = 0
    histories: int = 0

    @property
    def weights_per_head(self) -> int:
        """Weights of one head: query, key, value and output."""
        return 4 * self.head_size * self.hidden_size

    @property
    def weights_per_feature_head(self) -> int:
        """Weights of one head with which features read the text: key and value of it, query and output of theirs."""
        return 2 * self.feature_head_size * (self.hidden_size + self.feature_width)

    @property
    def weights_per_unit(self) -> int:
        """Weights of one FFN unit: in and out."""
        return 2 * self.hidden_size

    def weights_mb(self, columns: GenomeColumns, precision: str) -> Floats:
        """Megabytes of the weights of all layers (genomes,)."""
        weights = columns.heads.sum(1) * self.weights_per_head + columns.ffn_units.sum(1) * self.weights_per_unit
        weights = weights + columns.feature_heads.sum(1) * self.weights_per_feature_head
        return np.asarray(weights * BYTES[precision] / 2**20, np.float64)

    @classmethod
    def of(cls, config: Any) -> Backbone:
        """From the configuration of a dense model."""
        widths: Widths = config.widths
        return cls(
            widths.layers,
            widths.heads,
            widths.ffn_units,
            config.hidden_size,
            config.head_size,
            config.hidden_act,
            config.per_token,
            *([widths.feature_heads, *config.branch_sizes] if config.features else [0] * 4),
            *([config.histories] if config.histories else []),
        )


@dataclass(frozen=True)
class TableError:
    """Error of the table on whole models that took no part in making it.

    Attributes:
        models: held-out models measured; 0 leaves the other values at NaN.
        mean: mean absolute relative error.
        p95: its 95th percentile.
        within_5_percent: share of models predicted within +-5 %.
        within_10_percent: share within +-10 %.
        kendall_tau: rank agreement.
    """

    models: int = 0
    mean: float = float("nan")
    p95: float = float("nan")
    within_5_percent: float = float("nan")
    within_10_percent: float = float("nan")
    kendall_tau: float = float("nan")

    @classmethod
    def of(cls, predicted_us: Floats, measured_us: Floats) -> TableError:
        """From microseconds of the same models, both (models,)."""
        if len(measured_us) < 2:
            return cls()
        error = np.abs(predicted_us - measured_us) / measured_us
        first, second = np.triu_indices(len(measured_us), 1)
        agree = np.sign(predicted_us[first] - predicted_us[second]) * np.sign(measured_us[first] - measured_us[second])
        return cls(
            models=len(measured_us),
            mean=float(error.mean()),
            p95=float(np.percentile(error, 95)),
            within_5_percent=float((error <= 0.05).mean()),
            within_10_percent=float((error <= 0.10).mean()),
            kendall_tau=float(agree.mean()),
        )

    def __str__(self) -> str:
        if not self.models:
            return "not measured"
        return (
            f"mean {self.mean:.1%}, p95 {self.p95:.1%}, within 5 %: {self.within_5_percent:.0%}, "
            f"within 10 %: {self.within_10_percent:.0%}, tau {self.kendall_tau:.3f}, {self.models} held-out models"
        )


@dataclass(frozen=True)
class LatencyTable:
    """Predicts microseconds per call: batch 1, unpadded rows, this machine, runtime and thread count only.

    Predictions never fall when heads or FFN units are added, nor when a keep share rises between two values below
    100 %. From such a value to 100 % the selection of tokens disappears, which is a real saving; there the guarantee is
    ``predict(100 %) >= predict(k) - selection``, where ``selection`` is :meth:`selection_us` of the heads whose
    attention the pruning uses and of the tokens that they score. Nor do they fall when heads of features are added to a
    layer that is computed for all tokens anyway.

    Attributes:
        fingerprint: where and how the table was measured.
        backbone: widths of the dense model.
        measured: one row per measured block: part, width, length_tokens, microseconds.
        calibration: factor per component, fitted on whole models, and microseconds of what no block knows:
            :data:`EXTRAS`.
        error: measured on held-out whole models.
        notes: how it was measured, e.g. seconds, drift, clock.
    """

    fingerprint: MachineFingerprint
    backbone: Backbone
    measured: pd.DataFrame
    calibration: Mapping[str, float] = field(default_factory=dict)
    error: TableError = field(default_factory=TableError)
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.calibration) - {*COMPONENTS, *EXTRAS}:
            raise ValueError(
                f"calibration names must be among {', '.join((*COMPONENTS, *EXTRAS))}, got {sorted(unknown)}"
            )
        if wrong := sorted(name for name, value in self.calibration.items() if not 0 <= value < float("inf")):
            raise ValueError(
                f"calibration of {wrong[0]} must be at least 0 and finite, got {self.calibration[wrong[0]]}"
            )
        factors = {part: self.calibration.get(name, 1.0) for name, parts in COMPONENTS.items() for part in parts}
        blocks = blocks_of(self.measured, self.backbone, self.fingerprint.length_tokens)
        object.__setattr__(self, "_blocks", blocks.scaled(factors).monotone())

    @property
    def blocks(self) -> Blocks:
        """Calibrated, interpolated and monotone microseconds per part."""
        blocks: Blocks = self.__dict__["_blocks"]
        return blocks

    # -- prediction ------------------------------------------------------------------------------------------------

    def predict(self, genome: Genome, *, length_tokens: int | None = None) -> float:
        """Microseconds of one call; at the table's length unless a shorter one is given."""
        return float(self.predict_many([genome], length_tokens=length_tokens)[0])

    def predict_many(self, genomes: Sequence[Genome], *, length_tokens: int | None = None) -> Floats:
        """Microseconds (genomes,). Raises ``ValueError`` for a genome or a length that the table does not cover."""
        if not len(genomes):
            return np.zeros(0)
        return self.predict_columns(GenomeColumns.of(self._covered(genomes)), length_tokens=length_tokens)

    def predict_columns(self, columns: GenomeColumns, *, length_tokens: int | None = None) -> Floats:
        """Microseconds (genomes,) of genomes given as columns, for many at a time; widths must be the table's."""
        per_token = self.backbone.per_token
        blocks_us = component_costs(self.blocks, columns, self._length(length_tokens), per_token=per_token).sum(1)
        weights_mb = self.backbone.weights_mb(columns, self.fingerprint.precision)
        extras = extra_features(columns, weights_mb, per_token=per_token)
        total: Floats = blocks_us + extras @ np.array([self.calibration.get(name, 0.0) for name in EXTRAS])
        return total

    def selection_us(self, heads: int, length_tokens: int) -> float:
        """Microseconds that one pruning step of ``length_tokens`` tokens costs besides what it saves.

        Scoring by ``heads`` heads, ranking and gathering; 0 heads: the scores of an earlier layer are used again.
        """
        length = self._length(length_tokens)
        if not 0 <= heads <= self.backbone.heads:
            raise ValueError(f"heads must be between 0 and {self.backbone.heads}, got {heads}")
        step = self.calibration.get("pruning_step", 0.0)
        return float(self.blocks.selection[length] + self.blocks.scoring[heads, length] + step)

    def layer_costs(self) -> list[dict[str, Any]]:
        """What the parts of a full layer cost at every measured length, in microseconds; ready for JSON."""
        own, blocks = self.backbone, self.blocks
        lengths = sorted({int(length) for length in self.measured["length_tokens"] if length})
        return [
            {
                "tokens": length,
                "heads": own.heads,
                "attention_us": float(blocks.attention[own.heads, length]),
                "ffn_units": own.ffn_units,
                "ffn_us": float(blocks.ffn[own.ffn_units, length]),
                "norms_us": float(blocks.norms[length]),
                "selection_us": self.selection_us(own.heads, length),
            }
            for length in lengths
        ]

    def interpolated_widths(self, space: SearchSpace) -> str | None:
        """Which widths of a space lie between measured ones, for people; ``None``: all were measured."""
        told = []
        heads, units = space.choices["heads"], space.choices["ffn_units"]
        for part, name, layers in (("attention", "head counts", heads), ("ffn", "FFN widths", units)):
            known = {0, *(int(width) for width in self.measured.loc[self.measured["part"] == part, "width"])}
            offered = {value for layer in layers for value in layer}
            if between := offered - known:
                told.append(f"{len(between)} of {len(offered)} {name}")
        return f"latency of {' and '.join(told)} is interpolated between measured ones" if told else None

    def _length(self, length_tokens: int | None) -> int:
        longest = self.fingerprint.length_tokens
        length = longest if length_tokens is None else length_tokens
        if not 1 <= length <= longest:
            raise ValueError(f"length_tokens must be between 1 and {longest}, the table's length, got {length}")
        return length

    def _covered(self, genomes: Sequence[Genome]) -> Genomes:
        own = self.backbone
        for genome in () if isinstance(genomes, Genomes) else genomes:
            if len(genome.layers) != own.layers:
                raise ValueError(f"a genome must have {own.layers} layers like the table, got {len(genome)}: {genome}")
        found = Genomes.of(genomes)
        if found.columns.shape[1] != own.layers:
            raise ValueError(f"a genome must have {own.layers} layers like the table, got {found.columns.shape[1]}")
        columns = GenomeColumns.of(found)
        beyond = (columns.heads > own.heads) | (columns.ffn_units > own.ffn_units)
        beyond |= columns.feature_heads > own.feature_heads
        if beyond.any():
            at, layer = np.argwhere(beyond)[0]
            gene = found[int(at)].layers[int(layer)]
            widest = LayerGene(own.heads, own.ffn_units, feature_heads=own.feature_heads)
            raise ValueError(f"the table covers {widest} at most, got {gene}")
        return found

    # -- storage ---------------------------------------------------------------------------------------------------

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Writes a folder with the blocks (Parquet) and everything else (JSON): whole, or not at all."""
        path = Path(path)
        if path.exists() and not overwrite:
            raise InputError(f"{path} exists; it is replaced only with --overwrite")
        if path.exists() and not (path / META_FILE).is_file():
            raise InputError(f"{path} exists and is not a latency table; it is not replaced")
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
        try:
            partial.chmod(0o755)
            self.measured[_COLUMNS].to_parquet(partial / BLOCKS_FILE, index=False)
            meta = {
                "format": FORMAT,
                "fingerprint": self.fingerprint.to_json(),
                "backbone": asdict(self.backbone),
                "calibration": dict(self.calibration),
                "error": {key: None if np.isnan(value) else value for key, value in asdict(self.error).items()},
                "notes": dict(self.notes),
                "blocks_sha256": _digest(partial / BLOCKS_FILE),
            }
            meta["sha256"] = _digest_of(meta)
            (partial / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
            if path.exists():
                retired = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                os.replace(path, retired / path.name)
                os.replace(partial, path)
                shutil.rmtree(retired)
            else:
                os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(
        cls, path: str | Path, expect: MachineFingerprint | None = None, *, backbone: Backbone | None = None
    ) -> LatencyTable:
        """Reads a table that :meth:`save` wrote.

        Args:
            path: the folder.
            expect: the machine and way of serving that it is wanted for; not compared by default.
            backbone: the widths that it is wanted for; not compared by default.

        Raises:
            InputError: for a folder that is missing, damaged or edited, or for a table of something else; the line
                names every difference.
        """
        path = Path(path)
        try:
            meta = json.loads((path / META_FILE).read_text(encoding="utf-8"))
            wanted = {"format", "fingerprint", "backbone", "calibration", "error", "notes", "blocks_sha256", "sha256"}
            if isinstance(meta, dict) and meta.get("format", FORMAT) != FORMAT:  # another version has other keys
                raise InputError(f"format must be {FORMAT}, got {meta['format']!r}")
            if not isinstance(meta, dict) or set(meta) != wanted:
                raise InputError(f"expected the keys {', '.join(sorted(wanted))}")
            if _digest_of({key: value for key, value in meta.items() if key != "sha256"}) != meta["sha256"]:
                raise InputError(f"{META_FILE} has been changed since it was written (checksum)")
            if _digest(path / BLOCKS_FILE) != meta["blocks_sha256"]:
                raise InputError(f"{BLOCKS_FILE} has been changed since it was written (checksum)")
            error: dict[str, Any] = {
                key: float("nan") if value is None else value for key, value in meta["error"].items()
            }
            table = cls(
                fingerprint=MachineFingerprint.from_json(meta["fingerprint"]),
                backbone=Backbone(**meta["backbone"]),
                measured=pd.read_parquet(path / BLOCKS_FILE),
                calibration=meta["calibration"],
                error=TableError(**error),
                notes=meta["notes"],
            )
        except FileNotFoundError as problem:
            raise InputError(
                f"{path} is not a latency table: {Path(problem.filename or META_FILE).name} is missing"
            ) from problem
        except (ValueError, TypeError, KeyError, OSError, AttributeError) as problem:
            raise InputError(f"{path} is damaged or not a latency table: {' '.join(str(problem).split())}") from problem
        differences = table.fingerprint.differences(expect) if expect is not None else []
        if backbone is not None:
            differences += [
                f"{item.name}: table {getattr(table.backbone, item.name)}, asked {getattr(backbone, item.name)}"
                for item in fields(Backbone)
                if getattr(table.backbone, item.name) != getattr(backbone, item.name)
            ]
        if differences:
            raise InputError(f"{path} was measured for something else: {'; '.join(differences)}")
        return table


def blocks_of(measured: pd.DataFrame, backbone: Backbone, length_tokens: int) -> Blocks:
    """Interpolates measured rows; raises ``ValueError`` for a part that is missing or not a full grid."""
    if missing := set(_COLUMNS) - set(measured.columns):
        raise ValueError(f"column {sorted(missing)[0]!r} of the blocks is missing")
    if not np.isfinite(measured["microseconds"].to_numpy(np.float64)).all():
        raise ValueError("microseconds of the blocks must be finite")
    sizes = {"heads": backbone.heads, "units": backbone.ffn_units, "length": length_tokens}
    sizes["reading"] = backbone.feature_heads
    parts: dict[str, Floats] = {}
    for part, axes in _AXES.items():
        rows = measured[measured["part"] == part]
        if part == "reading" and not backbone.feature_heads:
            parts[part] = np.zeros((1, length_tokens + 1))
            continue
        keys = ["length_tokens" if axis == "length" else "width" for axis in axes]
        grids = [sorted({int(value) for value in rows[key]}) for key in keys]
        if not len(rows) or len(rows) != int(np.prod([len(grid) for grid in grids])):
            raise ValueError(f"the blocks of part {part!r} are missing or not a full grid")
        values = (
            rows.sort_values(keys)["microseconds"].to_numpy(np.float64)
            if keys
            else rows["microseconds"].to_numpy(np.float64)
        )
        values = values.reshape([len(grid) for grid in grids])
        parts[part] = fill(values, grids, [sizes[axis] for axis in axes])
    tiled = _tiles(measured, length_tokens)
    return Blocks(**{**parts, "ffn": parts["ffn"] * tiled, "attention": parts["attention"] * tiled})


def _tiles(measured: pd.DataFrame, length_tokens: int) -> Floats:
    """What products cost at every length (0..length_tokens) over the line between the lengths measured for all widths.

    From one width that was measured at every length (part ``rows``); 1 where a table has none.
    """
    every = measured[measured["part"] == "rows"].sort_values("length_tokens")
    lengths, us = every["length_tokens"].to_numpy(np.float64), every["microseconds"].to_numpy(np.float64)
    coarse = np.unique(measured.loc[measured["part"] == "ffn", "length_tokens"].to_numpy(np.float64))
    lengths, us = lengths[lengths >= coarse[0]], us[lengths >= coarse[0]]
    if not len(lengths) or not set(coarse) <= set(lengths) or (us <= 0).any():
        return np.ones(length_tokens + 1)
    line = np.interp(lengths, coarse, us[np.searchsorted(lengths, coarse)])
    ratio: Floats = np.interp(np.arange(length_tokens + 1), lengths, us / line)
    return ratio


def _digest_of(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
