"""Compaction of a behaviour store, and the lock that keeps two calls from writing in one folder."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.models.test_behaviour_store import check_whole, made, named, vectors_of, writer

from sparsefront.models import behaviour_store
from sparsefront.models.behaviour_store import BehaviourStore
from sparsefront.models.writer_lock import NAME as LOCK
from sparsefront.models.writer_lock import WriterLock
from sparsefront.spaces import InputError


def test_compaction_keeps_what_is_asked_for(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(100))
    kept = [*named(10, start=50), "never seen", *named(10, start=55)]
    with BehaviourStore.open(path) as store:
        leftover = tmp_path / ".smaller.partial"
        made(leftover, ["of a compaction that was killed"])
        assert store.compact(iter(kept), tmp_path / "smaller") == 15
        assert not leftover.exists()
        with pytest.raises(InputError, match="smaller: exists already"):
            store.compact(kept, tmp_path / "smaller")
    check_whole(tmp_path / "smaller", named(15, start=50))
    with writer(tmp_path / "smaller") as smaller:
        assert len(smaller) == 15 and smaller.put(["new"], vectors_of(["new"])) == 1


def test_a_compaction_that_fails_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "store", named(100))
    pwrite, left = os.pwrite, 0

    def full(handle: int, data: Any, offset: int) -> int:
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(handle, data, offset)

    def stopped() -> Iterator[str]:
        yield from named(behaviour_store._CHUNK)
        raise KeyboardInterrupt

    with BehaviourStore.open(path) as store:
        for written in (1, 2):  # the new store's lock does not fit; its vectors do not fit
            left = written
            with monkeypatch.context() as patch:
                patch.setattr(os, "pwrite", full)
                with pytest.raises(InputError, match="no room left on the disk"):
                    store.compact(named(10), tmp_path / "smaller")
            assert [child.name for child in tmp_path.iterdir()] == ["store"]
        with pytest.raises(KeyboardInterrupt):
            store.compact(stopped(), tmp_path / "smaller")
        assert [child.name for child in tmp_path.iterdir()] == ["store"]
        assert store.compact(named(10), tmp_path / "smaller") == 10
    check_whole(tmp_path / "smaller", named(10))


def test_of_two_compactions_to_one_name_the_first_is_left_alone(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(100))
    with BehaviourStore.open(path) as store:

        def texts() -> Iterator[str]:
            yield from named(5)
            with pytest.raises(InputError, match=rf"process {os.getpid()} is writing to it; expected one writer"):
                store.compact(named(50), tmp_path / "smaller")
            yield from named(5, start=5)

        assert store.compact(texts(), tmp_path / "smaller") == 10
    check_whole(tmp_path / "smaller", named(10))
    assert sorted(child.name for child in tmp_path.iterdir()) == ["smaller", "store"]


def test_a_folder_that_is_removed_while_its_lock_is_taken_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="none: was removed just now"):
        WriterLock.take(tmp_path / "none")
    flock = fcntl.flock

    def late(handle: int, operation: int) -> None:
        (tmp_path / LOCK).unlink()
        flock(handle, operation)

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", late)
        with pytest.raises(InputError, match="was removed just now"):
            WriterLock.take(tmp_path)
    WriterLock.take(tmp_path).release()
