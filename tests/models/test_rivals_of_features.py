"""The other ways of joining text and features: features alone, and features as further tokens of the text."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tests.models.test_bert4ctr import EDGES, IDS, SUPERNET, batch_of, featured, make_model
from tests.models.tiny import make_config, make_rows

from sparsefront.models.cascade import out_of_fold, with_scores
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.export_onnx import export_onnx
from sparsefront.models.feature_model import FeatureModel, FeatureModelConfig
from sparsefront.models.feature_words import worded
from sparsefront.models.features import FeatureRows
from sparsefront.models.numbert import NumBert, NumBertConfig
from sparsefront.models.ranker import load_ranker
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import score_rows
from sparsefront.models.task import Task
from sparsefront.models.token_gates import GateSample
from sparsefront.models.training import TrainOptions, train
from sparsefront.spaces import Genome, InputError

LEARN = TrainOptions(epochs=20, learning_rate=3e-3, tokens_per_batch=256, dropout=0.0)


def numbert(seed: int = 0) -> NumBert:
    text = make_config(SUPERNET).to_dict()
    del text["model_type"]
    config = NumBertConfig(**text, numeric_edges=EDGES, categorical_ids=IDS, feature_width=32)
    torch.manual_seed(seed)
    return NumBert.of(CrossEncoder(make_config(SUPERNET)).eval(), config)


def of_features(outputs: int = 1) -> FeatureModel:
    config = make_model(outputs=outputs).config.to_dict()
    return FeatureModel(FeatureModelConfig.from_dict({key: config[key] for key in config if key != "model_type"}))


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
    model = of_features() if kind == "features" else numbert()
    train(model, rows, LEARN)
    assert ((score_rows(model, rows) > 0) == clicked).mean() > 0.9


def test_a_model_of_features_reads_no_text(tmp_path: Path) -> None:
    model = of_features(outputs=2).eval()
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
        train(of_features(), one, LEARN, genomes=lambda rng: [SUPERNET])
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
        NumBertConfig(**{**numbert().config.to_dict(), "feature_width": 16})


def test_folders_of_rivals_are_loaded_as_what_they_are_and_have_no_graph(tmp_path: Path) -> None:
    rows = featured(make_rows([3, 17, 9]))
    tokens, features = numbert().eval(), of_features().eval()
    tokens.save_pretrained(tmp_path / "tokens")
    features.save_pretrained(tmp_path / "features")
    for model, loaded in (
        (tokens, load_ranker(tmp_path / "tokens")),
        (features, FeatureModel.from_pretrained(tmp_path / "features")),
    ):
        assert type(loaded) is type(model)
        own, same = model.state_dict(), loaded.state_dict()
        assert own.keys() == same.keys() and all(torch.equal(own[name], same[name]) for name in own)
        # Where weights lie in memory may change the order of a sum, so that scores are alike but for rounding.
        read, made = (score_rows(one.eval(), rows, precision="fp32") for one in (loaded, model))
        np.testing.assert_allclose(read, made, rtol=1e-6, atol=1e-8)
    with pytest.raises(InputError, match="a model of features alone ranks no text, FeatureModel"):
        load_ranker(tmp_path / "features")
    with pytest.raises(InputError, match="a model of type sparsefront_numbert has no graph; expected one of"):
        export_onnx(tokens, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()


def task_of_words() -> Task:
    rng = np.random.default_rng(0)
    words = [f"query {number}" for number in rng.integers(0, 30, 200)]
    price = np.where(rng.random(200) < 0.1, np.nan, rng.random(200) * 100)
    frame = pd.DataFrame(
        {"query": words, "ad": "an ad", "ad_price": price, "shop": "a", "click": rng.integers(0, 2, 200)}
    )
    content = {
        "text": ["query", "ad"],
        "label": {"column": "click", "kind": "binary"},
        "numeric": ["ad_price"],
        "categorical": ["shop"],
        "split": {"group": "query", "valid": 0.2, "test": 0.2, "seed": 0},
        "max_length": 16,
    }
    return Task.from_frame(frame, content)


def test_features_as_words_leave_the_split_as_it_is() -> None:
    task = task_of_words()
    told = worded(task)
    for part in ("train", "valid", "test"):
        np.testing.assert_array_equal(told.indices(part), task.indices(part))
    first, price = told.frame[told.spec.text[0]].iloc[0], task.frame["ad_price"].iloc[0]
    assert first == f"price {price:.2g} shop a . {task.frame['query'].iloc[0]}"
    assert told.frame[told.spec.text[0]].str.contains("price unknown").sum() == task.frame["ad_price"].isna().sum() > 0
    assert told.spec.max_length == 16 + 2 * 6 and not told.features.names


def test_a_cascade_trains_on_scores_of_models_that_have_not_seen_the_row() -> None:
    numbers = np.tile(np.arange(40, dtype=np.float32)[:, None], len(EDGES))
    rows = replace(make_rows([5] * 40), features=FeatureRows(numbers, np.zeros((40, len(IDS)), np.int32)))
    groups, seen = [f"group {number % 10}" for number in range(40)], list[set[int]]()

    def make(part: TokenRows) -> CrossEncoder:
        assert part.features is not None
        seen.append(set(part.features.numeric[:, 0].astype(int).tolist()))
        torch.manual_seed(len(seen))
        model: CrossEncoder = CrossEncoder(make_config(SUPERNET)).eval()
        return model

    logits = out_of_fold(rows, groups, make, seed=0)
    assert len(seen) == 2 and seen[0] | seen[1] == set(range(40)) and not seen[0] & seen[1]
    for number, part in enumerate(seen, start=1):
        assert {groups[row] for row in part}.isdisjoint(groups[row] for row in set(range(40)) - part)
        torch.manual_seed(number)
        others = sorted(set(range(40)) - part)
        expected = score_rows(CrossEncoder(make_config(SUPERNET)).eval(), rows.subset(others))
        np.testing.assert_allclose(logits[others], expected, atol=1e-6)
    with pytest.raises(ValueError, match="2 folds need as many groups, got 1"):
        out_of_fold(rows, ["one"] * 40, make, seed=0)


def test_a_text_score_is_the_last_number_of_a_row() -> None:
    task, rows = task_of_words(), {name: featured(make_rows([5] * 9)) for name in ("train", "test")}
    scores = {name: np.linspace(-2, 2, 9, dtype=np.float32) for name in rows}
    features, found = with_scores(task.features, rows, scores)
    assert [one.name for one in features.numeric] == ["ad_price", "text_score"]
    for name, one in found.items():
        before, after = rows[name].features, one.features
        assert before is not None and after is not None
        np.testing.assert_array_equal(after.numeric[:, :-1], before.numeric)
        np.testing.assert_array_equal(after.numeric[:, -1], scores[name])
