"""Bert4Ctr: a cross-encoder whose logit also knows features, which read the text in every layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from sparsefront.models.batching import FeatureTensors, TensorBatch
from sparsefront.models.bert4ctr_config import Bert4CtrConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.encoder import Encoded, LayerGates, Reader, at_least_fp32
from sparsefront.models.feature_branch import FeatureBranch
from sparsefront.spaces import Genome

FRESH_RATE = 10.0
"""Times the learning rate of the pretrained layers, for what a model begins with at random."""


class Bert4Ctr(CrossEncoder):
    """Text logits of [CLS] as a :class:`CrossEncoder` has them, plus what the feature branch adds.

    The text's states do not depend on the features. A fresh branch adds nothing, so that training begins at the text
    model.
    """

    config_class = Bert4CtrConfig

    def __init__(self, config: Bert4CtrConfig) -> None:
        super().__init__(config)
        if config.features:
            self.branch = FeatureBranch(config)
            self.post_init()
            nn.init.zeros_(self.branch.head.weight)
            nn.init.zeros_(self.branch.head.bias)

    @property
    def fresh_rates(self) -> dict[str, float]:
        """Factors of the learning rate for training that begins with pretrained layers and nothing else."""
        return {"branch": FRESH_RATE} if self.config.features else {}

    def reader_of(
        self, batch: TensorBatch, genome: Genome | None, unit_gates: list[LayerGates] | None
    ) -> Reader | None:
        """The tokens of the batch's features."""
        return self.reading(batch.features, genome, unit_gates)

    def reading(
        self, features: FeatureTensors | None, genome: Genome | None, unit_gates: list[LayerGates] | None
    ) -> Reading | None:
        """The tokens of features, where the model knows any."""
        if not self.config.features:
            return None
        if features is None:
            raise ValueError("a model with a feature branch needs rows with features")
        heads = (self.genome if genome is None else self.encoder.check(genome)).column("feature_heads")
        return Reading(self.branch, features, heads, unit_gates)

    def logits_of(self, encoded: Encoded) -> Tensor:
        """``(batch,)`` of one output, ``(batch, outputs)`` of several."""
        text = super().logits_of(encoded)
        if not self.config.features:
            return text
        if encoded.features is None:
            raise ValueError("these rows were encoded without their features")
        with torch.autocast(encoded.hidden.device.type, enabled=False):
            cls, tokens = at_least_fp32(encoded.hidden[:, 0]), at_least_fp32(encoded.features)
            added = self.branch.logits(cls, tokens)
        return text + (added[:, 0] if self.config.outputs == 1 else added)


class Reading:
    """The branch's tokens on their way through the layers of one batch."""

    def __init__(
        self,
        branch: FeatureBranch,
        features: FeatureTensors,
        heads: tuple[int, ...],
        unit_gates: list[LayerGates] | None,
    ) -> None:
        self.branch = branch
        self.heads = heads
        self.unit_gates = unit_gates
        self.tokens: Tensor = branch.embedding(features)

    def __call__(self, layer: int, hidden: Tensor, mask: Tensor, presence: Tensor | None) -> None:
        if heads := self.heads[layer]:
            gates = None if self.unit_gates is None else self.unit_gates[layer].feature_heads
            self.tokens = self.branch.uni_attention(layer)(self.tokens, hidden, mask, heads, presence, gates)


AutoConfig.register(Bert4CtrConfig.model_type, Bert4CtrConfig)
AutoModelForSequenceClassification.register(Bert4CtrConfig, Bert4Ctr)
