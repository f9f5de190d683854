"""Bert4Ctr: a cross-encoder whose logit also knows features, which read the text in every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from sparsefront.models.batching import FeatureTensors, TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded, LayerGates, Reader, at_least_fp32
from sparsefront.models.feature_branch import FeatureBranch, FeatureEmbedding
from sparsefront.models.gated_encoding import Gates
from sparsefront.models.loss import label_loss
from sparsefront.spaces import Genome


class Bert4Ctr(CrossEncoder):
    """Text logits of [CLS] as a :class:`CrossEncoder` has them, plus what the feature branch adds.

    The text's states do not depend on the features. A fresh branch adds nothing, so that training begins at the text
    model.
    """

    config_class = Bert4CtrConfig

    def __init__(self, config: Bert4CtrConfig) -> None:
        super().__init__(config)
        self.branch = FeatureBranch(config)
        self.post_init()
        nn.init.zeros_(self.branch.head.weight)
        nn.init.zeros_(self.branch.head.bias)

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, FeatureEmbedding):
            module.draw(self.config.initializer_range)

    def forward(  # type: ignore[override]
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        numeric: Tensor | None = None,
        categorical: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        genome: Genome | None = None,
    ) -> SequenceClassifierOutput:
        """As :meth:`CrossEncoder.forward`, with ``numeric (batch, numeric columns)``, NaN where a value is missing, and
        ``categorical (batch, categorical columns)``, ids; both as :class:`Features` encodes them. Either may be left
        out where there are no such columns.
        """
        rows = len(input_ids)
        features = FeatureTensors(
            input_ids.new_zeros((rows, 0), dtype=torch.float32) if numeric is None else numeric,
            input_ids.new_zeros((rows, 0)) if categorical is None else categorical,
        )
        batch = TensorBatch(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
            target=input_ids.new_zeros(rows),
            index=torch.arange(rows),
            features=features,
        )
        logits = self.logits_of(self.encode(batch, genome=genome))
        loss = None if labels is None else label_loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits[:, None] if logits.ndim == 1 else logits)

    @classmethod
    def of(cls, text: CrossEncoder, config: Bert4CtrConfig, *, seed: int = 0) -> Bert4Ctr:
        """With the weights of a text model, and a fresh branch."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = cls(config)
        model.load_state_dict(text.state_dict(), strict=False)
        model.train(text.training)
        return model

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
        """As :meth:`CrossEncoder.encode`, of rows with features, whose tokens read along."""
        if reader is not None:
            raise ValueError("the feature branch is the reader")
        if batch.features is None:
            raise ValueError("a model with a feature branch needs rows with features")
        heads = (self.genome if genome is None else self.encoder.check(genome)).column("feature_heads")
        reading = _Reading(self.branch, batch.features, heads)
        encoded = super().encode(
            batch, genome=genome, gates=gates, unit_gates=unit_gates, score_layers=score_layers, reader=reading
        )
        encoded.features = reading.tokens
        return encoded

    def logits_of(self, encoded: Encoded) -> Tensor:
        """``(batch,)`` of one output, ``(batch, outputs)`` of several."""
        if encoded.features is None:
            raise ValueError("these rows were encoded without their features")
        text = super().logits_of(encoded)
        with torch.autocast(encoded.hidden.device.type, enabled=False):
            cls, tokens = at_least_fp32(encoded.hidden[:, 0]), at_least_fp32(encoded.features)
            added = self.branch.logits(cls, tokens)
        return text + (added[:, 0] if self.config.outputs == 1 else added)


class _Reading:
    """The branch's tokens on their way through the layers of one batch."""

    def __init__(self, branch: FeatureBranch, features: FeatureTensors, heads: tuple[int, ...]) -> None:
        self.branch = branch
        self.heads = heads
        self.tokens: Tensor = branch.embedding(features)

    def __call__(self, layer: int, hidden: Tensor, mask: Tensor, presence: Tensor | None) -> None:
        if heads := self.heads[layer]:
            self.tokens = self.branch.uni_attention(layer)(self.tokens, hidden, mask, heads, presence)


AutoConfig.register(Bert4CtrConfig.model_type, Bert4CtrConfig)
AutoModelForSequenceClassification.register(Bert4CtrConfig, Bert4Ctr)
