"""torch in eager mode."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from sparsefront.latency.runtime import Feeds, Logits, Runtime, Session, Takes
from sparsefront.models.parameters import random_arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig


class TorchRuntime(Runtime):
    """torch in eager mode: the reference that nobody should serve. Its thread count is one per process."""

    name = "torch"
    package = "torch"
    precisions: ClassVar = {"fp32": (), "bf16": ("avx512_bf16", "amx_bf16", "bf16")}

    def load(self, config: CrossEncoderConfig, arrays: Mapping[str, npt.NDArray[Any]] | None = None) -> Session:
        import torch

        from sparsefront.models.ranker import ranker_of

        model = ranker_of(config)
        values = random_arrays(config) if arrays is None else arrays
        model.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in values.items()})
        return _TorchSession(model, self.threads, self.precision)

    def load_export(self, directory: str | Path) -> Session:
        from sparsefront.models.ranker import load_ranker

        if not (Path(directory) / "config.json").is_file():
            raise InputError(
                f"{directory} holds no config.json; expected an export folder with a Hugging Face checkpoint"
            )
        return _TorchSession(load_ranker(directory), self.threads, self.precision)


class _TorchSession:
    def __init__(self, model: Any, threads: int, precision: str) -> None:
        import torch

        self._model = model.eval()
        if precision == "bf16":  # the ranking head stays fp32: bf16 logits tie
            self._model.encoder.to(torch.bfloat16)
        self._threads = threads
        self.takes = Takes.of(model.config)

    def run(self, feeds: Feeds) -> Logits:
        import torch

        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            logits = self._model(**{name: torch.from_numpy(values) for name, values in feeds.items()}).logits
            values: Logits = (logits[:, 0] if self._model.config.outputs == 1 else logits).float().numpy()
        return values
