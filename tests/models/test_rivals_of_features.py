"""The other ways of joining text and features: features alone, and features as further tokens of the text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.models.test_bert4ctr import EDGES, IDS, SUPERNET, batch_of, featured, make_model
from tests.models.tiny import make_config, make_rows

from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_model import FeatureModel
from sparsefront.models.features import FeatureRows
from sparsefront.models.numbert import NumBert
from sparsefront.models.scoring import score_rows
from sparsefront.models.token_gates import GateSample
from sparsefront.models.training import TrainOptions, train
from sparsefront.spaces import Genome

LEARN = TrainOptions(epochs=20, learning_rate=3e-3, tokens_per_batch=256, dropout=0.0)


def numbert(seed: int = 0) -> NumBert:
    text = make_config(SUPERNET).to_dict()
    del text["model_type"]
    config = Bert4CtrConfig(**text, numeric_edges=EDGES, categorical_ids=IDS, feature_width=32)
    torch.manual_seed(seed)
    return NumBert.of(CrossEncoder(make_config(SUPERNET)).eval(), config)


def clicks(rows: int = 300) -> tuple[FeatureRows, np.ndarray]:
    rng = np.random.default_rng(0)
    numeric = rng.normal(1.0, 2.0, (rows, len(EDGES))).astype(np.float32)
    features = FeatureRows(numeric, rng.integers(0, IDS, (rows, len(IDS))).astype(np.int32))
    return features, (features.numeric[:, 0] > 1) == (features.categorical[:, 1] == 1)


@pytest.mark.parametrize("kind", ["features", "numbert"])
def test_it_learns_what_no_word_says(kind: str) -> None:
    features, clicked = clicks()
    rows = make_rows([5] * len(features))
    rows = replace(rows, features=features, target=clicked.astype(np.float32), positive=clicked)
    torch.manual_seed(0)
    model = FeatureModel(make_model().config) if kind == "features" else numbert()
    train(model, rows, LEARN)
    assert ((score_rows(model, rows) > 0) == clicked).mean() > 0.9


def test_a_model_of_features_reads_no_text(tmp_path: Path) -> None:
    model = FeatureModel(make_model(outputs=2).config).eval()
    one, other = (featured(make_rows([3, 9], seed=seed)) for seed in (0, 1))
    np.testing.assert_array_equal(
        score_rows(model, replace(one, classes=2, target=np.zeros(2, np.float32), positive=np.zeros(2, bool))),
        score_rows(model, replace(other, classes=2, target=np.zeros(2, np.float32), positive=np.zeros(2, bool))),
    )
    with pytest.raises(ValueError, match="needs rows with features"):
        model.encode(replace(batch_of(one), features=None))
    with pytest.raises(ValueError, match="has no gates"):
        model.encode(batch_of(one), gates=GateSample.of_schedule((50, 50)))
    with pytest.raises(ValueError, match="ranks no tokens, and has no genomes"):
        train(FeatureModel(make_model().config), one, LEARN, genomes=lambda rng: [SUPERNET])
    model.save_pretrained(tmp_path)
    back = FeatureModel.from_pretrained(tmp_path).eval()
    assert torch.equal(back.head.weight, model.head.weight)


def test_a_text_with_feature_tokens_is_the_same_alone_and_among_longer_ones() -> None:
    model, rows = numbert().eval(), featured(make_rows([3, 17, 9]))
    together = score_rows(model, rows, precision="fp32")
    for row in range(3):
        np.testing.assert_allclose(score_rows(model, rows.subset([row]), precision="fp32"), together[[row]], atol=1e-5)
    other = featured(make_rows([3, 17, 9]), seed=5)
    assert np.abs(score_rows(model, other, precision="fp32") - together).max() > 1e-4


def test_forward_knows_the_features_too() -> None:
    model, rows = numbert().eval(), featured(make_rows([9, 9]))
    batch = batch_of(rows)
    assert batch.features is not None
    given = {"numeric": batch.features.numeric, "categorical": batch.features.categorical}
    logits = model(batch.input_ids, batch.attention_mask, batch.token_type_ids, **given).logits[:, 0]
    np.testing.assert_allclose(logits.detach(), score_rows(model, rows, precision="fp32"), atol=1e-5)


def test_tokens_of_features_are_not_pruned() -> None:
    model, batch = numbert().eval(), batch_of(featured(make_rows([3, 17])))
    with pytest.raises(ValueError, match="tokens beside the text's are not pruned"):
        model.encode(batch, genome=Genome.uniform(3, heads=3, ffn_units=20, keep_percent=50))
    with pytest.raises(ValueError, match="tokens beside the text's are not pruned, got gates"):
        model.encode(batch, gates=GateSample.of_schedule((50, 50)))
    with pytest.raises(ValueError, match="needs rows with features"):
        model.encode(replace(batch, features=None))
    with pytest.raises(ValueError, match="tokens must be as wide as a word's state, 32"):
        NumBert(make_model().config)
