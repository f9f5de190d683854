"""Loading checkpoints: safetensors only, and never a weight that is drawn at random because the file lacks it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError
from transformers import PreTrainedModel

from sparsefront.spaces import InputError


class StrictlyLoaded(PreTrainedModel):  # type: ignore[misc]
    """A model whose checkpoints are loaded whole or refused."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *args: Any, **kwargs: Any) -> Self:
        """Load a checkpoint; safetensors only, and every tensor must be there in the shape the config states.

        Raises:
            InputError: for missing, unexpected or mismatched tensors (Hugging Face would fill those at random), a
                damaged file or a configuration that makes no model.
        """
        kwargs.update(use_safetensors=True, ignore_mismatched_sizes=False, output_loading_info=True)
        kwargs.pop("trust_remote_code", None)
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (RuntimeError, OSError, ValueError, TypeError, SafetensorError) as error:
            line = " ".join(str(error).split())
            raise InputError(f"{pretrained_model_name_or_path}: cannot load a {cls.__name__}: {line}") from error
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if info.get(kind):
                names = ", ".join(sorted(str(key) for key in info[kind])[:3])
                raise InputError(f"{pretrained_model_name_or_path}: {kind.replace('_', ' ')}: {names}")
        loaded: Self = model
        return loaded
