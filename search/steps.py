"""A step of a run: built once into its own folder, recognised when it is done, refused when it was another."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparsefront.spaces import InputError

RECORD = "step.json"


def run_step(folder: Path, inputs: dict[str, Any], build: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """The result of a step, built unless its folder already holds it.

    ``build`` fills a temporary folder and returns what is worth knowing as JSON; only then does the folder appear
    under its name, so an interrupted step leaves nothing that looks finished.

    Args:
        folder: where the step's output stands.
        inputs: JSON values that the output depends on.
        build: makes the output.

    Raises:
        InputError: when the folder holds the output of other inputs, or a damaged record.
    """
    inputs = json.loads(json.dumps(inputs))
    if folder.exists():
        record = read_record(folder)
        changed = sorted(k for k in {*inputs, *record["inputs"]} if inputs.get(k) != record["inputs"].get(k))
        if changed:
            key = changed[0]
            raise InputError(
                f"{folder}: was made with {key}={json.dumps(record['inputs'].get(key))}, "
                f"asked {json.dumps(inputs.get(key))}; choose another --out"
            )
        result: dict[str, Any] = record["result"]
        return result
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    result = build(partial)
    write_json(partial / RECORD, {"inputs": inputs, "result": result})
    os.replace(partial, folder)
    return result


def read_record(folder: Path) -> dict[str, Any]:
    """A step's record; ``InputError`` when it is missing or damaged."""
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not {"inputs", "result"} <= set(record):
        raise InputError(f"{folder / RECORD}: expected the record of a finished step, got {type(record).__name__}")
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
