"""The exported sides give what the whole export gives, whatever is kept between them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.models.test_bert4ctr import batch_of, featured, make_model, served
from tests.models.tiny import make_rows

from sparsefront.latency.runtime_onnxruntime import OnnxRuntime
from sparsefront.latency.two_sides import FEATURE_SIDE, TEXT_SIDE, TwoSides, export_sides
from sparsefront.spaces import Genome, InputError


def test_a_text_is_read_once_for_many_rows_and_rows_for_many_texts(tmp_path: Path) -> None:
    model = make_model(Genome.from_columns([3, 3, 3], [20, 20, 20], [60, 50, 100]))
    export_sides(model, tmp_path)
    sides = TwoSides(tmp_path)
    texts = make_rows([13, 13, 13])
    one_text = featured(texts.subset([0] * 16))
    batch = batch_of(one_text)
    whole = served(model, batch, OnnxRuntime())
    assert batch.features is not None
    features = {"numeric": batch.features.numeric.numpy(), "categorical": batch.features.categorical.numpy()}
    feeds = {name: getattr(batch, name).numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    said = sides.read({name: value[:1] for name, value in feeds.items()})
    np.testing.assert_allclose(sides.score(said, features), whole, atol=1e-4)
    three = batch_of(featured(texts))
    assert three.features is not None
    same = {"numeric": features["numeric"][[5] * 3], "categorical": features["categorical"][[5] * 3]}
    feeds = {name: getattr(three, name).numpy() for name in feeds}
    kept = [sides.read({name: value[[row]] for name, value in feeds.items()}) for row in range(3)]
    together = {name: np.concatenate([one[name] for one in kept]) for name in kept[0]}
    apart = [sides.score(one, {name: value[:1] for name, value in same.items()})[0] for one in kept]
    np.testing.assert_allclose(sides.score(together, same), apart, atol=1e-4)


@pytest.mark.parametrize("keep", [[100, 100, 100], [60, 50, 100]])
def test_ads_of_unlike_length_that_were_read_alone_are_served_together(keep: list[int], tmp_path: Path) -> None:
    model = make_model(Genome.from_columns([3, 0, 3], [20, 20, 20], keep), layer_feature_heads=(2, 0, 1))
    export_sides(model, tmp_path)
    sides = TwoSides(tmp_path)
    batch = batch_of(featured(make_rows([5, 9, 1, 13])))
    whole = served(model, batch, OnnxRuntime())
    assert batch.features is not None
    features = {"numeric": batch.features.numeric.numpy(), "categorical": batch.features.categorical.numpy()}
    feeds = {name: getattr(batch, name).numpy() for name in ("input_ids", "attention_mask", "token_type_ids")}
    lengths = feeds["attention_mask"].sum(axis=1).tolist()
    kept = [
        sides.read({name: value[[ad], :length] for name, value in feeds.items()}) for ad, length in enumerate(lengths)
    ]
    together = sides.together(kept)
    assert together["real_0"].sum(axis=1).tolist() == lengths == [5, 9, 1, 13]
    np.testing.assert_allclose(sides.score(together, features), whole, atol=1e-4)
    twice = sides.together([sides.together(kept[:2]), sides.together(kept[2:])])
    np.testing.assert_allclose(sides.score(twice, features), whole, atol=1e-4)


def test_texts_that_cannot_stand_together_are_refused() -> None:
    one = {"key_0": np.ones((1, 2, 6)), "mixed_cls": np.ones((1, 7))}
    with pytest.raises(ValueError, match="at least one text, got none"):
        TwoSides.together([])
    with pytest.raises(ValueError, match=r"of one model, got widths \[\(3,\), \(6,\)\]"):
        TwoSides.together([one, {**one, "key_0": np.ones((1, 2, 3))}])
    with pytest.raises(ValueError, match=r"of one model, got .*'mixed_cls'"):
        TwoSides.together([one, {"mixed_cls": one["mixed_cls"]}])


def test_sides_that_are_not_there_or_there_already(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"has no {TEXT_SIDE}"):
        TwoSides(tmp_path)
    export_sides(make_model(), tmp_path)
    with pytest.raises(InputError, match=f"{TEXT_SIDE} exists"):
        export_sides(make_model(), tmp_path)
    (tmp_path / FEATURE_SIDE).write_bytes(b"not a graph")
    with pytest.raises(InputError, match=f"{FEATURE_SIDE}: ONNX Runtime cannot load it"):
        TwoSides(tmp_path)
