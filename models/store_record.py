"""StoreRecord: whose vectors a behaviour store holds, as the file beside them says."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sparsefront.models.writer_lock import NAME as LOCK
from sparsefront.spaces import InputError

RECORD: Final = "store.json"
FORMAT: Final = "sparsefront behaviour store"
VERSION: Final = 1
DTYPE: Final = "float16"
_SHOWN: Final = 12


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """``encoder``: fingerprint of the encoder; ``width``: numbers per vector."""

    encoder: str
    width: int

    def __post_init__(self) -> None:
        if not self.encoder or self.width < 1:
            raise ValueError(f"a store needs an encoder and a width of at least 1, got {self.encoder!r}, {self.width}")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a folder; ``InputError`` where it is no store, or one of another version."""
        path = folder / RECORD
        try:
            values: Any = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{folder}: not a behaviour store: {RECORD} is missing") from None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: damaged or not JSON: {error}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{path}: not the record of a behaviour store; expected format {FORMAT!r}")
        if values.get("version") != VERSION:
            raise InputError(f"{path}: version {values.get('version')!r} of the format; expected {VERSION}")
        encoder, width = values.get("encoder"), values.get("width")
        if not isinstance(encoder, str) or type(width) is not int or values.get("dtype") != DTYPE:
            raise InputError(f"{path}: damaged; expected an encoder, a width and dtype {DTYPE}")
        try:
            return cls(encoder=encoder, width=width)
        except ValueError as error:
            raise InputError(f"{path}: damaged: {error}") from None

    def write(self, folder: Path) -> None:
        """Durably, and whole or not at all."""
        values = {"format": FORMAT, "version": VERSION, "encoder": self.encoder, "width": self.width, "dtype": DTYPE}
        temporary = folder / f".{RECORD}"
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(values, stream, indent=2)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, folder / RECORD)
        sync_folder(folder)

    def check(self, folder: Path, *, encoder: str | None, width: int | None) -> None:
        """``InputError`` where the store is another's; what is ``None`` may be anything."""
        if encoder is not None and encoder != self.encoder:
            raise InputError(
                f"{folder}: holds vectors of encoder {self.encoder[:_SHOWN]}; expected encoder {encoder[:_SHOWN]} "
                "(other weights, layers, pooling, tokens or tokenizer: choose another store)"
            )
        if width is not None and width != self.width:
            raise InputError(f"{folder}: holds vectors of width {self.width}; expected width {width}")


def check_place(folder: Path) -> None:
    """``InputError`` where a store can neither be nor be made: at a file, or in a folder of other things."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected the folder of a behaviour store")
    if (folder / RECORD).exists():
        return
    others = sorted(child.name for child in folder.iterdir() if child.name not in (LOCK, f".{RECORD}"))
    if others:
        raise InputError(f"{folder}: not a behaviour store ({RECORD} is missing, {others[0]} is there)")


def sync_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
