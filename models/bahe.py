"""Bahe: the upper layers of an encoder over vectors that the lower ones have made of each behaviour once.

After BAHE (arXiv 2403.19347): every history goes through the upper layers on its own, the item alone, and what comes
out of all of them meets in the head. Which vectors they are, how places are told and what meets how is decided here.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from sparsefront.models.bahe_config import BaheConfig
from sparsefront.models.batching import FeatureTensors, TensorBatch
from sparsefront.models.behaviours import Sequences
from sparsefront.models.bert4ctr import FRESH_RATE, Bert4Ctr, Reading
from sparsefront.models.encoder import BehaviourEmbeddings, Encoded, LayerGates, Reader, at_least_fp32
from sparsefront.models.gated_encoding import Gates, encode_gated
from sparsefront.models.loss import label_loss
from sparsefront.models.rows import TokenRows
from sparsefront.spaces import Genome

CENTRE_TEXTS = 100_000
"""Of more texts so many tell their mean."""


class Bahe(Bert4Ctr):
    """Histories of vectors and an item's vector in, logits out; with a feature branch where there are features.

    A keep schedule drops behaviours; those beyond the newest that a genome reads do not enter the first layer. Neither
    the item nor a history depends on the others before they meet.
    """

    config_class = BaheConfig
    main_input_name = "vectors"

    def __init__(self, config: BaheConfig) -> None:
        super().__init__(config)
        self.meeting = nn.Linear((1 + 2 * config.histories) * config.hidden_size, config.meeting_units)
        self._init_weights(self.meeting)

    @property
    def fresh_rates(self) -> dict[str, float]:
        return {**super().fresh_rates, "meeting": FRESH_RATE, "head": FRESH_RATE}

    @torch.no_grad()
    def centre(self, rows: TokenRows) -> None:
        """Take the mean of the rows' texts from every behaviour and from the item; before training begins.

        What the mean of a text's states has in common with that of every other outweighs what tells it apart.
        """
        embeddings = self.encoder.embeddings
        if rows.vectors is None or not isinstance(embeddings, BehaviourEmbeddings):
            raise ValueError("a model of histories needs rows with vectors")
        texts = np.unique(rows.input_ids)
        some = rows.vectors[texts[:: -(-len(texts) // CENTRE_TEXTS)]]
        mean = torch.from_numpy(some.mean(axis=0, dtype=np.float32))
        embeddings.position.weight[1:].sub_(mean)
        embeddings.item.sub_(mean)

    def forward(  # type: ignore[override]
        self,
        vectors: Tensor,
        attention_mask: Tensor,
        item: Tensor,
        labels: Tensor | None = None,
        *,
        numeric: Tensor | None = None,
        categorical: Tensor | None = None,
        genome: Genome | None = None,
    ) -> SequenceClassifierOutput:
        """Logits ``(batch, outputs)`` and the loss when labels are given.

        Args:
            vectors: ``(batch, histories, tokens, width)``, as :class:`Sequences` has them.
            attention_mask: ``(batch, histories, tokens)``, non-zero at [CLS] and at behaviours.
            item: ``(batch, width)``.
            labels: as the target of :func:`label_loss`.
            numeric: ``(batch, numeric columns)``, where the model has such columns.
            categorical: ``(batch, categorical columns)``, likewise.
            genome: widths and keep schedule to run; the model's own by default.
        """
        given = self.features_of(item, numeric, categorical)
        if vectors.shape[1] != self.config.histories:
            raise ValueError(f"vectors must be of {self.config.histories} histories, got {vectors.shape[1]}")
        sequences = Sequences(vectors, attention_mask.bool(), item)
        logits = self.logits_of(self.encode_sequences(sequences, given, genome=genome))
        loss = None if labels is None else label_loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits[:, None] if logits.ndim == 1 else logits)

    def encode(
        self,
        batch: TensorBatch,
        *,
        genome: Genome | None = None,
        gates: Gates | None = None,
        unit_gates: list[LayerGates] | None = None,
        score_layers: tuple[int, ...] = (),
    ) -> Encoded:
        """Encode a batch of histories.

        Args:
            batch: on the model's device.
            genome: widths and keep schedule to run; the model's own by default.
            gates: drop behaviours by another rule than the genome's schedule.
            unit_gates: per-layer multipliers of heads, units and feature heads; only without ``gates``.
            score_layers: layers that return what attention the behaviours received; of one history only.

        Returns:
            hidden ``(batch, histories + 1, width)``: what was read of each history and, at last, of the item; scores
            and positions those of the histories, ``(batch * histories, tokens)``.
        """
        if score_layers and self.config.histories > 1:
            raise ValueError(f"behaviours of one history are ranked, got {self.config.histories} histories")
        sequences = Sequences.of(batch, self.config.histories)
        return self.encode_sequences(
            sequences, batch.features, genome=genome, gates=gates, unit_gates=unit_gates, score_layers=score_layers
        )

    def encode_sequences(
        self,
        sequences: Sequences,
        features: FeatureTensors | None,
        *,
        genome: Genome | None = None,
        gates: Gates | None = None,
        unit_gates: list[LayerGates] | None = None,
        score_layers: tuple[int, ...] = (),
    ) -> Encoded:
        """The same of sequences."""
        genome = self.genome if genome is None else self.encoder.check(genome)
        sequences = sequences.newest(genome.behaviours or self.config.behaviours)
        rows, histories = sequences.mask.shape[:2]
        reading = self.reading(features, genome, unit_gates)
        reader: Reader | None = None if reading is None else _Together(reading, histories)
        vectors, mask = sequences.vectors.flatten(0, 1), sequences.mask.flatten(0, 1)
        types = torch.ones_like(mask, dtype=torch.long)  # none of them is an item
        if gates is not None:
            read = encode_gated(self.encoder, vectors, mask, types, gates=gates, genome=genome, reader=reader)
        else:
            each = None if unit_gates is None else [_repeated(one, histories) for one in unit_gates]
            read = self.encoder(
                vectors, mask, types, genome=genome, gates=each, score_layers=score_layers, reader=reader
            )
        alone = torch.ones(rows, 1, dtype=torch.bool, device=mask.device)
        none = torch.zeros_like(alone, dtype=torch.long)
        item = self.encoder(sequences.item[:, None], alone, none, genome=genome.keeping(), gates=unit_gates)
        hidden = torch.cat([read.hidden[:, 0].unflatten(0, (rows, histories)), item.hidden[:, :1]], dim=1)
        there = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
        found = Encoded(hidden, there, read.scores, read.positions)
        found.features = None if reader is None else reader.tokens
        return found

    def read(self, encoded: Encoded) -> Tensor:
        """``(batch, meeting_units)``: the item, the histories, and how they agree."""
        hidden = at_least_fp32(encoded.hidden)
        histories, item = hidden[:, :-1], hidden[:, -1]
        together = torch.cat([item, histories.flatten(1), (histories * item[:, None]).flatten(1)], dim=-1)
        met: Tensor = functional.gelu(self.meeting(together))
        return met


class _Together:
    """Lets features read all histories of a row at once."""

    def __init__(self, reading: Reading, histories: int) -> None:
        self._reading, self._histories = reading, histories
        self.tokens = reading.tokens

    def __call__(self, layer: int, hidden: Tensor, mask: Tensor, presence: Tensor | None) -> None:
        hidden, mask = (self._of_rows(one) for one in (hidden, mask))
        self._reading(layer, hidden, mask, None if presence is None else self._of_rows(presence))
        self.tokens = self._reading.tokens

    def _of_rows(self, states: Tensor) -> Tensor:
        """(batch * histories, tokens, ...) -> (batch, histories * tokens, ...)."""
        together: Tensor = states.unflatten(0, (-1, self._histories)).flatten(1, 2)
        return together


def _repeated(gates: LayerGates, histories: int) -> LayerGates:
    """Gates of rows for each of their histories."""
    heads, units = (one.repeat_interleave(histories, 0) for one in (gates.heads, gates.units))
    return LayerGates(heads, units, gates.feature_heads)


AutoConfig.register(BaheConfig.model_type, BaheConfig)
AutoModelForSequenceClassification.register(BaheConfig, Bahe)
