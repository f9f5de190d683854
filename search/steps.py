"""A step of a run: built once into its own folder, recognised when it is done, refused when it was another."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsefront.spaces import InputError

RECORD = "step.json"


def run_step(folder: Path, inputs: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The result of a step, built unless its folder already holds it.

    ``build`` fills a temporary folder and returns what is worth knowing as JSON; only then does the folder appear
    under its name, so an interrupted step leaves nothing that looks finished. The record beside it says how many
    seconds the build took. A second process that wants the same step waits for the first.

    Args:
        folder: where the step's output stands.
        inputs: JSON values that the output depends on.
        build: makes the output.

    Raises:
        InputError: when the folder holds the output of other inputs, or a damaged record.
    """
    inputs = json.loads(json.dumps(inputs))
    if folder.exists():
        return _recorded(folder, inputs)
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(parents=True, exist_ok=True)
    with _held(partial):
        if folder.exists():  # another process has built it meanwhile
            shutil.rmtree(partial, ignore_errors=True)
            return _recorded(folder, inputs)
        for left in partial.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        started = time.perf_counter()
        result = build(partial)
        seconds = time.perf_counter() - started
        write_json(partial / RECORD, {"inputs": inputs, "result": result, "seconds": seconds})
        os.replace(partial, folder)
    return result


def step_seconds(folder: Path) -> float:
    """How long a step took when it was built, whichever call that was."""
    return float(read_record(folder).get("seconds", 0.0))


def difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    """The first value in which two nested dictionaries differ, as ``was made with a.b=1, asked 2``; None if equal."""
    before, after = _flat(old), _flat(new)
    for key in sorted({*before, *after}):
        if key not in before or key not in after or before[key] != after[key]:
            return f"was made with {key}={_short(before.get(key))}, asked {_short(after.get(key))}"
    return None


def _recorded(folder: Path, inputs: dict[str, Any]) -> dict[str, Any]:
    record = read_record(folder)
    changed = difference(record["inputs"], inputs)
    if changed is not None:
        raise InputError(f"{folder}: {changed}; choose another --out")
    result: dict[str, Any] = record["result"]
    return result


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _short(value: Any, limit: int = 60) -> str:
    """JSON of a value for one line: of fingerprints, paths and lists that are long, both ends are shown."""
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else f"{text[: limit // 4]}...{text[-limit // 2 :]}"


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One process at a time; the lock is on the folder itself, so nothing is left behind."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def read_record(folder: Path) -> dict[str, Any]:
    """A step's record; ``InputError`` when it is missing or damaged."""
    record: Any = read_json(folder / RECORD)
    if not isinstance(record, dict) or not all(isinstance(record.get(name), dict) for name in ("inputs", "result")):
        raise InputError(f"{folder / RECORD}: expected the record of a finished step with its inputs and result")
    return record


def read_json(path: Path) -> Any:
    """Parsed JSON; ``InputError`` names the file when it is missing, truncated or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: damaged or not JSON: {error}") from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=2, allow_nan=False)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)
