"""Versions of what shaped a result."""

from __future__ import annotations

import platform
from importlib.metadata import version

from sparsefront import __version__

_PACKAGES = ("torch", "transformers", "onnxruntime", "optuna", "ray", "numpy")


def versions() -> dict[str, str]:
    """Package name -> version, this project and Python included."""
    found = {name: version(name) for name in _PACKAGES}
    return {"sparsefront": __version__, "python": platform.python_version(), **found}
