"""Unit order: Fisher importance against one derivative at a time, and a permutation that changes no logit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tests.models.test_bert4ctr import featured
from tests.models.test_bert4ctr import make_model as make_ranker
from tests.models.tiny import make_feeds, make_model, make_rows, to_torch
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.importance import UnitOrder, fisher_importance
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.spaces import Genome, InputError

HEADS, UNITS, LAYERS = 3, 6, 2
DENSE = Genome.uniform(LAYERS, heads=HEADS, ffn_units=UNITS)


def random_order(seed: int, feature_heads: int = 0) -> UnitOrder:
    rng = np.random.default_rng(seed)
    counts = (HEADS, UNITS, feature_heads)
    return UnitOrder.from_importance(*([rng.random(count) for _ in range(LAYERS)] for count in counts))


def squared_derivative(model: CrossEncoder, rows: TokenRows, row: int, name: str, columns: slice) -> float:
    """Of one row's loss by a multiplier on the columns through which one unit speaks."""
    start, end = rows.offsets[row], rows.offsets[row + 1]
    weight = dict(model.named_parameters())[name].detach()
    multiplier = torch.ones((), requires_grad=True)
    scale = torch.ones_like(weight)
    chosen = torch.zeros_like(weight, dtype=torch.bool)
    chosen[:, columns] = True
    changed = {name: weight * torch.where(chosen, multiplier, scale)}
    batch: dict[str, Tensor] = {
        "input_ids": torch.from_numpy(rows.input_ids[start:end]).long()[None],
        "token_type_ids": torch.from_numpy(rows.token_type_ids[start:end]).long()[None],
    }
    logits = functional_call(model, changed, (), batch).logits[0]
    if rows.classes:
        loss = functional.cross_entropy(logits, torch.tensor(int(rows.target[row])))
    else:
        loss = functional.binary_cross_entropy_with_logits(logits[0], torch.tensor(rows.target[row]))
    (derivative,) = torch.autograd.grad(loss, multiplier)
    return float(derivative) ** 2


