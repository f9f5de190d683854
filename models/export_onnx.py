"""A slim model's weights -> the ONNX file that is served."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

import onnx

from sparsefront.models.onnx_graph import Precision, build_graph
from sparsefront.models.parameters import Arrays
from sparsefront.spaces import InputError

if TYPE_CHECKING:
    from sparsefront.models.config import CrossEncoderConfig
    from sparsefront.models.cross_encoder import CrossEncoder


def export_onnx(
    model: CrossEncoder,
    path: str | Path,
    *,
    precision: Precision = "fp32",
    static_shape: tuple[int, int] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the model's own genome as one checked ONNX file; a crash leaves the old file or none.

    Raises:
        InputError: if the file exists and ``overwrite`` is not set, or its folder does not exist.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists; it is replaced only with --overwrite")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is not a folder, so {path.name} cannot be written there")
    config = cast("CrossEncoderConfig", model.config)
    write_graph(build_graph(config, arrays_of(model), precision=precision, static_shape=static_shape), path)


def arrays_of(model: CrossEncoder) -> Arrays:
    """The model's tensors by name, in fp32."""
    return {name: value.detach().float().cpu().numpy() for name, value in model.state_dict().items()}


def write_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Checks a graph and writes it; a crash leaves the old file or none."""
    onnx.checker.check_model(graph, full_check=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(graph.SerializeToString())
            file.flush()
            os.fsync(file.fileno())
        os.chmod(partial, 0o644)  # mkstemp's 0600 would hide the file from the account that serves it
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
