"""Which class of model a configuration or a folder is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsefront.models.bahe import Bahe
from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_model import FeatureModelConfig
from sparsefront.models.numbert import NumBert
from sparsefront.spaces import InputError

KINDS: dict[str, type[CrossEncoder]] = {
    kind.config_class.model_type: kind for kind in (CrossEncoder, Bert4Ctr, NumBert, Bahe)
}


def ranker_of(config: CrossEncoderConfig) -> CrossEncoder:
    """A model with fresh weights."""
    return KINDS[config.model_type](config)


def ranker_from(config: Mapping[str, Any]) -> CrossEncoder:
    """A model with fresh weights, of what ``to_dict`` made of a configuration."""
    kind = KINDS.get(str(config.get("model_type")), CrossEncoder)
    return kind(kind.config_class.from_dict(dict(config)))


def load_ranker(folder: str | Path) -> CrossEncoder:
    """The model in a folder that ``save_pretrained`` wrote; ``InputError`` for a damaged one or something else."""
    path = Path(folder) / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # the loader says what is wrong
    if kind == FeatureModelConfig.model_type:
        raise InputError(f"{path}: a model of features alone ranks no text, FeatureModel.from_pretrained loads it")
    return KINDS.get(str(kind), CrossEncoder).from_pretrained(folder)
