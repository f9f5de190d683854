"""Which class of model a configuration or a folder is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsefront.models.bert4ctr import Bert4Ctr
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder


def ranker_of(config: CrossEncoderConfig) -> CrossEncoder:
    """A model with fresh weights."""
    return Bert4Ctr(config) if isinstance(config, Bert4CtrConfig) else CrossEncoder(config)


def ranker_from(config: Mapping[str, Any]) -> CrossEncoder:
    """A model with fresh weights, of what ``to_dict`` made of a configuration."""
    kind = Bert4CtrConfig if config.get("model_type") == Bert4CtrConfig.model_type else CrossEncoderConfig
    return ranker_of(kind.from_dict(dict(config)))


def load_ranker(folder: str | Path) -> CrossEncoder:
    """The model in a folder that ``save_pretrained`` wrote; ``InputError`` for a damaged one or something else."""
    path = Path(folder) / "config.json"
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        kind = None  # the loader says what is wrong
    return (Bert4Ctr if kind == Bert4CtrConfig.model_type else CrossEncoder).from_pretrained(folder)
