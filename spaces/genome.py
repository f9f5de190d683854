"""Genome: which heads, FFN units and tokens each layer keeps."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

Field = Literal["heads", "ffn_units", "keep_percent", "feature_heads", "behaviours"]
FIELDS: tuple[Field, ...] = get_args(Field)

_GENE = re.compile(r"h(\d+)\.f(\d+)\.k([01])\.(\d\d)(?:\.u(\d+))?(?:\.b(\d+))?")


def kept_tokens(length_tokens: int, keep_percent: int) -> int:
    """Tokens that survive one pruning step: ``1 + ceil((n - 1) * share)``; [CLS] always does.

    The share is a whole percentage so that the count is integer arithmetic: training, serving and the
    latency table cannot disagree by a rounding.
    """
    if length_tokens < 1:
        raise ValueError(f"length_tokens must be at least 1, got {length_tokens}")
    return 1 + ((length_tokens - 1) * keep_percent + 99) // 100


@dataclass(frozen=True, order=True)
class LayerGene:
    """What one layer keeps.

    Attributes:
        heads: attention heads kept, the most important first; 0 removes self-attention (bias and residual stay).
        ffn_units: FFN units kept, the most important first; 0 removes the FFN (bias and residual stay).
        keep_percent: share of the tokens other than [CLS] that stay after this layer's attention, in percent.
        feature_heads: heads with which the tokens of features read the text before this layer (Uni-Attention); always 0
            where a model has no features, and then not told.
        behaviours: the newest of a history that enter the first layer, the older ones are not read; 0, and then not
            told, in later layers and where a model has no histories.
    """

    heads: int
    ffn_units: int
    keep_percent: int = 100
    feature_heads: int = 0
    behaviours: int = 0

    def __post_init__(self) -> None:
        for name in FIELDS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
        if self.keep_percent > 100:
            raise ValueError(f"keep_percent must be between 0 and 100, got {self.keep_percent}")

    def __str__(self) -> str:
        return self._text

    @cached_property
    def _text(self) -> str:
        text = f"h{self.heads}.f{self.ffn_units}.k{self.keep_percent // 100}.{self.keep_percent % 100:02d}"
        text = f"{text}.u{self.feature_heads}" if self.feature_heads else text
        return f"{text}.b{self.behaviours}" if self.behaviours else text


@dataclass(frozen=True, order=True)
class Genome:
    """One gene per layer. ``key()`` is the genome's only identity: cache key, file name and trial attribute."""

    layers: tuple[LayerGene, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("a genome needs at least one layer, got none")
        if any(gene.behaviours for gene in self.layers[1:]):
            raise ValueError(f"only the first layer says how many behaviours there are, got {self}")

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[LayerGene]:
        return iter(self.layers)

    def __str__(self) -> str:
        return self.key()

    def key(self) -> str:
        """Readable text form, e.g. ``h4.f1024.k1.00-h2.f256.k0.60``."""
        return self._key

    @cached_property
    def _key(self) -> str:
        return "-".join(map(str, self.layers))

    @classmethod
    def parse(cls, text: str) -> Genome:
        """Inverse of :meth:`key`. Raises ``ValueError`` that names the part that is not a gene."""
        genes = []
        for part in text.strip().split("-"):
            match = _GENE.fullmatch(part)
            if match is None:
                raise ValueError(f"not a gene: {part!r} (expected the form h4.f1024.k1.00) in genome {text!r}")
            heads, ffn_units, whole, hundredths, *more = (int(group or 0) for group in match.groups())
            genes.append(LayerGene(heads, ffn_units, whole * 100 + hundredths, *more))
        return cls(tuple(genes))

    @classmethod
    def uniform(
        cls,
        layers: int,
        *,
        heads: int,
        ffn_units: int,
        keep_percent: int = 100,
        feature_heads: int = 0,
        behaviours: int = 0,
    ) -> Genome:
        """The same gene in every layer, but no pruning after the last layer's attention: only [CLS] is left there."""
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        gene = LayerGene(heads, ffn_units, keep_percent, feature_heads)
        same = cls((*(gene for _ in range(layers - 1)), replace(gene, keep_percent=100)))
        return same.replace(0, "behaviours", behaviours)

    @classmethod
    def from_columns(
        cls,
        heads: Iterable[int],
        ffn_units: Iterable[int],
        keep_percent: Iterable[int],
        feature_heads: Iterable[int] | None = None,
        behaviours: Iterable[int] | None = None,
    ) -> Genome:
        """From one value per layer and field, without features and histories by default; ``ValueError`` when the
        lengths differ."""
        kept = list(keep_percent)
        more = ([0] * len(kept) if column is None else column for column in (feature_heads, behaviours))
        rows = zip(heads, ffn_units, kept, *more, strict=True)
        return cls(tuple(LayerGene(*row) for row in rows))

    def column(self, field: Field) -> tuple[int, ...]:
        """One field's value in every layer."""
        return tuple(getattr(gene, field) for gene in self.layers)

    @cached_property
    def keeps_all_tokens(self) -> bool:
        """Whether no layer prunes tokens."""
        return all(gene.keep_percent == 100 for gene in self.layers)

    @property
    def behaviours(self) -> int:
        """The newest of a history that are read; 0: all."""
        return self.layers[0].behaviours

    def entering(self, length_tokens: int) -> int:
        """How many of so many tokens, [CLS] among them, enter the first layer."""
        return min(length_tokens, 1 + self.behaviours) if self.behaviours else length_tokens

    def keeping(self, keep_percents: Sequence[int] = (), first_layer: int = 0) -> Genome:
        """The same widths with these keep shares from a layer on, and all tokens kept elsewhere."""
        keeps = [100] * len(self)
        keeps[first_layer : first_layer + len(keep_percents)] = keep_percents
        columns: dict[str, Iterable[int]] = {field: self.column(field) for field in FIELDS}
        return Genome.from_columns(**{**columns, "keep_percent": keeps})

    def replace(self, layer: int, field: Field, value: int) -> Genome:
        """A copy with one value changed."""
        if not 0 <= layer < len(self.layers):
            raise ValueError(f"layer must be between 0 and {len(self.layers) - 1}, got {layer}")
        changes: dict[str, int] = {field: value}
        gene = replace(self.layers[layer], **changes)
        return Genome((*self.layers[:layer], gene, *self.layers[layer + 1 :]))

    def lengths(self, length_tokens: int) -> tuple[int, ...]:
        """Tokens that enter each layer's FFN (after its pruning step) of ``length_tokens``."""
        counts = []
        length_tokens = self.entering(length_tokens)
        for gene in self.layers:
            length_tokens = kept_tokens(length_tokens, gene.keep_percent)
            counts.append(length_tokens)
        return tuple(counts)

    def scoring_layers(self, *, cls_only_last: bool = True) -> tuple[bool, ...]:
        """Which layers must score their tokens because a pruning step uses that layer's attention.

        A layer prunes by its own attention or, without heads, by the latest attention before it; with none before
        it, the leading tokens stay and nothing is scored. When only [CLS] leaves the last layer, it does not prune.
        """
        needed = [False] * len(self.layers)
        latest: int | None = None
        for layer, gene in enumerate(self.layers):
            if gene.heads:
                latest = layer
            prunes = gene.keep_percent < 100 and not (cls_only_last and layer == len(self.layers) - 1)
            if prunes and latest is not None:
                needed[latest] = True
        return tuple(needed)
