"""NumBert: features as further tokens of the text's own self-attention, the rival that is rich and slow."""

from __future__ import annotations

import torch
from torch import nn

from sparsefront.models.batching import TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded, LayerGates, Reader
from sparsefront.models.feature_branch import FeatureEmbedding
from sparsefront.models.gated_encoding import Gates
from sparsefront.spaces import Genome


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

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FeatureEmbedding):
            module.draw(self.config.initializer_range)

    def encode(
        self,
        batch: TensorBatch,
        *,
        genome: Genome | None = None,
        gates: Gates | None = None,
        unit_gates: list[LayerGates] | None = None,
        score_layers: tuple[int, ...] = (),
        reader: Reader | None = None,
    ) -> Encoded:
        """As :meth:`CrossEncoder.encode`, of rows with features; no token is pruned."""
        if batch.features is None:
            raise ValueError("a model with features needs rows with features")
        if gates is not None:
            raise ValueError("tokens of features are not pruned, got gates")
        encoded: Encoded = self.encoder(
            batch.input_ids,
            batch.attention_mask,
            batch.token_type_ids,
            genome=genome,
            gates=unit_gates,
            score_layers=score_layers,
            reader=reader,
            more=self.embedding(batch.features),
        )
        return encoded

    @classmethod
    def of(cls, text: CrossEncoder, config: Bert4CtrConfig, *, seed: int = 0) -> NumBert:
        """With the weights of a text model, and fresh features."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = cls(config)
        model.load_state_dict(text.state_dict(), strict=False)
        model.train(text.training)
        return model
