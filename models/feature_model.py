"""FeatureModel: click prediction from features alone, the rival that reads no text."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsefront.models.batching import TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.encoder import Encoded
from sparsefront.models.feature_branch import FeatureEmbedding
from sparsefront.models.strict_loading import StrictlyLoaded


class FeatureModelConfig(Bert4CtrConfig):
    """A feature branch; what it says of an encoder means nothing."""

    model_type = "sparsefront_feature_model"


class FeatureModel(StrictlyLoaded):
    """The embeddings of a feature branch and an MLP of two layers over all of them.

    With the text's score as one more number it is the cascade: see :mod:`sparsefront.models.cascade`.
    """

    config_class = FeatureModelConfig

    def __init__(self, config: FeatureModelConfig) -> None:
        super().__init__(config)
        units = config.mixing_units
        self.embedding = FeatureEmbedding(config)
        self.mixing = nn.Linear(config.features * config.feature_width, units)
        self.hidden = nn.Linear(units, units)
        self.head = nn.Linear(units, config.outputs)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_uniform_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        if isinstance(module, FeatureEmbedding):
            module.draw(self.config.initializer_range)

    def encode(self, batch: TensorBatch, **unused: Any) -> Encoded:
        """The features of a batch as the ``hidden`` of one token; genomes and gates mean nothing here."""
        if any(value for value in unused.values()):
            raise ValueError(f"a model of features has no {', '.join(key for key, value in unused.items() if value)}")
        if batch.features is None:
            raise ValueError("a model of features needs rows with features")
        tokens = self.embedding(batch.features).flatten(1)[:, None]
        return Encoded(tokens, batch.attention_mask[:, :1].bool(), [], [])

    def logits_of(self, encoded: Encoded) -> Tensor:
        """``(batch,)`` of one output, ``(batch, outputs)`` of several."""
        mixed = functional.gelu(self.mixing(encoded.hidden[:, 0]))
        logits: Tensor = self.head(functional.gelu(self.hidden(mixed)))
        return logits[:, 0] if self.config.outputs == 1 else logits


AutoConfig.register(FeatureModelConfig.model_type, FeatureModelConfig)
AutoModelForSequenceClassification.register(FeatureModelConfig, FeatureModel)
