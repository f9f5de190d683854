"""Serving a Bert4Ctr by its two sides: a text once, then every row of features that meets it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Logits
from sparsefront.latency.runtime_onnxruntime import onnx_session
from sparsefront.models.bert4ctr_graph import TextSideGraph, feature_side
from sparsefront.models.branch_graph import CATEGORICAL, NUMERIC
from sparsefront.models.export_onnx import arrays_of, write_graph
from sparsefront.models.onnx_graph import INPUTS, OUTPUT
from sparsefront.models.parameters import checked_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.bert4ctr import Bert4Ctr
    from sparsefront.models.bert4ctr_config import Bert4CtrConfig

TEXT_SIDE, FEATURE_SIDE = "text.onnx", "features.onnx"
Said = dict[str, npt.NDArray[Any]]
"""What the text's side hands over: it may be kept as long as the text and the model are the same."""


def export_sides(model: Bert4Ctr, folder: Path) -> None:
    """Write both graphs, in fp32, beside the whole one.

    Raises:
        InputError: if one of them is there already.
    """
    config = cast("Bert4CtrConfig", model.config)
    arrays = checked_arrays(config, arrays_of(model))
    for name in (TEXT_SIDE, FEATURE_SIDE):
        if (folder / name).exists():
            raise InputError(f"{folder / name} exists; choose another folder")
    write_graph(TextSideGraph(config, arrays, "fp32").build(), folder / TEXT_SIDE)
    write_graph(feature_side(config, arrays), folder / FEATURE_SIDE)


class TwoSides:
    """An export's two graphs in ONNX Runtime.

    Raises:
        InputError: one of them is not there, is no graph, or is not a side of the model that the other is of.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        self._paths = Path(folder) / TEXT_SIDE, Path(folder) / FEATURE_SIDE
        for path in self._paths:
            if not path.is_file():
                raise InputError(f"{folder} has no {path.name}; expected the two sides of a model with features")
        self._text, self._features = (onnx_session(str(path), threads) for path in self._paths)
        self._said = [one.name for one in self._text.get_outputs()]
        self._asked = [one.name for one in self._features.get_inputs()]
        self._check()

    def _check(self) -> None:
        """Whether the text's side says what the features' side asks, and in that shape."""
        text, features = self._paths
        taken = sorted(one.name for one in self._text.get_inputs())
        if taken != sorted(INPUTS):
            raise InputError(
                f"{text}: is not the text's side: it takes {', '.join(taken)}, expected {', '.join(INPUTS)}"
            )
        made = [one.name for one in self._features.get_outputs()]
        if made != [OUTPUT]:
            raise InputError(f"{features}: is not the features' side: it gives {', '.join(made)}, expected {OUTPUT}")
        said = {one.name: _sizes(one) for one in self._text.get_outputs()}
        asked = {one.name: _sizes(one) for one in self._features.get_inputs() if one.name not in (NUMERIC, CATEGORICAL)}
        for name in sorted(said.keys() | asked.keys()):
            if said.get(name) != asked.get(name):
                raise InputError(
                    f"{features}: takes {name} as {asked.get(name)}, {text.name} gives {said.get(name)}; "
                    "expected two sides of one model"
                )

    def run(self, feeds: Feeds) -> Logits:
        """Logits of pairs and their features, as the whole graph gives them."""
        return self.score(self.read(feeds), feeds)

    def read(self, feeds: Feeds) -> Said:
        """What texts say: ``input_ids``, ``attention_mask`` and ``token_type_ids``, each (texts, tokens)."""
        found = _run(self._text, self._paths[0], self._said, {name: feeds[name] for name in INPUTS})
        return dict(zip(self._said, found, strict=True))

    @staticmethod
    def together(kept: Sequence[Said]) -> Said:
        """What texts say that were read apart, however long each is, as if they had been read in one call.

        Words that a text does not have are zeros of which ``real_N`` says that they are none.

        Raises:
            ValueError: there is none, or they are of different models.
        """
        if not kept:
            raise ValueError("kept must be of at least one text, got none")
        if len(kept) == 1:
            return kept[0]
        if any(set(one) != set(kept[0]) for one in kept):
            raise ValueError(f"kept must be of one model, got {sorted({', '.join(sorted(one)) for one in kept})}")
        return {name: _padded([one[name] for one in kept]) for name in kept[0]}

    def score(self, said: Said, features: Feeds) -> Logits:
        """Logits (rows,) or (rows, outputs) of ``numeric`` and ``categorical`` rows.

        There are as many rows as texts, or the rows of every text stand together, equally many of each.
        """
        own = {name: features[name] for name in (NUMERIC, CATEGORICAL) if name in self._asked and name in features}
        logits: Logits = _run(self._features, self._paths[1], [OUTPUT], {**said, **own})[0]
        return logits


def _sizes(node: Any) -> str:
    """Type of an input or output, and its sizes that do not depend on what is asked."""
    return f"{node.type} {[size for size in node.shape if isinstance(size, int)]}"


def _run(session: Any, path: Path, wanted: Sequence[str], feeds: Feeds) -> list[npt.NDArray[Any]]:
    """A call; ``InputError`` with one line for what the graph cannot be called with."""
    try:
        found: list[npt.NDArray[Any]] = session.run(wanted, feeds)
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime cannot run it: {' '.join(str(error).split())}") from error
    return found


def _padded(parts: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """(texts of all parts, the most words of any, ...) of arrays (texts, words, ...), zero where there is no word."""
    first = parts[0]
    if any(part.shape[2:] != first.shape[2:] for part in parts):
        raise ValueError(f"kept must be of one model, got widths {sorted({part.shape[2:] for part in parts})}")
    shape = sum(map(len, parts)), max(part.shape[1] for part in parts), *first.shape[2:]
    found, row = np.zeros(shape, first.dtype), 0
    for part in parts:
        found[row : row + len(part), : part.shape[1]] = part
        row += len(part)
    return found
