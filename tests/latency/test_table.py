"""Guarantees of the latency table on synthetic blocks: order, arithmetic, storage and refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.latency.synthetic import BACKBONE, FINGERPRINT, HEADS, LAYERS, LENGTH, UNITS, synthetic_table

from sparsefront.latency.blocks import rising
from sparsefront.latency.cost import COMPONENTS, EXTRAS, WEIGHT_SIZES_MB, memory_features
from sparsefront.latency.machine import MachineFingerprint
from sparsefront.latency.table import BLOCKS_FILE, META_FILE, LatencyTable, TableError
from sparsefront.spaces import Genome, InputError, LayerGene, SearchSpace, Widths, kept_tokens

keeps = st.sampled_from([100, 99, 90, 60, 30, 10, 1])
genes = st.builds(LayerGene, st.integers(0, HEADS), st.integers(0, UNITS), keeps)
genomes = st.lists(genes, min_size=LAYERS, max_size=LAYERS).map(lambda layers: Genome(tuple(layers)))
tables = st.builds(
    synthetic_table,
    st.integers(0, 20),
    noise=st.sampled_from([0.0, 0.3, 2.0]),
    calibration=st.fixed_dictionaries({name: st.sampled_from([0.5, 1.0, 2.0]) for name in (*COMPONENTS, *EXTRAS)}),
    per_token=st.booleans(),
)
layer_indices = st.integers(0, LAYERS - 1)


@settings(max_examples=150, deadline=None)
@given(table=tables, genome=genomes, layer=layer_indices, more=st.integers(1, UNITS), length=st.integers(1, LENGTH))
def test_wider_is_never_cheaper(table: LatencyTable, genome: Genome, layer: int, more: int, length: int) -> None:
    gene = genome.layers[layer]
    before = table.predict(genome, length_tokens=length)
    wider = genome.replace(layer, "heads", min(HEADS, gene.heads + more))
    assert table.predict(wider, length_tokens=length) >= before - 1e-6
    wider = genome.replace(layer, "ffn_units", min(UNITS, gene.ffn_units + more))
    assert table.predict(wider, length_tokens=length) >= before - 1e-6


@settings(max_examples=150, deadline=None)
@given(table=tables, genome=genomes, layer=layer_indices, kept=st.integers(0, 98), more=st.integers(1, 99))
def test_keeping_more_tokens_is_never_cheaper_while_tokens_are_pruned(
    table: LatencyTable, genome: Genome, layer: int, kept: int, more: int
) -> None:
    few = genome.replace(layer, "keep_percent", kept)
    many = genome.replace(layer, "keep_percent", min(99, kept + more))
    assert table.predict(many) >= table.predict(few) - 1e-6


@settings(max_examples=150, deadline=None)
@given(table=tables, genome=genomes, layer=layer_indices, kept=st.integers(0, 99))
def test_keeping_all_tokens_saves_at_most_the_selection(
    table: LatencyTable, genome: Genome, layer: int, kept: int
) -> None:
    pruned, whole = genome.replace(layer, "keep_percent", kept), genome.replace(layer, "keep_percent", 100)
    entering = (LENGTH, *pruned.lengths(LENGTH))
    source = max((index for index in range(layer + 1) if genome.layers[index].heads), default=0)
    scoring = table.selection_us(genome.layers[source].heads, entering[source]) - table.selection_us(
        0, entering[source]
    )
    saved = table.selection_us(0, entering[layer]) + scoring
    assert table.predict(whole) >= table.predict(pruned) - saved - 1e-6


@given(genome=genomes, length=st.integers(1, LENGTH), per_token=st.booleans())
def test_prediction_adds_the_parts_up(genome: Genome, length: int, per_token: bool) -> None:
    """The vectorised cost against a loop over one genome's layers."""
    table = synthetic_table(calibration={"beyond_one_layer": 5.0, "pruning_step": 3.0}, per_token=per_token)
    blocks = table.blocks
    mixing = max((layer for layer, gene in enumerate(genome) if gene.heads), default=-1)
    mixing = len(genome) if per_token else mixing
    total = float(blocks.call[length] if mixing >= 0 else blocks.cls_only)
    total += 5.0 if mixing > 0 else 0.0
    tokens, unpaid, scored = length, 0.0, False
    for layer, gene in enumerate(genome):
        if layer < mixing:
            if gene.heads:
                total += blocks.attention[gene.heads, tokens]
                unpaid, scored = blocks.scoring[gene.heads, tokens], True
            total += blocks.norms[tokens] / 2
            if gene.keep_percent < 100:
                total += 3.0
                if scored:
                    total += blocks.selection[tokens] + unpaid
                    unpaid = 0.0
                tokens = kept_tokens(tokens, gene.keep_percent)
            total += blocks.norms[tokens] / 2 + blocks.ffn[gene.ffn_units, tokens]
        else:
            total += blocks.cls_attention[gene.heads, tokens] if layer == mixing else 0.0
            total += blocks.cls_norms + blocks.cls_ffn[gene.ffn_units]
    assert table.predict(genome, length_tokens=length) == pytest.approx(total)


