"""Checkpoint: where a training stands, in one file, so that it can go on as if it had never been stopped.

The file is safetensors: the tensors, and JSON in its header for all else. It is written under another name and then
renamed, so that there is a whole one or none. Nothing in it is executed when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sparsefront.models.cross_encoder import CrossEncoder
from sparsefront.models.rows import TokenRows
from sparsefront.spaces import InputError, RunFailed

HEADER, CHECKSUM = "checkpoint", "crc32"
MOMENTS: Final = ("step", "exp_avg", "exp_avg_sq")
LOSSES, TORCH_RNG, CUDA_RNG = "losses", "rng.torch", "rng.cuda"

QUARTERS: Final = (0.25, 0.5, 0.75, 1.0)
Identity = Mapping[str, Any]
"""What a training is, as flat JSON values: a checkpoint of another one is refused."""


@dataclass(frozen=True)
class Checkpoints:
    """Where and when a training is kept, and who is asked whether it goes on.

    Attributes:
        path: of the latest checkpoint; a training that finds one there goes on from it.
        shares: of the training, rising, after which one is written.
        reached: told each of them once its checkpoint stands, and again the last one when a training goes on from
            there; what is not ``True`` ends the training.
    """

    path: Path
    shares: tuple[float, ...] = QUARTERS
    reached: Callable[[float], bool] = lambda share: True

    def __post_init__(self) -> None:
        if (
            not self.shares
            or list(self.shares) != sorted(set(self.shares))
            or not 0 < self.shares[0] <= self.shares[-1] <= 1
        ):
            raise ValueError(f"shares must rise and be in (0, 1], got {self.shares}")

    def of_part(self, name: str) -> Checkpoints:
        """Those of a part of the training, in a file beside."""
        return replace(self, path=self.path.with_name(f"{self.path.stem}.{name}{self.path.suffix}"))


@dataclass(frozen=True)
class Position:
    """How far a training is.

    Attributes:
        share: of the training, in [0, 1].
        epoch: pass over the rows that is under way.
        batch: batches of it that are done.
        tokens: seen so far.
    """

    share: float = 0.0
    epoch: int = 0
    batch: int = 0
    tokens: int = 0


def identity_of(model: CrossEncoder, rows: TokenRows, target: Tensor, options: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a training that is about to begin.

    Args:
        model: as it is before the first step.
        rows: training rows.
        target: ``(rows,)`` or ``(rows, classes)`` what is learnt of them, the teacher's share included.
        options: how to train, as JSON values.
    """
    return {
        **{f"options.{name}": value for name, value in options.items()},
        "genome": model.genome.key(),
        "model": _digest({name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}),
        "rows": _digest({**rows.to_arrays(), "learnt": target.numpy()}),
    }


def save(
    path: Path,
    identity: Identity,
    position: Position,
    *,
    model: CrossEncoder,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
    losses: list[float],
) -> None:
    """Write a checkpoint; one that is there is replaced, in one go.

    Of the model only what is trained is kept: the rest is as it was, and what it was the identity says.

    Raises:
        RunFailed: there is no room, or no permission.
    """
    tensors = {f"model.{name}": value.detach().cpu() for name, value in _trained(model).items()}
    for name, parameter in _trained(model).items():
        state = optimizer.state.get(parameter, {})  # empty for a parameter that never had a gradient
        tensors |= {f"{moment}.{name}": state[moment].detach().cpu() for moment in MOMENTS if moment in state}
    tensors[LOSSES] = torch.tensor(losses, dtype=torch.float64)
    tensors[TORCH_RNG] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors[CUDA_RNG] = torch.cuda.get_rng_state()
    header = json.dumps({"identity": dict(identity), "position": vars(position), "numpy_rng": rng.bit_generator.state})
    metadata = {HEADER: header, CHECKSUM: _checksum(header, tensors)}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise RunFailed(f"{path}: the checkpoint cannot be written: {error}") from error


def restore(
    path: Path,
    identity: Identity,
    *,
    model: CrossEncoder,
    optimizer: torch.optim.Optimizer,
    rng: np.random.Generator,
) -> tuple[Position, list[float]]:
    """Put model, optimiser and generators where the checkpoint has them; its position and the losses so far.

    Raises:
        InputError: it is damaged, or of another training. Nothing has been changed then.
    """
    header, tensors = _read(path)
    was = header["identity"]
    for name in [*identity, *was]:
        if identity.get(name) != was.get(name):
            raise InputError(
                f"{path}: a checkpoint of another training: {name} was {was.get(name)!r}, asked "
                f"{identity.get(name)!r}; remove it to train anew"
            )
    trained = _trained(model)
    wanted = {f"model.{name}": value.shape for name, value in trained.items()}
    found = {name: value.shape for name, value in tensors.items() if name.startswith("model.")}
    if found != wanted:
        odd = sorted({name for name in [*found, *wanted] if found.get(name) != wanted.get(name)})[0]
        raise _damaged(path, f"tensor {odd!r} does not fit the model")
    try:
        position = Position(**header["position"])
        losses: list[float] = tensors[LOSSES].tolist()
        torch_rng = tensors[TORCH_RNG]
        rng.bit_generator.state = header["numpy_rng"]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from error
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[f"model.{name}"])
            moments = {one: tensors[f"{one}.{name}"] for one in MOMENTS if f"{one}.{name}" in tensors}
            if moments:
                optimizer.state[parameter] = {one: value.to(parameter.device) for one, value in moments.items()}
    torch.set_rng_state(torch_rng)
    if CUDA_RNG in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors[CUDA_RNG])
    return position, losses


def done_share(path: Path) -> float:
    """Share of the training that a checkpoint has behind it; 0 when there is none.

    Raises:
        InputError: it is damaged.
    """
    return Position(**_read(path)[0]["position"]).share if path.exists() else 0.0


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a whole file."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            header = json.loads(metadata[HEADER])
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error
    if not isinstance(header, dict) or not all(isinstance(header.get(one), dict) for one in ("identity", "position")):
        raise _damaged(path, "its header says neither of which training it is nor where that stands")
    if metadata.get(CHECKSUM) != _checksum(metadata[HEADER], tensors):
        raise _damaged(path, "its checksum is wrong")
    return header, tensors


def _damaged(path: Path, why: object) -> InputError:
    return InputError(f"{path}: a damaged checkpoint: {' '.join(str(why).split())}; remove it to train anew")


def _trained(model: CrossEncoder) -> dict[str, torch.nn.Parameter]:
    """The parameters that a training changes, by name."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad and value.numel()}


def _digest(arrays: Mapping[str, Any]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        found.update(np.ascontiguousarray(arrays[name]).data)
    return found.hexdigest()[:16]


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Of all that is in the file: safetensors itself notices what is cut off, but not what was changed."""
    found = zlib.crc32(header.encode())
    for name in sorted(tensors):
        found = zlib.crc32(name.encode(), found)
        found = zlib.crc32(np.ascontiguousarray(tensors[name].numpy()).data, found)
    return f"{found:08x}"
