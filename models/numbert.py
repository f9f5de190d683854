"""NumBert: features as further tokens of the text's own self-attention, the rival that is rich and slow."""

from __future__ import annotations

from torch import Tensor

from sparsefront.models.batching import TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.feature_branch import FeatureEmbedding


class NumBert(CrossEncoder):
    """A cross-encoder whose text is followed by one token per feature, as wide as a word's state.

    The other way to show features to a text model needs no class: their values as words of the text.
    """

    config_class = Bert4CtrConfig

    def __init__(self, config: Bert4CtrConfig) -> None:
        if config.feature_width != config.hidden_size or any(config.layer_feature_heads):
            raise ValueError(
                f"tokens must be as wide as a word's state, {config.hidden_size}, and nothing may read along; got "
                f"feature_width {config.feature_width} and layer_feature_heads {config.layer_feature_heads}"
            )
        super().__init__(config)
        self.embedding = FeatureEmbedding(config)
        self.post_init()

    def more_tokens(self, batch: TensorBatch) -> Tensor:
        """Those of the batch's features."""
        if batch.features is None:
            raise ValueError("a model with features needs rows with features")
        tokens: Tensor = self.embedding(batch.features)
        return tokens