def test_many_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(0)
    drawn = [
        Genome(
            tuple(
                LayerGene(int(rng.integers(4)), int(rng.integers(13)), int(rng.integers(1, 101))) for _ in range(LAYERS)
            )
        )
        for _ in range(50)
    ]
    table = synthetic_table(noise=0.3)
    np.testing.assert_allclose(table.predict_many(drawn), [table.predict(genome) for genome in drawn])
    assert table.predict_many([]).shape == (0,)


def test_genomes_outside_the_table_are_refused() -> None:
    table = synthetic_table()
    with pytest.raises(ValueError, match="4 layers"):
        table.predict(Genome.uniform(3, heads=1, ffn_units=1))
    with pytest.raises(ValueError, match="covers h3"):
        table.predict(Genome.uniform(LAYERS, heads=4, ffn_units=1))
    with pytest.raises(ValueError, match="between 1 and 20"):
        table.predict(Genome.uniform(LAYERS, heads=1, ffn_units=1), length_tokens=21)
    with pytest.raises(ValueError, match="between 0 and 3"):
        table.selection_us(4, 5)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.sampled_from([(5,), (4, 6)]))
def test_rising_is_monotone_and_keeps_what_is(seed: int, shape: tuple[int, ...]) -> None:
    values = np.random.default_rng(seed).standard_normal(shape)
    fitted = rising(values)
    for axis in range(len(shape)):
        assert (np.diff(fitted, axis=axis) >= 0).all()
    np.testing.assert_array_equal(rising(fitted), fitted)


def test_error_summary() -> None:
    error = TableError.of(np.array([104.0, 190.0, 320.0, 400.0]), np.array([100.0, 200.0, 300.0, 500.0]))
    assert error.models == 4
    assert error.mean == pytest.approx((0.04 + 0.05 + 20 / 300 + 0.2) / 4)
    assert (error.within_5_percent, error.within_10_percent, error.kendall_tau) == (0.5, 0.75, 1.0)
    assert str(TableError()) == "not measured"


# -- storage ---------------------------------------------------------------------------------------------------------


def test_a_saved_table_predicts_the_same(tmp_path: Path) -> None:
    table = dataclasses.replace(
        synthetic_table(noise=0.3, calibration={"ffn": 1.1}), error=TableError(models=2, mean=0.1)
    )
    table.save(tmp_path / "table")
    loaded = LatencyTable.load(tmp_path / "table", FINGERPRINT, backbone=BACKBONE)
    genome = Genome.parse("h2.f8.k0.60-h0.f3.k0.70-h1.f0.k1.00-h3.f12.k1.00")
    assert loaded.predict(genome) == table.predict(genome)
    assert loaded.error.models == 2
    assert np.isnan(loaded.error.p95)
    with pytest.raises(InputError, match="exists"):
        table.save(tmp_path / "table")
    table.save(tmp_path / "table", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_only_a_table_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    with pytest.raises(InputError, match="not a latency table"):
        synthetic_table().save(tmp_path / "precious", overwrite=True)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cpu", "Other CPU"), ("isa", ("avx2",)), ("cores", 4), ("system", "Darwin arm64"), ("runtime", "torch"),
        ("runtime_version", "2.0"), ("threads", 2), ("precision", "int8"), ("batch", 8), ("length_tokens", 48),
    ],
)  # fmt: skip
def test_a_table_of_another_machine_is_refused(tmp_path: Path, name: str, value: object) -> None:
    synthetic_table().save(tmp_path / "table")
    values = {field.name: getattr(FINGERPRINT, field.name) for field in dataclasses.fields(FINGERPRINT)}
    with pytest.raises(InputError, match=f"{name}: table .*, asked "):
        LatencyTable.load(tmp_path / "table", MachineFingerprint(**{**values, name: value}))


