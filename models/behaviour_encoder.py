"""BehaviourEncoder: the frozen lower layers of a backbone, which turn a short text into one vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from sparsefront.models.batching import TensorBatch, best_device
from sparsefront.models.config import SparseBertConfig
from sparsefront.models.encoder import ElasticEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.models.scoring import scoring_batches
from sparsefront.models.tokens import CuttingTokenizer, plain_backend, tokenizer_hash

if TYPE_CHECKING:
    from sparsefront.models.backbone import Backbone

Pooling = Literal["mean", "cls"]
FORMAT = "sparsefront behaviour encoder 1"
"""Changes with whatever changes vectors: part of the fingerprint."""
_PREFIX = "encoder."
_CONFIG = (
    "vocab_size",
    "hidden_size",
    "head_size",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Encodings:
    """``vectors``: (texts, width) float16; ``tokens``: (texts,) int32, of each text before it was cut."""

    vectors: NDArray[np.float16]
    tokens: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class EncoderParts:
    """An encoder as plain values, for Ray's object store: workers need no checkpoint.

    Attributes:
        config: sizes, as :class:`SparseBertConfig` takes them.
        arrays: tensors by name.
        tokenizer: the tokenizer's JSON.
        pooling: see :meth:`BehaviourEncoder.of`.
        max_tokens: likewise.
    """

    config: dict[str, Any]
    arrays: dict[str, NDArray[np.float32]]
    tokenizer: str
    pooling: Pooling
    max_tokens: int

    def build(self) -> BehaviourEncoder:
        """The encoder: its fingerprint is the one of the encoder that these are parts of."""
        # What comes from an object store cannot be written to, which torch warns of.
        weights = {name: torch.from_numpy(array.copy()) for name, array in self.arrays.items()}
        return BehaviourEncoder(
            self.config, weights, Tokenizer.from_str(self.tokenizer), pooling=self.pooling, max_tokens=self.max_tokens
        )


class BehaviourEncoder:
    """Vectors of texts: the states behind the first layers of a backbone, pooled over a text's tokens.

    The layers keep all their heads and units and are never trained, so that a vector can be kept for good. Made with
    :meth:`of`.

    Attributes:
        encoder: the layers, in evaluation mode, in single precision.
        pooling: ``mean`` over all real tokens, special ones included, or the state of [CLS].
        max_tokens: to which longer texts are cut, special tokens included.
        fingerprint: SHA-256 (hex) of all that a vector depends on besides the text.
        texts_cut: how many texts have been cut so far.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        weights: Mapping[str, Tensor],
        tokenizer: Any,
        *,
        pooling: Pooling = "mean",
        max_tokens: int = 64,
    ) -> None:
        self.pooling, self.max_tokens = pooling, max_tokens
        self._config = dict(config)
        self._tokenizer = plain_backend(tokenizer)
        special = self._tokenizer.num_special_tokens_to_add(False)
        longest = self._config["max_position_embeddings"]
        if pooling not in get_args(Pooling):
            raise ValueError(f"pooling must be {' or '.join(get_args(Pooling))}, got {pooling!r}")
        if not special < max_tokens <= longest:
            raise ValueError(f"max_tokens must be from {special + 1} to the model's {longest}, got {max_tokens}")
        self._cutting = CuttingTokenizer(self._tokenizer, max_tokens)
        self.encoder = ElasticEncoder(SparseBertConfig(**self._config))
        self.encoder.load_state_dict(dict(weights))
        self.encoder.requires_grad_(False)
        self.encoder.train(False)
        self.encoder.to(best_device())
        self.fingerprint = self._fingerprint()
        self.texts_cut = 0

    @classmethod
    def of(
        cls, backbone: Backbone, *, layers: int, pooling: Pooling = "mean", max_tokens: int = 64
    ) -> BehaviourEncoder:
        """The first ``layers`` layers of a backbone.

        Raises:
            ValueError: more layers or tokens than the backbone has, fewer than one layer or one word, unknown pooling.
        """
        own = backbone.config
        if not 1 <= layers <= own.num_hidden_layers:
            raise ValueError(f"layers must be from 1 to the backbone's {own.num_hidden_layers}, got {layers}")
        config: dict[str, Any] = {name: getattr(own, name) for name in _CONFIG}
        config |= {name: list(getattr(own, name)[:layers]) for name in ("layer_heads", "layer_ffn_units")}
        upper = tuple(f"{_PREFIX}layers.{layer}." for layer in range(layers, own.num_hidden_layers))
        weights = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in backbone.weights.items()
            if name.startswith(_PREFIX) and not name.startswith(upper)
        }
        return cls(config, weights, backbone.tokenizer, pooling=pooling, max_tokens=max_tokens)

    @property
    def layers(self) -> int:
        """How many layers a text goes through."""
        return len(self.encoder.layers)

    @property
    def width(self) -> int:
        """Numbers per vector."""
        return int(self._config["hidden_size"])

    def encode(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> NDArray[np.float16]:
        """``(texts, width)`` vectors in the texts' own order; see :meth:`encodings`."""
        return self.encodings(texts, progress=progress).vectors

    def encodings(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> Encodings:
        """Vectors and lengths of texts; an empty one is its special tokens alone, a long one is cut and counted.

        A vector does not depend on the texts that it is encoded with, but for the rounding of single precision.

        Args:
            texts: any; they are batched by length.
            progress: called with (texts done, texts in all).
        """
        rows, tokens = self.token_rows(texts)
        vectors = np.empty((len(rows), self.width), np.float16)
        done = 0
        for batch in scoring_batches(rows, self._device):
            vectors[batch.index.cpu().numpy()] = self.pooled(batch).cpu().numpy()
            done += len(batch.index)
            if progress is not None:
                progress(done, len(rows))
        self.texts_cut += int((tokens > self.max_tokens).sum())
        return Encodings(vectors=vectors, tokens=tokens)

    def token_rows(self, texts: Sequence[str]) -> tuple[TokenRows, NDArray[np.int32]]:
        """Texts as tokens, cut where they are too long, and ``(texts,)`` tokens before that."""
        found: dict[str, Any] = self._cutting.encode([texts])
        raw_lengths = found.pop("raw_lengths")
        count = len(texts)
        return TokenRows(**found, target=np.zeros(count, np.float32), positive=np.zeros(count, bool)), raw_lengths

    @torch.inference_mode()
    def pooled(self, batch: TensorBatch) -> Tensor:
        """``(rows, width)`` vectors of a batch, in half precision."""
        ids, mask, types = batch.input_ids, batch.attention_mask, batch.token_type_ids
        if self.pooling == "cls":
            pooled: Tensor = self.encoder(ids, mask, types, cls_only=True).hidden[:, 0]
        else:
            hidden = self.encoder(ids, mask, types, cls_only=False).hidden
            present = mask[..., None].to(hidden.dtype)
            pooled = (hidden * present).sum(1) / present.sum(1)
        return pooled.half()

    @torch.inference_mode()
    def first_state(self) -> NDArray[np.float32]:
        """``(width,)`` state of [CLS] in a text without words: "[CLS] [SEP]"."""
        (batch,) = scoring_batches(self.token_rows([""])[0], self._device)
        encoded = self.encoder(batch.input_ids, batch.attention_mask, batch.token_type_ids, cls_only=True)
        state: NDArray[np.float32] = encoded.hidden[0, 0].float().cpu().numpy()
        return state

    def parts(self) -> EncoderParts:
        """All of it as plain values."""
        return EncoderParts(
            config=self._config,
            arrays={name: tensor.cpu().numpy() for name, tensor in self.encoder.state_dict().items()},
            tokenizer=self._tokenizer.to_str(),
            pooling=self.pooling,
            max_tokens=self.max_tokens,
        )

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    def _fingerprint(self) -> str:
        about = {
            "format": FORMAT,
            "config": self._config,
            "layers": self.layers,
            "pooling": self.pooling,
            "max_tokens": self.max_tokens,
            "tokenizer": tokenizer_hash(self._tokenizer),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
        for name, tensor in sorted(self.encoder.state_dict().items()):
            array = np.ascontiguousarray(tensor.cpu().numpy(), "<f4")
            digest.update(f"{name}:{array.shape};".encode())
            digest.update(array.data)
        return digest.hexdigest()
