"""CrossEncoder: a text or a pair in one sequence, one logit from [CLS] or one per class, or two of every token."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from sparsefront.models.batching import FeatureTensors, TensorBatch
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.encoder import ElasticEncoder, Encoded, LayerGates, Reader, at_least_fp32
from sparsefront.models.feature_branch import FeatureEmbedding
from sparsefront.models.gated_encoding import Gates, encode_gated
from sparsefront.models.loss import label_loss
from sparsefront.models.spans import NO_TOKEN
from sparsefront.models.strict_loading import StrictlyLoaded
from sparsefront.spaces import Genome


class CrossEncoder(StrictlyLoaded):
    """Model over an :class:`ElasticEncoder`; a supernet at full width, a served model once slimmed."""

    config_class = CrossEncoderConfig
    base_model_prefix = "encoder"
    main_input_name = "input_ids"
    _no_split_modules = ("ElasticLayer",)

    def __init__(self, config: CrossEncoderConfig) -> None:
        super().__init__(config)
        self.encoder = ElasticEncoder(config)
        self.head = nn.Linear(config.head_inputs, config.outputs)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight.numel():
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        if isinstance(module, (nn.Linear, nn.LayerNorm)) and module.bias is not None and module.bias.numel():
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, FeatureEmbedding):
            module.draw(self.config.initializer_range)

    @property
    def genome(self) -> Genome:
        """The widths and schedule this model physically has."""
        return self.encoder.genome

    @classmethod
    def of(cls, text: CrossEncoder, config: CrossEncoderConfig, *, seed: int = 0) -> Self:
        """With the weights of a text model; what that has not is fresh."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = cls(config)
        model.load_state_dict(text.state_dict(), strict=False)
        model.train(text.training)
        return model

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        *,
        numeric: Tensor | None = None,
        categorical: Tensor | None = None,
        genome: Genome | None = None,
    ) -> SequenceClassifierOutput:
        """Logits ``(batch, outputs)`` of padded sequences ``(batch, tokens)``, and the loss when labels are given.

        Of spans they are ``(batch, tokens, 2)``.

        Args:
            input_ids: ``(batch, tokens)``, [CLS] first, padding at the end.
            attention_mask: ``(batch, tokens)``; all real by default.
            token_type_ids: ``(batch, tokens)``; all zero by default.
            labels: as the target of :func:`label_loss`; soft labels are welcome.
            numeric: ``(batch, numeric columns)``, NaN where a value is missing, as :class:`Features` encodes them; only
                where the model has such columns.
            categorical: ``(batch, categorical columns)``, ids; likewise.
            genome: widths and keep schedule to run; the model's own by default.
        """
        rows = len(input_ids)
        given = self.features_of(input_ids, numeric, categorical)
        batch = TensorBatch(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            token_type_ids=torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
            target=input_ids.new_zeros(rows),
            index=torch.arange(rows),
            features=given if self.config.features else None,
        )
        logits = self.logits_of(self.encode(batch, genome=genome))
        loss = None if labels is None else label_loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits[:, None] if logits.ndim == 1 else logits)

    def features_of(self, rows: Tensor, numeric: Tensor | None, categorical: Tensor | None) -> FeatureTensors:
        """Features of ``(batch, ...)`` rows as they were given; ``ValueError`` for other columns than the model's."""
        count, device = len(rows), rows.device
        given = FeatureTensors(
            torch.zeros((count, 0), device=device) if numeric is None else numeric,
            torch.zeros((count, 0), dtype=torch.int64, device=device) if categorical is None else categorical,
        )
        columns = given.numeric.shape[1], given.categorical.shape[1]
        if columns != self.config.feature_columns:
            raise ValueError(f"features must be {self.config.feature_columns} numbers and categories, got {columns}")
        return given

    def encode(
        self,
        batch: TensorBatch,
        *,
        genome: Genome | None = None,
        gates: Gates | None = None,
        unit_gates: list[LayerGates] | None = None,
        score_layers: tuple[int, ...] = (),
    ) -> Encoded:
        """Encode a batch, of the last layer only what the head reads.

        Args:
            batch: on the model's device.
            genome: widths and keep schedule to run; the model's own by default.
            gates: drop tokens by another rule than the genome's schedule; then all layers score.
            unit_gates: per-layer multipliers of heads, units and feature heads; only without ``gates``.
            score_layers: layers that return their scores whether or not pruning needs them.
        """
        inputs = batch.input_ids, batch.attention_mask, batch.token_type_ids
        reader, more = self.reader_of(batch, genome, unit_gates), self.more_tokens(batch)
        if gates is not None:
            if more is not None:
                raise ValueError("tokens beside the text's are not pruned, got gates")
            encoded = encode_gated(self.encoder, *inputs, gates=gates, genome=genome, reader=reader)
        else:
            encoded = self.encoder(
                *inputs, genome=genome, gates=unit_gates, score_layers=score_layers, reader=reader, more=more
            )
        encoded.features = None if reader is None else reader.tokens
        return encoded

    def reader_of(
        self, batch: TensorBatch, genome: Genome | None, unit_gates: list[LayerGates] | None
    ) -> Reader | None:
        """What reads a batch's text along with the encoder."""
        return None

    def more_tokens(self, batch: TensorBatch) -> Tensor | None:
        """``(batch, tokens, width)``, states of further tokens behind a batch's text."""
        return None

    def logits_of(self, encoded: Encoded) -> Tensor:
        """Logits of encoded sequences: ``(batch,)`` of one output, ``(batch, outputs)`` of several.

        Of spans ``(batch, tokens, 2)``, as :mod:`sparsefront.models.spans` has them. At least in fp32: in bf16 close
        logits would tie and spoil ranks.
        """
        with torch.autocast(encoded.hidden.device.type, enabled=False):
            if encoded.every is not None and encoded.answers is not None:
                ends: Tensor = self.head(at_least_fp32(encoded.every))
                return ends.masked_fill(~encoded.answers[..., None], NO_TOKEN)
            logits: Tensor = self.head(self.read(encoded))
        return logits[:, 0] if self.config.outputs == 1 else logits

    def read(self, encoded: Encoded) -> Tensor:
        """``(batch, head_inputs)``, what the head makes logits of: [CLS]'s last state."""
        return at_least_fp32(encoded.hidden[:, 0])

    def slim(self, genome: Genome) -> CrossEncoder:
        """The physically small model: ``slim(g)(x)`` equals ``self(x, genome=g)``."""
        self.encoder.check(genome)
        small = type(self)(self.config.with_genome(genome))
        own = self.state_dict()
        sliced = {
            name: own[name][tuple(slice(0, size) for size in value.shape)].clone()
            for name, value in small.state_dict().items()
        }
        small.load_state_dict(sliced)
        small.train(self.training)
        return small


AutoConfig.register(CrossEncoderConfig.model_type, CrossEncoderConfig)
AutoModelForSequenceClassification.register(CrossEncoderConfig, CrossEncoder)