def test_a_table_of_another_backbone_is_refused(tmp_path: Path) -> None:
    synthetic_table().save(tmp_path / "table")
    with pytest.raises(InputError, match="heads: table 3, asked 12"):
        LatencyTable.load(tmp_path / "table", backbone=dataclasses.replace(BACKBONE, heads=12))


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "table"
    with pytest.raises(InputError, match="missing"):
        LatencyTable.load(path)
    synthetic_table().save(path)
    blocks, meta = (path / BLOCKS_FILE).read_bytes(), (path / META_FILE).read_text()
    (path / BLOCKS_FILE).write_bytes(blocks[: len(blocks) // 2])
    with pytest.raises(InputError, match="checksum"):
        LatencyTable.load(path)
    (path / BLOCKS_FILE).unlink()
    with pytest.raises(InputError, match=r"blocks\.parquet is missing"):
        LatencyTable.load(path)
    (path / BLOCKS_FILE).write_bytes(blocks)
    values = json.loads(meta)
    for damage in (
        meta[:40], "[]", "null", json.dumps({**values, "format": 1}), json.dumps({**values, "extra": 1}),
        json.dumps({**values, "fingerprint": {**values["fingerprint"], "threads": "1"}}),
        json.dumps({**values, "backbone": {"layers": 4}}), json.dumps({**values, "calibration": {"other": 1.0}}),
        json.dumps({**values, "error": None}),
    ):  # fmt: skip
        (path / META_FILE).write_text(damage)
        with pytest.raises(InputError):
            LatencyTable.load(path)
    older = {key: value for key, value in values.items() if key != "sha256"} | {"format": 1}
    (path / META_FILE).write_text(json.dumps(older))
    with pytest.raises(InputError, match="format must be 2, got 1"):
        LatencyTable.load(path)
    values["calibration"] = {"ffn": 0.5}
    (path / META_FILE).write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"table\.json has been changed since it was written \(checksum\)"):
        LatencyTable.load(path)
    (path / META_FILE).write_text(meta)
    LatencyTable.load(path)


def test_a_table_that_is_killed_while_it_is_written_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthetic_table(calibration={"ffn": 1.5}).save(tmp_path / "table")

    def killed(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparsefront.latency.table.json.dumps", killed)
    with pytest.raises(KeyboardInterrupt):
        synthetic_table().save(tmp_path / "table", overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        synthetic_table().save(tmp_path / "other")
    monkeypatch.undo()
    assert LatencyTable.load(tmp_path / "table").calibration == {"ffn": 1.5}
    assert [path.name for path in tmp_path.iterdir()] == ["table"]


def test_widths_between_measured_ones_are_interpolated_and_named() -> None:
    table = synthetic_table()
    space = SearchSpace.preset("joint", widths=Widths(LAYERS, HEADS, UNITS), ffn_granule=2)
    assert table.interpolated_widths(space) == (
        "latency of 1 of 4 head counts and 4 of 7 FFN widths is interpolated between measured ones"
    )
    low, middle, high = (table.blocks.ffn[units, LENGTH] for units in (4, 8, 12))
    assert middle == pytest.approx((low + high) / 2)
    coarse = SearchSpace.preset("uniform", widths=Widths(LAYERS, HEADS, UNITS), head_granule=3, ffn_granule=12)
    assert table.interpolated_widths(coarse) is None


def test_tiles_of_a_product_shape_the_blocks_between_the_lengths() -> None:
    table = synthetic_table()
    jumps = pd.DataFrame(
        [("rows", 4, length, 10.0 * length + 8.0 * -(-length // 7)) for length in range(1, LENGTH + 1)],
        columns=table.measured.columns,
    )
    tiled = dataclasses.replace(table, measured=pd.concat([table.measured, jumps]))
    plain, stepped = table.blocks.ffn[12], tiled.blocks.ffn[12]
    for length in (2, 7, LENGTH):  # where all widths were measured, nothing changes
        assert stepped[length] == pytest.approx(plain[length])
    assert stepped[8] / plain[8] == pytest.approx(96 / (78 + 146 / 13))
    assert stepped[3] / plain[3] == pytest.approx(38 / (28 + 50 / 5))
    assert (np.diff(stepped) >= 0).all()


def test_weights_count_by_the_megabyte() -> None:
    features = memory_features(np.array([1.0, 3.0, 9.0, 200.0]))
    assert features.sum(1).tolist() == [0, 1, 7, 198]
    assert features[2, :3].tolist() == [2, 4, 1]
    assert features[3, -1] == 200 - WEIGHT_SIZES_MB[-1]
