"""NumBert: features as further tokens of the text's own self-attention, the rival that is rich and slow."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsefront.models.batching import TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_branch import FeatureEmbedding
from sparsefront.models.features import Features


class NumBertConfig(Bert4CtrConfig):
    """An encoder and its features; a feature's token is as wide as a word's state, and nothing reads along."""

    model_type = "sparsefront_numbert"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.feature_width != self.hidden_size or any(self.layer_feature_heads):
            raise ValueError(
                f"tokens must be as wide as a word's state, {self.hidden_size}, and nothing may read along; got "
                f"feature_width {self.feature_width} and layer_feature_heads {self.layer_feature_heads}"
            )

    @classmethod
    def of(cls, text: CrossEncoderConfig, features: Features, **branch: Any) -> Self:
        """The same encoder with a token for each of these features."""
        heads = [0] * len(text.layer_heads)
        return super().of(text, features, **{"feature_width": text.hidden_size, "layer_feature_heads": heads, **branch})


class NumBert(CrossEncoder):
    """A cross-encoder whose text is followed by one token per feature, as wide as a word's state.

    The other way to show features to a text model: :func:`sparsefront.models.feature_words.worded`.
    """

    config_class = NumBertConfig

    def __init__(self, config: NumBertConfig) -> None:
        super().__init__(config)
        self.embedding = FeatureEmbedding(config)
        self.post_init()

    def more_tokens(self, batch: TensorBatch) -> Tensor:
        """Those of the batch's features."""
        if batch.features is None:
            raise ValueError("a model with features needs rows with features")
        tokens: Tensor = self.embedding(batch.features)
        return tokens


AutoConfig.register(NumBertConfig.model_type, NumBertConfig)
AutoModelForSequenceClassification.register(NumBertConfig, NumBert)
