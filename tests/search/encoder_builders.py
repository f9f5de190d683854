"""Encoders that Ray actors build in tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsefront.models.behaviour_encoder import BehaviourEncoder, EncoderParts, Encodings


def build_encoder_killed_once(flag: Path) -> Callable[[EncoderParts], BehaviourEncoder]:
    """Encoders of which the first, at its second table of texts, ends its process."""

    def build(parts: EncoderParts) -> BehaviourEncoder:
        encoder = parts.build()
        encodings, calls = encoder.encodings, [0]

        def encode(texts: Sequence[str]) -> Encodings:
            calls[0] += 1
            if calls[0] == 2 and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return encodings(texts)

        encoder.encodings = encode  # type: ignore[method-assign,assignment]
        return encoder

    return build


def build_encoder_failing(parts: EncoderParts) -> BehaviourEncoder:
    """An encoder that fails at every text."""
    encoder = parts.build()

    def fail(texts: Sequence[str]) -> Encodings:
        raise ValueError("no such word")

    encoder.encodings = fail  # type: ignore[method-assign,assignment]
    return encoder
