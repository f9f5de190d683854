"""Fixtures of the model tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.models.tiny import write_checkpoint
from transformers.utils import logging as transformers_logging


@pytest.fixture(autouse=True, scope="session")
def quiet_loading() -> Iterator[None]:
    """No progress bars and load reports between the dots."""
    logging: Any = transformers_logging
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder with a tiny BERT checkpoint and its tokenizer; the test may damage it."""
    folder = tmp_path / "bert"
    write_checkpoint(folder)
    return folder
