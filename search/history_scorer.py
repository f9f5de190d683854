"""HistoryScorer: an export of a model of histories, called with texts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sparsefront.latency.machine import MachineFingerprint
from sparsefront.latency.runtime import Session
from sparsefront.latency.runtimes import runtime_of
from sparsefront.models.behaviour_encoder import BehaviourEncoder
from sparsefront.models.behaviour_store import BehaviourStore, Halves
from sparsefront.models.encoder_folder import load_encoder
from sparsefront.models.features import FeatureRows
from sparsefront.models.histories import Behaviours, Histories
from sparsefront.models.history_texts import is_blank
from sparsefront.models.ragged import offsets_of
from sparsefront.models.ranker import load_ranker
from sparsefront.models.rows import VECTORS, TokenRows
from sparsefront.models.text_keys import DiskFull
from sparsefront.search.export import SparseConfig, serve_rows
from sparsefront.search.rows import ENCODER, STORE
from sparsefront.spaces import InputError


class HistoryScorer:
    """Texts of histories and items in, logits out; made with :meth:`open`.

    A text that the store lacks is encoded on the spot, and kept where the store was opened to write. On a full disk it
    is scored all the same and encoded again the next time; a server should look at ``texts_unsaved``. A user without
    behaviours and an item that nobody has seen are scored like any other; of a history that is too long the newest
    behaviours count. Behaviours in which nothing stands are left out, as a task leaves them out.

    Attributes:
        histories: of a row.
        most: behaviours of a history that are read.
        texts_encoded: how many texts the store has lacked so far.
        texts_unsaved: how many of them were to be kept and were not, as the disk was full.
        behaviours_cut: how many behaviours were too old to be read.
    """

    def __init__(
        self, session: Session, encoder: BehaviourEncoder, store: BehaviourStore | None, *, histories: int, most: int
    ) -> None:
        self._session, self._encoder, self._store = session, encoder, store
        self.histories, self.most = histories, most
        self.texts_encoded = self.texts_unsaved = self.behaviours_cut = 0

    @classmethod
    def open(cls, folder: Path, *, store: Path | None = None, write: bool = False) -> Self:
        """An export, in the runtime that it was measured in.

        Args:
            folder: the export.
            store: of its behaviours; the export's own by default, or none where it has none.
            write: keep vectors of new texts; a store has one writer at a time.

        Raises:
            InputError: no export of a model of histories, a damaged one, or a store of another encoder.
        """
        config = SparseConfig.read(folder)
        model = load_ranker(folder).config
        if not model.histories:
            raise InputError(f"{folder}: is no export of a model of histories; its text is scored by its graph alone")
        encoder = load_encoder(folder / ENCODER)
        if encoder.fingerprint != model.encoder_fingerprint:
            raise InputError(
                f"{folder / ENCODER}: is encoder {encoder.fingerprint[:12]}, the model reads vectors of "
                f"{model.encoder_fingerprint[:12]}"
            )
        session = runtime_of(MachineFingerprint.from_json(config.fingerprint)).load_export(folder)
        path, opened = store or folder / STORE, None  # the last that may fail: nobody would close it
        if store is not None or write or BehaviourStore.is_made(path):
            opened = BehaviourStore.open(
                path, encoder_fingerprint=encoder.fingerprint, width=encoder.width, write=write
            )
        return cls(session, encoder, opened, histories=model.histories, most=model.max_position_embeddings - 1)

    def vectors(self, texts: Sequence[str]) -> Halves:
        """``(texts, width)``."""
        if self._store is None:
            return self._encoded(list(texts))
        new: list[tuple[list[str], Halves]] = []

        def encode(missing: list[str]) -> Halves:
            new.append((missing, self._encoded(missing)))
            return new[-1][1]

        found = self._store.get(texts, encode, keep=False)
        for missing, encoded in new if self._store.writable else ():
            try:
                self._store.put(missing, encoded)
            except DiskFull:
                self.texts_unsaved += len(missing)
        return found

    def score(
        self,
        histories: Sequence[Sequence[Sequence[str]]],
        items: Sequence[str],
        *,
        features: FeatureRows | None = None,
    ) -> NDArray[np.float32]:
        """``(rows,)`` logits, or ``(rows, outputs)`` of a model of several.

        Args:
            histories: per row, per history, its texts, the newest first.
            items: per row.
            features: per row, where the model knows some.

        Raises:
            ValueError: not as many rows of one as of the other, or another number of histories than the model reads.
        """
        if len(histories) != len(items):
            raise ValueError(f"{len(items)} items need as many rows of histories, got {len(histories)}")
        for row, own in enumerate(histories):
            if len(own) != self.histories:
                raise ValueError(f"row {row}: the model reads {self.histories} histories, got {len(own)}")
        found = Histories.of(list(items), [self._read(histories, number) for number in range(self.histories)])
        count = len(items)
        labels = {"target": np.zeros(count, np.float32), "positive": np.zeros(count, np.bool_)}
        known = {} if features is None else {"numeric": features.numeric, "categorical": features.categorical}
        arrays = {**found.arrays_of(np.arange(count)), **labels, **known, VECTORS: self.vectors(found.texts)}
        return serve_rows(self._session, TokenRows.from_arrays(arrays))

    def close(self) -> None:
        """Give the store back."""
        if self._store is not None:
            self._store.close()

    def _read(self, histories: Sequence[Sequence[Sequence[str]]], number: int) -> Behaviours:
        """One history of all rows, without blank texts, cut; what is no text is refused where it is looked up."""
        told = [[text for text in own[number] if not isinstance(text, str) or not is_blank(text)] for own in histories]
        kept = [texts[: self.most] for texts in told]
        self.behaviours_cut += sum(map(len, told)) - sum(map(len, kept))
        place: dict[str, int] = {}
        numbers = [place.setdefault(text, len(place)) for texts in kept for text in texts]
        return Behaviours(
            texts=list(place),
            numbers=np.array(numbers, np.int32),
            offsets=offsets_of(np.array([len(texts) for texts in kept], np.int64)),
            counts={},
        )

    def _encoded(self, texts: list[str]) -> Halves:
        self.texts_encoded += len(texts)
        return self._encoder.encode(texts)
