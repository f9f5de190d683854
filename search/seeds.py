"""Seeds: where a search starts. Corners of the space and designs of several shapes that fill the budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import optuna

from sparsefront.search.curves import ImportanceCurves
from sparsefront.search.feasible import FeasibleSpace
from sparsefront.spaces import Genome
from sparsefront.spaces.genome import FIELDS, Field

_STEPS = 65
_SHAPES: Mapping[str, Mapping[Field, tuple[float, float]]] = {
    # field -> (share at the start of the path, share at its end), where it is not said from none to all, and of
    # behaviours all; the path is walked until the budget is full.
    "uniform": {"heads": (0, 1), "ffn_units": (0, 1), "keep_percent": (1, 1)},
    "heads-heavy": {"heads": (0.5, 2), "ffn_units": (0, 1), "keep_percent": (1, 1)},
    "ffn-heavy": {"heads": (0, 1), "ffn_units": (0.5, 2), "keep_percent": (1, 1)},
    "token-pruned": {"heads": (0, 1), "ffn_units": (0, 1), "keep_percent": (0.8, 0.8)},
    "token-pruned-hard": {"heads": (0, 1), "ffn_units": (0, 1), "keep_percent": (0.5, 0.5)},
    "all-three": {"heads": (0, 1), "ffn_units": (0, 1), "keep_percent": (0, 1)},
    "newest-behaviours": {"keep_percent": (1, 1), "behaviours": (0.5, 0.5)},
}
_WIDTHS: tuple[Field, ...] = ("heads", "ffn_units", "feature_heads")
_LOWER_BUDGETS = (0.75, 0.5)


def seed_genomes(feasible: FeasibleSpace, importance: ImportanceCurves | None = None) -> tuple[Genome, ...]:
    """Feasible corners and, per shape, the largest design within the budget; each genome once, designs first.

    A tight budget makes the large corners infeasible, hence the designs: along each shape's path from small to large
    the last genome within the budget is taken, as it is and filled up with single steps, from the first layer and from
    the last one on. The uniform, all-three and importance shapes are also taken at lower budgets, so that the front
    below the budget has a start.
    """
    space = feasible.space
    shapes = {name: shape for name, shape in _SHAPES.items() if space.widths.behaviours or "behaviours" not in shape}
    paths = {name: [_uniform(feasible, shape, step) for step in _steps()] for name, shape in shapes.items()}
    if importance is not None:
        paths["importance"] = _by_importance(feasible, importance)
    found: dict[Genome, None] = {}
    for name, path in paths.items():
        limits = (1.0, *_LOWER_BUDGETS) if name in ("uniform", "all-three", "importance") else (1.0,)
        for limit in limits:
            largest = feasible.largest_along(path, limit_us=limit * feasible.budget_us)
            if largest is not None:
                found.setdefault(largest)
                if limit == 1.0 and not space.tied:
                    found.setdefault(_filled(feasible, largest, range(space.widths.layers)))
                    found.setdefault(_filled(feasible, largest, range(space.widths.layers)[::-1]))
    corners = space.corners()
    for corner, fits in zip(corners, feasible.fits(corners), strict=True):
        if fits:
            found.setdefault(corner)
    return tuple(found)


def _filled(feasible: FeasibleSpace, genome: Genome, layers: Sequence[int]) -> Genome:
    """The genome with heads, FFN units and heads of features added one step at a time while the budget allows, the
    narrowest place first.

    ``layers`` is the order among places that are equally narrow.
    """
    choices = feasible.space.choices
    while True:
        raised: list[tuple[float, Genome]] = []
        for field in _WIDTHS:
            for layer in layers:
                values = choices[field][layer]
                at = values.index(genome.column(field)[layer])
                if at + 1 < len(values):
                    wider = feasible.space.replace(genome, layer, field, values[at + 1])
                    raised.append((at / (len(values) - 1), wider))
        raised.sort(key=lambda one: one[0])
        fitting = np.flatnonzero(feasible.fits([one for _, one in raised]))
        if not len(fitting):
            return genome
        genome = raised[int(fitting[0])][1]


def enqueue_seeds(study: optuna.Study, feasible: FeasibleSpace, importance: ImportanceCurves | None = None) -> int:
    """Enqueue the seeds in any study, e.g. to start a sampler that has none from the same designs; returns how many."""
    seeds = seed_genomes(feasible, importance)
    for genome in seeds:
        params = feasible.space.to_params(genome)
        study.enqueue_trial({name: params[name] for name in feasible.space.distributions()}, skip_if_exists=True)
    return len(seeds)


def _steps() -> list[float]:
    return [float(step) for step in np.linspace(0, 1, _STEPS)]


def _uniform(feasible: FeasibleSpace, shape: Mapping[Field, tuple[float, float]], step: float) -> Genome:
    """Every layer at the same share of its choices."""
    columns: dict[Field, list[int]] = {}
    for field in FIELDS:
        start, end = shape.get(field, (1, 1) if field == "behaviours" else (0, 1))
        share = min(1.0, max(0.0, start + (end - start) * step))
        columns[field] = [values[int(share * (len(values) - 1) + 1e-9)] for values in feasible.space.choices[field]]
    return Genome.from_columns(**columns)


def _by_importance(feasible: FeasibleSpace, importance: ImportanceCurves) -> list[Genome]:
    """Units kept wherever their importance exceeds one threshold per field; the threshold falls along the path."""
    space = feasible.space
    curves = {field: [np.asarray(curve) for curve in per_layer] for field, per_layer in importance.by_field.items()}
    ranked = {field: np.sort(np.concatenate(per_layer))[::-1] for field, per_layer in curves.items()}
    path = []
    for step in _steps():
        columns: dict[Field, list[int]] = {
            "keep_percent": [values[-1] for values in space.choices["keep_percent"]],
            "feature_heads": [values[round(step * (len(values) - 1))] for values in space.choices["feature_heads"]],
            "behaviours": [values[-1] for values in space.choices["behaviours"]],
        }
        for field, per_layer in curves.items():
            count = round(step * len(ranked[field]))
            threshold = ranked[field][count - 1] if count else np.inf
            wanted = [int((curve >= threshold).sum()) for curve in per_layer]
            if space.tied:
                wanted = [round(float(np.mean(wanted)))] * len(wanted)
            columns[field] = [
                max((value for value in values if value <= want), default=values[0])
                for want, values in zip(wanted, space.choices[field], strict=True)
            ]
        path.append(Genome.from_columns(**columns))
    return path
