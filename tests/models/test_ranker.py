"""Which class of model a configuration or a folder is of, and backbones of tasks with features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.models.test_bert4ctr import SUPERNET, make_model
from tests.models.tiny import make_config, write_checkpoint
from tests.models.tiny import make_model as make_text_model

from sparsefront.models.backbone import load_backbone
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.ranker import load_ranker, ranker_from, ranker_of
from sparsefront.models.task import Task
from sparsefront.spaces import Genome, InputError


def test_the_class_follows_the_configuration(tmp_path: Path) -> None:
    for model, kind in ((make_text_model(SUPERNET), CrossEncoder), (make_model(), Bert4Ctr)):
        assert type(ranker_of(model.config)) is kind
        assert type(ranker_from(model.config.to_dict())) is kind
        model.save_pretrained(tmp_path / kind.__name__)
        assert type(load_ranker(tmp_path / kind.__name__)) is kind
    for content in ("{", "[]", '{"model_type": "bert"}'):
        (tmp_path / "Bert4Ctr" / "config.json").write_text(content)
        with pytest.raises(InputError):
            load_ranker(tmp_path / "Bert4Ctr")


def test_genomes_and_configurations_say_the_same_of_features() -> None:
    config = make_model(layer_feature_heads=(2, 0, 1)).config
    assert isinstance(config, Bert4CtrConfig)
    assert config.genome.column("feature_heads") == (2, 0, 1) and config.widths.feature_heads == 2
    other = Genome.from_columns([1, 2, 3], [4, 5, 6], [50, 60, 100], [0, 1, 2])
    assert config.with_genome(other).genome == other
    assert type(config.text) is type(make_config(SUPERNET)) and config.text.genome == SUPERNET
    with pytest.raises(ValueError, match="a model without features has no heads for them"):
        make_config(SUPERNET).with_genome(other)
    with pytest.raises(ValueError, match=r"layer 2 holds h3\.f20\.k1\.00\.u1 at most"):
        make_model(layer_feature_heads=(2, 1, 1)).encoder.check(other)


def test_a_backbone_serves_the_features_of_a_task(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "bert")
    rng = np.random.default_rng(0)
    rows = 60
    frame = pd.DataFrame(
        {
            "query": rng.choice(["red", "blue"], rows),
            "price": rng.random(rows),
            "shop": rng.choice(["a", "b"], rows),
            "click": rng.integers(0, 2, rows),
        }
    )
    content = {"text": "query", "label": {"column": "click", "kind": "binary"}}
    plain = load_backbone(str(tmp_path / "bert"))
    text = plain.serving(Task.from_frame(frame, content))
    assert text.config.features == 0 and text.branch == {}
    task = Task.from_frame(frame, {**content, "numeric": "price", "categorical": "shop"})
    both = plain.serving(task)
    assert both.serving(task).config.to_dict() == both.config.to_dict(), "what serves a task serves it again"
    assert isinstance(both.config, Bert4CtrConfig) and both.config.features == 2
    assert both.widths.feature_heads == 3 and both.branch["layer_feature_heads"] == [3, 3]
    assert type(both.cross_encoder()) is CrossEncoder
    model = Bert4Ctr.of(both.cross_encoder(), both.config)
    assert model.genome == both.config.genome