@pytest.mark.parametrize("tokens_per_batch", [1, 12, 4096])
@pytest.mark.parametrize(("keep_percent", "classes"), [(100, 0), (50, 0), (50, 3)])
def test_fisher_importance_is_the_mean_squared_derivative(
    tokens_per_batch: int, keep_percent: int, classes: int
) -> None:
    genome = Genome.uniform(LAYERS, heads=HEADS, ffn_units=UNITS, keep_percent=keep_percent)
    model = make_model(genome, hidden_size=16, outputs=classes or 1)
    rows = make_rows([5, 3, 8, 1, 5], seed=1, classes=classes)
    seen: list[tuple[int, int]] = []
    order = fisher_importance(
        model, rows, tokens_per_batch=tokens_per_batch, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (5, 5)
    size = model.config.head_size
    for layer in range(LAYERS):
        prefix = f"encoder.layers.{layer}."
        heads = [
            np.mean([
                squared_derivative(model, rows, row, f"{prefix}output.weight", slice(head * size, (head + 1) * size))
                for row in range(len(rows))
            ])
            for head in range(HEADS)
        ]  # fmt: skip
        units = [
            np.mean([
                squared_derivative(model, rows, row, f"{prefix}ffn_out.weight", slice(unit, unit + 1))
                for row in range(len(rows))
            ])
            for unit in range(UNITS)
        ]  # fmt: skip
        np.testing.assert_allclose(order.head_importance[layer], sorted(heads, reverse=True), rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(order.ffn_importance[layer], sorted(units, reverse=True), rtol=1e-3, atol=1e-9)
        np.testing.assert_allclose(np.array(heads)[order.heads[layer]], order.head_importance[layer], rtol=1e-3)
        np.testing.assert_allclose(
            np.array(units)[order.ffn_units[layer]], order.ffn_importance[layer], rtol=1e-3, atol=1e-9
        )


def test_fisher_importance_leaves_the_model_alone() -> None:
    model = make_model(DENSE)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fisher_importance(model, make_rows([5, 3]))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_layer_without_units_has_no_importance() -> None:
    order = fisher_importance(make_model(Genome.parse("h0.f6.k1.00-h3.f0.k1.00")), make_rows([5, 3]))
    assert [len(heads) for heads in order.heads] == [0, 3]
    assert [len(units) for units in order.ffn_units] == [6, 0]


def test_sorted_descending_ties_to_the_lower_index() -> None:
    order = UnitOrder.from_importance([np.array([0.5, 2.0, 0.5, 3.0])], [np.array([1.0, 1.0])])
    assert order.heads[0].tolist() == [3, 1, 0, 2]
    assert order.head_importance[0].tolist() == [3.0, 2.0, 0.5, 0.5]
    assert order.ffn_units[0].tolist() == [0, 1]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_order_changes_the_units_but_not_the_function(seed: int) -> None:
    model, moved = make_model(DENSE, seed=seed), make_model(DENSE, seed=seed)
    order = random_order(seed)
    order.apply(moved)
    batch = to_torch(make_feeds([9, 4, 1], seed))
    with torch.no_grad():
        torch.testing.assert_close(moved(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)
    pairs: Any = zip(model.encoder.layers, moved.encoder.layers, strict=True)
    for layer, (own, other) in enumerate(pairs):
        size, head, unit = model.config.head_size, int(order.heads[layer][0]), int(order.ffn_units[layer][0])
        for name in ("query", "key", "value"):
            old, new = getattr(own, name), getattr(other, name)
            assert torch.equal(new.weight[:size], old.weight[head * size : (head + 1) * size])
            assert torch.equal(new.bias[:size], old.bias[head * size : (head + 1) * size])
        assert torch.equal(other.ffn_in.weight[0], own.ffn_in.weight[unit])
        assert torch.equal(other.ffn_out.weight[:, 0], own.ffn_out.weight[:, unit])


def test_the_first_unit_of_an_ordered_model_is_the_most_important_one() -> None:
    model, rows = make_model(DENSE), make_rows([5, 3, 8, 6])
    fisher_importance(model, rows).apply(model)
    again = fisher_importance(model, rows)
    assert [heads.tolist() for heads in again.heads] == [list(range(HEADS))] * LAYERS
    assert [units.tolist() for units in again.ffn_units] == [list(range(UNITS))] * LAYERS


def test_heads_that_read_the_text_for_features_are_ordered_too() -> None:
    rows = featured(make_rows([5, 3, 8, 6]))
    model, moved = make_ranker(), make_ranker()
    order = fisher_importance(model, rows)
    assert [len(heads) for heads in order.feature_heads] == [2, 2, 2]
    reading = model.branch.uni_attention(1)
    size = reading.head_size
    for head in range(2):
        derivatives = []
        for row in range(len(rows)):
            multiplier = torch.ones(2, requires_grad=True)
            scale = multiplier.repeat_interleave(size)
            weight = {"branch.layers.1.output.weight": reading.output.weight.detach() * scale}
            one = rows.subset([row])
            assert one.features is not None
            batch = {
                "input_ids": torch.from_numpy(one.input_ids).long()[None],
                "token_type_ids": torch.from_numpy(one.token_type_ids).long()[None],
                "numeric": torch.from_numpy(one.features.numeric),
                "categorical": torch.from_numpy(one.features.categorical).long(),
            }
            logits = functional_call(model, weight, (), batch).logits[0, 0]
            loss = functional.binary_cross_entropy_with_logits(logits, torch.tensor(one.target[0]))
            derivatives.append(float(torch.autograd.grad(loss, multiplier)[0][head]) ** 2)
        at = order.feature_heads[1].tolist().index(head)
        np.testing.assert_allclose(order.feature_importance[1][at], np.mean(derivatives), rtol=1e-3, atol=1e-9)
    swapped = UnitOrder.from_importance(
        order.head_importance, order.ffn_importance, [np.array([0.0, 1.0])] * len(order.heads)
    )
    swapped.apply(moved)
    assert torch.equal(moved.branch.uni_attention(0).key.weight[:size], model.branch.uni_attention(0).key.weight[size:])
    np.testing.assert_allclose(score_rows(moved, rows), score_rows(model, rows), atol=1e-5)


# -- files -----------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path) -> None:
    path = str(tmp_path / "order.safetensors")
    order = random_order(3, feature_heads=2)
    order.save(path)
    check_equal(UnitOrder.load(path), order)


def check_equal(loaded: UnitOrder, order: UnitOrder) -> None:
    for name, columns in vars(order).items():
        for own, other in zip(columns, getattr(loaded, name), strict=True):
            assert own.dtype == other.dtype
            assert own.tolist() == other.tolist()


def test_a_file_from_before_there_were_features_is_read(tmp_path: Path) -> None:
    path = str(tmp_path / "order.safetensors")
    order = random_order(3)
    order.save(path)
    save_file({name: value for name, value in load_file(path).items() if "feature" not in name}, path)
    check_equal(UnitOrder.load(path), order)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "half", "text", "pickle"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "order.safetensors"
    random_order(3).save(str(path))
    good = path.read_bytes()
    path.unlink()
    if damage == "pickle":
        torch.save({"0.heads": torch.zeros(2)}, path)
    elif damage != "missing":
        path.write_bytes(
            {"empty": b"", "cut": good[:-1], "half": good[: len(good) // 2], "text": b"a,b\n1,2\n"}[damage]
        )
    with pytest.raises(InputError) as refusal:
        UnitOrder.load(str(path))
    assert str(refusal.value).startswith(f"{path}: not a unit order, damaged or truncated: ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("change", ["no layers", "one array less", "one array more", "other names"])
def test_another_kind_of_safetensors_file_is_refused(tmp_path: Path, change: str) -> None:
    path = tmp_path / "order.safetensors"
    random_order(3).save(str(path))
    arrays = load_file(path)
    if change == "no layers":
        arrays = {"x": np.zeros(3)}
    elif change == "one array less":
        del arrays["1.heads"]
    elif change == "one array more":
        arrays["2.heads"] = np.arange(3)
    else:
        arrays = {f"layer{name}": value for name, value in arrays.items()}
    save_file(arrays, path)
    with pytest.raises(InputError, match="not a unit order"):
        UnitOrder.load(str(path))
