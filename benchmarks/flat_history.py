"""The rival of ``bahe.py``: an item and its whole history as one text, read by the same layers, the same ones trained.

The rows are made of those of a task with one history, so that both models read the same films: [CLS] item [SEP] films
[SEP], the newest first, a semicolon behind each, cut at so many tokens of the films. Positions beyond those that the
backbone has repeat its own from the first on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from sparsefront.models.backbone import Backbone
from sparsefront.models.config import CrossEncoderConfig
from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.models.tokens import plain_backend

POSITION = "encoder.embeddings.position.weight"
Ids = NDArray[np.int32]


class FlatHistory(CrossEncoder):
    """A cross-encoder whose lowest layers are never trained: no dropout and no gradient there, as where vectors are
    looked up. Its embeddings stay as they are by ``freeze_embeddings`` of the training's options.

    Attributes:
        frozen_layers: how many.
    """

    frozen_layers = 0

    @classmethod
    def over(cls, backbone: Backbone, *, frozen_layers: int, longest_tokens: int, seed: int = 0) -> Self:
        """With the weights of a backbone of texts and room for so long rows."""
        own = backbone.weights[POSITION]
        places = max(len(own), longest_tokens)
        config = CrossEncoderConfig.from_dict({**backbone.config.to_dict(), "max_position_embeddings": places})
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = cls(config)
        repeated = own[torch.arange(places) % len(own)]
        model.load_state_dict({**backbone.weights, POSITION: repeated}, strict=False)
        model.frozen_layers = frozen_layers
        model.eval()
        return model

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; the frozen layers are in evaluation mode in both."""
        super().train(mode)
        for layer in self.encoder.elastic_layers[: self.frozen_layers]:
            layer.eval().requires_grad_(False)
        return self


class FilmTokens:
    """Tokens of texts, made once; ``lengths`` (texts,) are those that each has in a history, its semicolon included."""

    def __init__(self, texts: Sequence[str], tokenizer: Any) -> None:
        plain = plain_backend(tokenizer)
        self._cls, self._sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        behind = np.array(plain.encode(";", add_special_tokens=False).ids, np.int32)
        encoded = plain.encode_batch(list(texts), add_special_tokens=False)
        self._items = [np.array(one.ids, np.int32) for one in encoded]
        self._films = [np.concatenate([one, behind]) for one in self._items]
        self.lengths = np.array([len(one) for one in self._films], np.int64)

    def flat(self, rows: TokenRows, history_tokens: int) -> TokenRows:
        """Rows of one history as rows of one text each."""
        ids: list[Ids] = []
        first_lengths, lengths = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
        for row, (history, item) in enumerate(histories_of(rows)):
            first = [np.array([self._cls], np.int32), self._items[item], np.array([self._sep], np.int32)]
            films = [self._films[one] for one in history.tolist()] or [np.zeros(0, np.int32)]
            second = np.concatenate(films)[:history_tokens]
            closed = [second, np.array([self._sep], np.int32)] if len(second) else []
            ids.append(np.concatenate([*first, *closed]))
            first_lengths[row], lengths[row] = len(first[1]) + 2, len(ids[-1])
        counts = np.column_stack([first_lengths, lengths - first_lengths]).ravel()
        return replace(
            rows,
            input_ids=np.concatenate(ids),
            token_type_ids=np.repeat(np.tile([0, 1], len(rows)), counts).astype(np.int8),
            offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
            vectors=None,
        )

    def within(self, rows: TokenRows, history_tokens: int) -> TokenRows:
        """Rows of histories with those films alone of which the flat rows hold something."""

        def cut(history: Ids) -> Ids:
            begins = np.cumsum(self.lengths[history]) - self.lengths[history]
            return history[begins < history_tokens]

        return with_histories(rows, cut)

    def history_tokens(self, rows: TokenRows) -> NDArray[np.int64]:
        """(rows,) tokens of each whole history."""
        return np.array([self.lengths[history].sum() for history, _ in histories_of(rows)], np.int64)


def histories_of(rows: TokenRows) -> list[tuple[Ids, int]]:
    """Per row of one history the numbers of its behaviours, the newest first, and that of its item."""
    parts = np.split(rows.input_ids, rows.offsets[1:-1])
    return [(part[:-1], int(part[-1])) for part in parts]


def with_histories(rows: TokenRows, change: Callable[[Ids], Ids]) -> TokenRows:
    """The same rows with other behaviours in their one history, row by row in their order."""
    found = [(change(history), item) for history, item in histories_of(rows)]
    counts = np.array([len(history) for history, _ in found], np.int64)
    ends = np.cumsum(counts + 1)
    types = np.zeros(int(ends[-1]), np.int8)
    types[ends - 1] = 1
    ids = np.concatenate([part for history, item in found for part in (history, [item])]).astype(np.int32)
    offsets = np.concatenate([np.zeros(1, np.int64), ends])
    return replace(rows, input_ids=ids, token_type_ids=types, offsets=offsets, vectors_checked=True)
