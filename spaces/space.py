"""SearchSpace: the choices per layer and field, and the moves between genomes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from optuna.distributions import IntDistribution

from sparsefront.spaces.genome import FIELDS, Field, Genome
from sparsefront.spaces.widths import Widths

PRESETS = ("weights", "tokens", "joint", "uniform")
DEFAULT_KEEP_PERCENTS = (100, 90, 80, 70, 60, 50, 40, 30, 20, 10)
BEHAVIOUR_SHARES = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
"""Of the most behaviours of a history: how many of the newest a model may be given."""


@dataclass(frozen=True)
class SearchSpace:
    """Ascending choices per field and layer: ``choices[field][layer]``; features and histories may be left out.

    ``tied`` spaces give every layer the same gene (the last layer's keep share stays 100 %: only [CLS] leaves it).
    Parameters of a point are **integer grid indices**, because a study's categorical lists can never change.
    """

    name: str
    widths: Widths
    choices: Mapping[Field, tuple[tuple[int, ...], ...]]
    tied: bool = False

    def __post_init__(self) -> None:
        none: tuple[tuple[int, ...], ...] = ((0,),) * self.widths.layers
        object.__setattr__(self, "choices", {"feature_heads": none, "behaviours": none, **self.choices})
        for field in FIELDS:
            per_layer = self.choices.get(field)
            if per_layer is None or len(per_layer) != self.widths.layers:
                raise ValueError(f"choices[{field!r}] must have {self.widths.layers} layers, got {per_layer!r}")
            upper = self.widths.upper(field)
            for layer, values in enumerate(per_layer):
                if not values or list(values) != sorted(set(values)):
                    raise ValueError(f"choices of {field} in layer {layer} must ascend without repeats, got {values}")
                if field == "behaviours" and layer and values != (0,):
                    raise ValueError(f"behaviours enter the first layer alone, got {values} for layer {layer}")
                if values[0] < 0 or values[-1] > upper:
                    raise ValueError(f"choices of {field} in layer {layer} must lie in 0..{upper}, got {values}")

    @classmethod
    def preset(
        cls,
        name: str,
        *,
        widths: Widths,
        head_granule: int = 1,
        ffn_granule: int | None = None,
        keep_percents: Sequence[int] = DEFAULT_KEEP_PERCENTS,
    ) -> SearchSpace:
        """A space from a backbone's widths.

        Args:
            name: ``weights`` (heads and FFN units per layer), ``tokens`` (keep shares only), ``joint`` (all three)
                or ``uniform`` (all three, one choice for all layers). Where features read the text, their heads are
                searched with the other heads. Where there are histories, all but ``weights`` also search how many
                behaviours are read.
            widths: the backbone.
            head_granule: heads are offered in multiples of this.
            ffn_granule: FFN units are offered in multiples of this; 1/24 of the width, rounded to 16, by default.
            keep_percents: keep shares offered in all layers but the last.
        """
        if name not in PRESETS:
            raise ValueError(f"space must be one of {', '.join(PRESETS)}, got {name!r}")
        if ffn_granule is None:
            ffn_granule = max(1, min(widths.ffn_units, round(widths.ffn_units / 24 / 16) * 16 or 16))
        heads = _multiples(widths.heads, head_granule, "head_granule")
        ffn_units = _multiples(widths.ffn_units, ffn_granule, "ffn_granule")
        keeps = tuple(sorted({*keep_percents, 100}))
        if name == "weights":
            keeps = (100,)
        reading = tuple(range(widths.feature_heads + 1))
        if name == "tokens":
            heads, ffn_units, reading = (widths.heads,), (widths.ffn_units,), (widths.feature_heads,)
        behaviours: tuple[int, ...] = (widths.behaviours,)
        if name != "weights":
            behaviours = tuple(sorted({math.ceil(share * widths.behaviours) for share in BEHAVIOUR_SHARES}))
        body = widths.layers - 1
        choices: dict[Field, tuple[tuple[int, ...], ...]] = {
            "heads": (heads,) * widths.layers,
            "ffn_units": (ffn_units,) * widths.layers,
            "keep_percent": (*((keeps,) * body), (100,)),
            "feature_heads": (reading,) * widths.layers,
            "behaviours": (behaviours, *(((0,),) * body)),
        }
        return cls(name=name, widths=widths, choices=choices, tied=name == "uniform")

    # -- size and membership -------------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Number of genomes in the space."""
        return math.prod(len(values) for values in self._axes.values())

    def below(self, genome: Genome) -> Genome:
        """The largest genome of the space that exceeds this one nowhere, the smallest choice where there is none; for
        designs that stand between the choices. ``ValueError`` when it has another depth, or in a tied space."""
        if self.tied or len(genome) != self.widths.layers:
            raise ValueError(f"space {self.name!r} of {self.widths.layers} layers has nothing below {genome}")
        return Genome.from_columns(
            **{
                field: [
                    max((one for one in values if one <= value), default=values[0])
                    for value, values in zip(genome.column(field), self.choices[field], strict=True)
                ]
                for field in FIELDS
            }
        )

    def contains(self, genome: Genome) -> bool:
        """Whether every value of the genome is offered (and, in a tied space, the same in all layers)."""
        if len(genome) != self.widths.layers:
            return False
        inside = all(
            value in values
            for field in FIELDS
            for value, values in zip(genome.column(field), self.choices[field], strict=True)
        )
        return inside and (not self.tied or genome == self.from_params(self.to_params(genome)))

    @property
    def largest(self) -> Genome:
        """The dense end: every field at its maximum."""
        return self.from_params({name: len(values) - 1 for name, values in self._axes.items()})

    @property
    def smallest(self) -> Genome:
        """The cheapest end: every field at its minimum."""
        return self.from_params(dict.fromkeys(self._axes, 0))

    def corners(self) -> tuple[Genome, ...]:
        """Every combination of the fields at their minimum and maximum, each genome once, the largest first."""
        axes = self._axes
        found: dict[Genome, None] = {}
        for ends in itertools.product((-1, 0), repeat=len(FIELDS)):
            at = dict(zip(FIELDS, ends, strict=True))
            params = {name: (len(values) - 1 if at[_field_of(name)] else 0) for name, values in axes.items()}
            found.setdefault(self.from_params(params))
        return tuple(found)

    # -- points and parameters -------------------------------------------------------------------------------------

    def distributions(self) -> dict[str, IntDistribution]:
        """Optuna distributions over grid indices; fields with one choice are left out."""
        return dict(self._distributions)

    def to_params(self, genome: Genome) -> dict[str, int]:
        """Grid indices of a genome. Raises ``ValueError`` for a value the space does not offer."""
        params: dict[str, int] = {}
        for name, values in self._axes.items():
            field, layer = _field_of(name), _layer_of(name)
            value = genome.column(field)[layer]
            if value not in values:
                raise ValueError(f"{field} of layer {layer} must be one of {values}, got {value}")
            params[name] = values.index(value)
        return params

    def from_params(self, params: Mapping[str, int]) -> Genome:
        """Genome of grid indices; parameters with a single choice may be missing.

        Raises ``ValueError`` for an index outside the grid.
        """
        columns: dict[Field, list[int]] = {}
        for field, named in self._columns.items():
            columns[field] = []
            for name, values in named:
                index = params.get(name, 0) if len(values) > 1 else 0
                if not 0 <= index < len(values):
                    raise ValueError(f"{name} must be between 0 and {len(values) - 1}, got {index}")
                columns[field].append(values[index])
        return Genome.from_columns(**columns)

    def sample(self, rng: np.random.Generator) -> Genome:
        """A genome drawn uniformly."""
        return self.from_params({name: int(rng.integers(len(values))) for name, values in self._axes.items()})

    def replace(self, genome: Genome, layer: int, field: Field, value: int) -> Genome:
        """The genome with one value changed (in a tied space: in every layer that offers it)."""
        if not 0 <= layer < self.widths.layers:
            raise ValueError(f"layer must be between 0 and {self.widths.layers - 1}, got {layer}")
        values = self.choices[field][layer]
        if value not in values:
            raise ValueError(f"{field} of layer {layer} must be one of {values}, got {value}")
        if len(values) == 1 or not self.tied:
            return genome.replace(layer, field, value)
        for other, offered in enumerate(self.choices[field]):
            if len(offered) > 1:
                genome = genome.replace(other, field, value)
        return genome

    def moves(self) -> tuple[tuple[int, Field, int], ...]:
        """Every (layer, field, value) that :meth:`replace` accepts; a tied space moves all layers through layer 0."""
        return tuple(
            (_layer_of(name), _field_of(name), value)
            for name, values in self._axes.items()
            if len(values) > 1
            for value in values
        )

    def neighbours(self, genome: Genome) -> tuple[Genome, ...]:
        """All genomes one grid step away in one field of one layer."""
        params = self.to_params(genome)
        found = []
        for name, values in self._axes.items():
            for index in (params[name] - 1, params[name] + 1):
                if 0 <= index < len(values):
                    found.append(self.from_params({**params, name: index}))
        return tuple(found)

    def __iter__(self) -> Iterator[Genome]:
        """Every genome, smallest first. Only for small (tied) spaces: see :attr:`size`."""
        axes = self._axes
        for indices in itertools.product(*(range(len(values)) for values in axes.values())):
            yield self.from_params(dict(zip(axes, indices, strict=True)))

    @cached_property
    def _columns(self) -> dict[Field, list[tuple[str, tuple[int, ...]]]]:
        """Per field and layer: the parameter's name, and the layer's choices."""
        return {
            field: [
                (f"all.{field}" if self.tied else f"layer{layer}.{field}", values)
                for layer, values in enumerate(self.choices[field])
            ]
            for field in FIELDS
        }

    @cached_property
    def _distributions(self) -> dict[str, IntDistribution]:
        return {name: IntDistribution(0, len(values) - 1) for name, values in self._axes.items() if len(values) > 1}

    @cached_property
    def _axes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> its choices, in a fixed order."""
        if self.tied:
            return {f"all.{field}": self.choices[field][0] for field in FIELDS}
        return {
            f"layer{layer}.{field}": self.choices[field][layer]
            for layer in range(self.widths.layers)
            for field in FIELDS
        }


def _multiples(full: int, granule: int, name: str) -> tuple[int, ...]:
    if not 1 <= granule <= full:
        raise ValueError(f"{name} must be between 1 and {full}, got {granule}")
    return tuple(sorted({*range(0, full + 1, granule), full}))


def _field_of(name: str) -> Field:
    field = name.partition(".")[2]
    return next(known for known in FIELDS if known == field)


def _layer_of(name: str) -> int:
    prefix = name.partition(".")[0]
    return 0 if prefix == "all" else int(prefix.removeprefix("layer"))
