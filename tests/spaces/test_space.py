"""Search spaces: every way into a space stays inside it, and every point has one set of parameters."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import IntDistribution

from sparsefront.spaces import Genome, SearchSpace, Widths
from sparsefront.spaces.genome import FIELDS, Field
from sparsefront.spaces.space import PRESETS

MINILM = Widths(layers=6, heads=12, ffn_units=1536)
UPPER: dict[Field, int] = {"heads": 6, "ffn_units": 40, "keep_percent": 100, "feature_heads": 2, "behaviours": 30}


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """A preset with random granules, or a space whose layers offer different choices."""
    layers = draw(st.integers(1, 4))
    widths = Widths(layers, UPPER["heads"], UPPER["ffn_units"], UPPER["feature_heads"], UPPER["behaviours"])
    keeps = st.lists(st.integers(0, 100), max_size=4)
    if draw(st.booleans()):
        return SearchSpace.preset(
            draw(st.sampled_from(PRESETS)),
            widths=widths,
            head_granule=draw(st.integers(1, widths.heads)),
            ffn_granule=draw(st.integers(5, widths.ffn_units)),
            keep_percents=draw(keeps),
        )
    choices: dict[Field, tuple[tuple[int, ...], ...]] = {}
    for field in FIELDS:
        values = st.sets(st.integers(0, UPPER[field]), min_size=1, max_size=4).map(lambda found: tuple(sorted(found)))
        choices[field] = tuple(draw(values) for _ in range(layers))
    choices["behaviours"] = (choices["behaviours"][0], *(((0,),) * (layers - 1)))
    return SearchSpace(name="own", widths=widths, choices=choices)


@st.composite
def points(draw: st.DrawFn) -> tuple[SearchSpace, Genome]:
    space = draw(spaces())
    return space, space.sample(np.random.default_rng(draw(st.integers(0, 10_000))))


def small(*, tied: bool = False) -> SearchSpace:
    return SearchSpace.preset(
        "uniform" if tied else "joint",
        widths=Widths(2, 2, 20),
        head_granule=1,
        ffn_granule=10,
        keep_percents=(50,),
    )


# -- membership and parameters ---------------------------------------------------------------------------------------


@given(points())
def test_a_sample_is_inside_and_its_parameters_give_it_back(point: tuple[SearchSpace, Genome]) -> None:
    space, genome = point
    assert space.contains(genome)
    params = space.to_params(genome)
    assert space.from_params(params) == genome
    distributions = space.distributions()
    assert all(distribution._contains(params[name]) for name, distribution in distributions.items())
    assert space.from_params({name: params[name] for name in distributions}) == genome, "single choices may be missing"


@given(spaces())
def test_distributions_span_the_grid(space: SearchSpace) -> None:
    distributions = space.distributions()
    size = 1
    for distribution in distributions.values():
        assert isinstance(distribution, IntDistribution)
        assert (distribution.low, distribution.step) == (0, 1)
        size *= distribution.high + 1
    assert size == space.size
    assert space.from_params({name: found.high for name, found in distributions.items()}) == space.largest
    assert space.from_params({name: found.low for name, found in distributions.items()}) == space.smallest


def test_sampling_depends_on_the_generator_alone_and_reaches_every_genome() -> None:
    space = small()
    rng, again = np.random.default_rng(3), np.random.default_rng(3)
    drawn = [space.sample(rng) for _ in range(3000)]
    assert drawn == [space.sample(again) for _ in range(3000)]
    counts = {genome: drawn.count(genome) for genome in set(drawn)}
    assert len(counts) == space.size == 162
    assert max(counts.values()) < 3000 / 162 * 3, "no genome is drawn far more often than the others"


@pytest.mark.parametrize("tied", [False, True])
def test_iteration_meets_every_genome_once(tied: bool) -> None:
    space = small(tied=tied)
    every = list(space)
    assert len(every) == len(set(every)) == space.size == (18 if tied else 162)
    assert (every[0], every[-1]) == (space.smallest, space.largest)
    values = product((0, 1, 2), (0, 10, 20), (50, 100), repeat=1)
    if tied:
        assert set(every) == {Genome.uniform(2, heads=h, ffn_units=f, keep_percent=k) for h, f, k in values}
    assert all(space.contains(genome) for genome in every)


def test_outside() -> None:
    space = small()
    inside = Genome.parse("h1.f10.k0.50-h2.f0.k1.00")
    assert space.contains(inside)
    for text in (
        "h1.f10.k0.50",
        "h1.f10.k0.50-h2.f0.k1.00-h2.f0.k1.00",
        "h3.f10.k0.50-h2.f0.k1.00",
        "h1.f11.k0.50-h2.f0.k1.00",
        "h1.f10.k0.60-h2.f0.k1.00",
        "h1.f10.k0.50-h2.f0.k0.50",
    ):
        assert not space.contains(Genome.parse(text)), text
    assert not small(tied=True).contains(inside), "layers differ"
    assert small(tied=True).contains(Genome.parse("h1.f10.k0.50-h1.f10.k1.00"))


def test_to_params_names_the_layer_the_choices_and_the_value() -> None:
    with pytest.raises(ValueError) as refusal:
        small().to_params(Genome.parse("h1.f10.k0.50-h2.f7.k1.00"))
    assert str(refusal.value) == "ffn_units of layer 1 must be one of (0, 10, 20), got 7"


@pytest.mark.parametrize("index", [-1, 3])
def test_from_params_refuses_an_index_outside_the_grid(index: int) -> None:
    with pytest.raises(ValueError, match=rf"layer1.heads must be between 0 and 2, got {index}"):
        small().from_params({"layer1.heads": index})


# -- moves -----------------------------------------------------------------------------------------------------------


@given(points())
def test_neighbours_are_one_step_away_in_one_parameter(point: tuple[SearchSpace, Genome]) -> None:
    space, genome = point
    params = space.to_params(genome)
    found = space.neighbours(genome)
    assert len(set(found)) == len(found)
    for neighbour in found:
        assert space.contains(neighbour)
        other = space.to_params(neighbour)
        assert sorted(abs(other[name] - params[name]) for name in params) == [*[0] * (len(params) - 1), 1]
        assert genome in space.neighbours(neighbour)
    ends = {name: found.high for name, found in space.distributions().items()}
    assert len(found) == sum((params[name] > 0) + (params[name] < high) for name, high in ends.items())


@given(points())
def test_every_move_lands_inside(point: tuple[SearchSpace, Genome]) -> None:
    space, genome = point
    moves = space.moves()
    assert len(set(moves)) == len(moves) == sum(d.high + 1 for d in space.distributions().values())
    for layer, field, value in moves:
        moved = space.replace(genome, layer, field, value)
        assert space.contains(moved)
        assert moved.column(field)[layer] == value
        back = space.replace(moved, layer, field, genome.column(field)[layer])
        assert back == genome


def test_replace_in_a_tied_space_moves_all_layers() -> None:
    space = small(tied=True)
    genome = space.largest
    assert space.replace(genome, 0, "heads", 1) == Genome.parse("h1.f20.k1.00-h1.f20.k1.00")
    assert space.replace(genome, 0, "keep_percent", 50) == Genome.parse("h2.f20.k0.50-h2.f20.k1.00")
    pruned = Genome.parse("h2.f20.k0.50-h2.f20.k1.00")
    assert space.replace(pruned, 1, "keep_percent", 100) == pruned, "the last layer's share is not a choice"


def test_replace_refuses_what_is_not_offered() -> None:
    space = small()
    with pytest.raises(ValueError) as refusal:
        space.replace(space.largest, 1, "keep_percent", 50)
    assert str(refusal.value) == "keep_percent of layer 1 must be one of (100,), got 50"
    for layer in (-1, 2):
        with pytest.raises(ValueError, match=f"layer must be between 0 and 1, got {layer}"):
            space.replace(space.largest, layer, "heads", 1)


@given(spaces())
def test_corners_are_distinct_and_inside(space: SearchSpace) -> None:
    corners = space.corners()
    assert corners[0] == space.largest
    assert corners[-1] == space.smallest
    assert len(set(corners)) == len(corners)
    free = {name.partition(".")[2] for name in space.distributions()}
    assert len(corners) == 2 ** len(free)
    for corner in corners:
        assert space.contains(corner)
        for field in FIELDS:
            ends = {tuple(values[end] for values in space.choices[field]) for end in (0, -1)}
            assert corner.column(field) in ends


# -- presets ---------------------------------------------------------------------------------------------------------


def test_weights_preset_keeps_all_tokens() -> None:
    space = SearchSpace.preset("weights", widths=MINILM)
    assert space.size == (13 * 25) ** 6
    assert space.choices["keep_percent"] == ((100,),) * 6
    assert space.choices["heads"] == (tuple(range(13)),) * 6
    assert space.choices["ffn_units"] == (tuple(range(0, 1537, 64)),) * 6
    assert not space.tied


def test_tokens_preset_keeps_all_weights() -> None:
    space = SearchSpace.preset("tokens", widths=MINILM)
    assert space.size == 10**5
    assert {field: set(space.choices[field]) for field in ("heads", "ffn_units")} == {
        "heads": {(12,)},
        "ffn_units": {(1536,)},
    }
    assert space.choices["keep_percent"] == (*[tuple(range(10, 101, 10))] * 5, (100,))


def test_joint_preset_is_both_and_uniform_is_joint_tied() -> None:
    joint = SearchSpace.preset("joint", widths=MINILM)
    uniform = SearchSpace.preset("uniform", widths=MINILM)
    assert joint.size == (13 * 25) ** 6 * 10**5
    assert uniform.size == 13 * 25 * 10
    assert (joint.tied, uniform.tied) == (False, True)
    assert joint.choices == uniform.choices
    assert len(list(uniform)) == uniform.size
    assert all(joint.contains(genome) for genome in uniform.corners())


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_the_dense_model_and_zero_widths_where_widths_are_free(name: str) -> None:
    space = SearchSpace.preset(name, widths=MINILM)
    assert space.name == name
    assert space.largest == Genome.uniform(6, heads=12, ffn_units=1536)
    free = name != "tokens"
    assert space.smallest.column("heads") == (0 if free else 12,) * 6
    assert space.smallest.column("ffn_units") == (0 if free else 1536,) * 6


@pytest.mark.parametrize(
    ("ffn_units", "granule"), [(1536, 64), (3072, 128), (1000, 48), (400, 16), (64, 16), (10, 10), (1, 1)]
)
def test_default_ffn_granule_is_a_multiple_of_16_near_a_24th(ffn_units: int, granule: int) -> None:
    choices = SearchSpace.preset("weights", widths=Widths(1, 1, ffn_units)).choices["ffn_units"][0]
    assert choices[:2] == (0, granule)
    assert choices[-1] == ffn_units


def test_granules_that_do_not_divide_still_offer_the_full_width() -> None:
    space = SearchSpace.preset("joint", widths=Widths(2, 12, 100), head_granule=5, ffn_granule=30, keep_percents=())
    assert space.choices["heads"][0] == (0, 5, 10, 12)
    assert space.choices["ffn_units"][0] == (0, 30, 60, 90, 100)
    assert space.choices["keep_percent"] == ((100,), (100,))


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"name": "all"}, "space must be one of weights, tokens, joint, uniform, got 'all'"),
        ({"head_granule": 0}, "head_granule must be between 1 and 12, got 0"),
        ({"head_granule": 13}, "head_granule must be between 1 and 12, got 13"),
        ({"ffn_granule": 0}, "ffn_granule must be between 1 and 1536, got 0"),
        ({"ffn_granule": 1537}, "ffn_granule must be between 1 and 1536, got 1537"),
        ({"keep_percents": (-5,)}, "choices of keep_percent in layer 0 must lie in 0..100, got (-5, 100)"),
        ({"keep_percents": (120,)}, "choices of keep_percent in layer 0 must lie in 0..100, got (100, 120)"),
    ],
)
def test_presets_refuse(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError) as refusal:
        SearchSpace.preset(**{"name": "joint", "widths": MINILM, **arguments})
    assert str(refusal.value) == line


@pytest.mark.parametrize(
    ("field", "per_layer", "line"),
    [
        ("heads", ((1, 2),), "choices['heads'] must have 2 layers, got ((1, 2),)"),
        ("heads", None, "choices['heads'] must have 2 layers, got None"),
        ("heads", ((), (1,)), "choices of heads in layer 0 must ascend without repeats, got ()"),
        ("heads", ((1,), (2, 1)), "choices of heads in layer 1 must ascend without repeats, got (2, 1)"),
        ("heads", ((1, 1), (1,)), "choices of heads in layer 0 must ascend without repeats, got (1, 1)"),
        ("heads", ((1, 3), (1,)), "choices of heads in layer 0 must lie in 0..2, got (1, 3)"),
        ("ffn_units", ((-1, 3), (1,)), "choices of ffn_units in layer 0 must lie in 0..20, got (-1, 3)"),
        ("keep_percent", ((1,), (101,)), "choices of keep_percent in layer 1 must lie in 0..100, got (101,)"),
    ],
)
def test_choices_that_cannot_be(field: Field, per_layer: Any, line: str) -> None:
    choices: dict[Field, Any] = {**small().choices, field: per_layer}
    if per_layer is None:
        del choices[field]
    with pytest.raises(ValueError) as refusal:
        SearchSpace(name="own", widths=Widths(2, 2, 20), choices=choices)
    assert str(refusal.value) == line


@given(spaces(), st.data())
def test_below_is_the_largest_that_exceeds_nowhere(space: SearchSpace, data: st.DataObject) -> None:
    values = {field: [data.draw(st.integers(0, UPPER[field])) for _ in range(space.widths.layers)] for field in FIELDS}
    values["behaviours"][1:] = [0] * (space.widths.layers - 1)
    genome = Genome.from_columns(**values)
    if space.tied:
        with pytest.raises(ValueError, match="has nothing below"):
            space.below(genome)
        return
    found = space.below(genome)
    assert space.contains(found)
    for field in FIELDS:
        for choices, asked, got in zip(space.choices[field], genome.column(field), found.column(field), strict=True):
            smaller = [one for one in choices if one <= asked]
            assert got == (max(smaller) if smaller else choices[0])


def test_nothing_is_below_a_genome_of_another_depth() -> None:
    with pytest.raises(ValueError, match="has nothing below"):
        SearchSpace.preset("joint", widths=MINILM).below(Genome.uniform(5, heads=12, ffn_units=1536))


def test_heads_of_features_are_searched_where_there_are_some() -> None:
    widths = Widths(layers=3, heads=2, ffn_units=32, feature_heads=2)
    space = SearchSpace.preset("joint", widths=widths)
    assert space.choices["feature_heads"] == ((0, 1, 2),) * 3
    assert space.largest == Genome.uniform(3, heads=2, ffn_units=32, feature_heads=2)
    assert {name for name in space.distributions() if name.endswith("feature_heads")} == {
        f"layer{layer}.feature_heads" for layer in range(3)
    }
    rng = np.random.default_rng(0)
    for _ in range(20):
        genome = space.sample(rng)
        assert space.contains(genome) and space.from_params(space.to_params(genome)) == genome
    tokens = SearchSpace.preset("tokens", widths=widths)
    assert tokens.choices["feature_heads"] == ((2,),) * 3
    plain = SearchSpace.preset("joint", widths=Widths(layers=3, heads=2, ffn_units=32))
    assert plain.choices["feature_heads"] == ((0,),) * 3
    assert not any("feature_heads" in name for name in plain.distributions())


def test_choices_that_say_nothing_of_features_have_none() -> None:
    choices: Any = {"heads": ((1, 2),), "ffn_units": ((0, 4),), "keep_percent": ((100,),)}
    space = SearchSpace(name="own", widths=Widths(layers=1, heads=2, ffn_units=4), choices=choices)
    assert space.choices["feature_heads"] == ((0,),)
    with pytest.raises(ValueError, match=r"choices of feature_heads in layer 0 must lie in 0\.\.0"):
        SearchSpace(name="own", widths=space.widths, choices={**choices, "feature_heads": ((1,),)})


# -- histories -------------------------------------------------------------------------------------------------------


def test_how_much_of_a_history_is_read_is_searched_where_tokens_are() -> None:
    widths = Widths(3, 2, 20, behaviours=50)
    offered = {name: SearchSpace.preset(name, widths=widths).choices["behaviours"] for name in PRESETS}
    assert offered["joint"] == offered["tokens"] == offered["uniform"] == ((4, 7, 13, 19, 25, 38, 50), (0,), (0,))
    assert offered["weights"] == ((50,), (0,), (0,))
    space = SearchSpace.preset("joint", widths=widths)
    assert (space.smallest.behaviours, space.largest.behaviours) == (4, 50)
    assert "layer0.behaviours" in space.distributions() and "layer1.behaviours" not in space.distributions()
    uniform = SearchSpace.preset("uniform", widths=widths)
    assert (uniform.smallest.behaviours, uniform.largest) == (4, space.largest)
    cut = uniform.replace(uniform.largest, 0, "behaviours", 13)
    assert cut.column("behaviours") == (13, 0, 0) and uniform.contains(cut)


def test_only_the_first_layer_is_given_behaviours() -> None:
    with pytest.raises(ValueError, match="behaviours enter the first layer alone, got"):
        SearchSpace(
            name="own",
            widths=Widths(2, 2, 20, behaviours=9),
            choices={
                "heads": ((1,),) * 2,
                "ffn_units": ((5,),) * 2,
                "keep_percent": ((100,),) * 2,
                "behaviours": ((9,),) * 2,
            },
        )
    with pytest.raises(ValueError, match="only the first layer says how many behaviours there are"):
        Genome.from_columns([1, 1], [5, 5], [100, 100], behaviours=[9, 9])
    with pytest.raises(ValueError, match="behaviours must be an integer of at least 0"):
        Widths(2, 2, 20, behaviours=-1)
