from __future__ import annotations

import numpy as np
import pytest
from tests.search.landscape import Landscape

from sparsefront.models.importance import UnitOrder
from sparsefront.search.axes import Axes
from sparsefront.search.curves import ImportanceCurves


def test_kept_is_the_share_of_the_whole_model() -> None:
    curves = ImportanceCurves(
        heads=[np.array([3.0, 1.0]), np.array([4.0, 0.0])], ffn_units=[np.array([1.0]), np.array([3.0])]
    )
    assert curves.kept("heads", 0, 1) == pytest.approx(3 / 8)
    assert curves.kept("heads", 1, 2) == pytest.approx(4 / 8)
    assert curves.kept("ffn_units", 1, 1) == pytest.approx(3 / 4)
    assert curves.kept("ffn_units", 1, 0) == 0.0


def test_feature_heads_count_where_a_model_has_some() -> None:
    flat = {"heads": [np.ones(1)] * 2, "ffn_units": [np.ones(1)] * 2}
    assert "feature_heads" not in ImportanceCurves(**flat).kept_by_count
    curves = ImportanceCurves(**flat, feature_heads=[np.array([2.0, 1.0]), np.array([1.0, 0.0])])
    assert curves.kept("feature_heads", 0, 1) == pytest.approx(2 / 4)
    with pytest.raises(ValueError, match="2 layers of heads, 1 of feature heads"):
        ImportanceCurves(**flat, feature_heads=[np.ones(1)])
    bare = [np.zeros(0)] * 2
    order = UnitOrder.from_importance(flat["heads"], flat["ffn_units"], bare)
    assert not ImportanceCurves.of(order).feature_heads
    order = UnitOrder.from_importance(flat["heads"], flat["ffn_units"], [np.array([1.0, 3.0])] * 2)
    assert ImportanceCurves.of(order).kept("feature_heads", 1, 1) == pytest.approx(3 / 8)


@pytest.mark.parametrize(
    ("heads", "line"),
    [([1.0, 2.0], "sorted descending"), ([-1.0, -2.0], "finite values"), ([np.nan, 0.0], "finite values")],
)
def test_refuses_what_is_no_curve(heads: list[float], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        ImportanceCurves(heads=[np.array(heads)], ffn_units=[np.ones(2)])


@pytest.mark.parametrize("preset", ["joint", "weights", "tokens", "uniform"])
def test_axes_list_the_moves_of_the_space(preset: str) -> None:
    landscape = Landscape(preset=preset)
    axes = Axes(space=landscape.space, importance=landscape.importance)
    rng = np.random.default_rng(0)
    genome = landscape.space.sample(rng)
    assert axes.genome(axes.indices(genome)) == genome
    for candidate, move in enumerate(axes.moves):
        indices = axes.indices(genome)
        indices[axes.axis[candidate]] = axes.index[candidate]
        assert axes.genome(indices) == landscape.space.replace(genome, *move)
    assert (np.diff(axes.kept, axis=1) >= -1e-12).all()
    with pytest.raises(ValueError, match="importance must have 4 layers, got 6"):
        Axes(space=landscape.space, importance=Landscape(layers=6).importance)
