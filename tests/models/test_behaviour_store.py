"""The behaviour store: what is committed stays, once, whatever ends a writer; and every way in which it is refused."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsefront.models import text_keys
from sparsefront.models.behaviour_store import VECTORS, BehaviourStore
from sparsefront.models.store_record import RECORD
from sparsefront.models.text_keys import DATA, TextKeys, key_of
from sparsefront.models.writer_lock import NAME as LOCK
from sparsefront.spaces import InputError

WIDTH = 8
ENCODER = "ab" * 32
OTHER = "cd" * 32


def vector_of(text: str) -> NDArray[np.float16]:
    """What a text's vector is, so that a mix-up would be seen."""
    return np.frombuffer(key_of(text)[:WIDTH], np.uint8).astype(np.float16)


def vectors_of(texts: list[str]) -> NDArray[np.float16]:
    return np.stack([vector_of(text) for text in texts]) if texts else np.zeros((0, WIDTH), np.float16)


def named(count: int, *, start: int = 0) -> list[str]:
    return [f"viewed item {number}" for number in range(start, start + count)]


def writer(path: Path) -> BehaviourStore:
    return BehaviourStore.open(path, encoder_fingerprint=ENCODER, width=WIDTH, write=True)


def made(path: Path, texts: list[str]) -> Path:
    with writer(path) as store:
        store.put(texts, vectors_of(texts))
    return path


def refused(path: Path, *, write: bool = False, fingerprint: str = ENCODER, width: int = WIDTH) -> str:
    """The one line that says why a store is not opened."""
    with pytest.raises(InputError) as refusal:
        BehaviourStore.open(path, encoder_fingerprint=fingerprint, width=width, write=write).close()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def files_of(path: Path) -> dict[str, bytes]:
    """Everything in a store but for the locks."""
    return {
        str(one.relative_to(path)): one.read_bytes()
        for one in sorted(path.rglob("*"))
        if one.is_file() and one.name not in (LOCK, "lock.mdb")
    }


def check_whole(path: Path, texts: list[str]) -> None:
    """Every text has its own vector."""
    with BehaviourStore.open(path) as store:
        rows = store.rows(texts)
        assert (rows >= 0).all()
        np.testing.assert_array_equal(store.vectors(rows), vectors_of(texts))


def test_vectors_come_back_by_text_from_another_opening(tmp_path: Path) -> None:
    texts = named(50)
    path = made(tmp_path / "deep" / "store", texts)
    check_whole(path, texts)
    with BehaviourStore.open(path, encoder_fingerprint=ENCODER, width=WIDTH) as store:
        assert len(store) == 50 and not store.writable and store.encoder_fingerprint == ENCODER
        assert store.rows(["viewed item 7", "never seen", "viewed item 7"]).tolist() == [7, -1, 7]
        np.testing.assert_array_equal(store.get(texts[::-1]), vectors_of(texts[::-1]))
        assert store.rows([]).shape == (0,) and store.vectors(np.zeros(0, np.int64)).shape == (0, WIDTH)
        with pytest.raises(ValueError, match="opened to read"):
            store.put(["new"], vectors_of(["new"]))


def test_reading_copies_nothing_or_once(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(20))
    store = BehaviourStore.open(path)
    matrix = store.matrix
    assert matrix.shape == (20, WIDTH) and not matrix.flags.writeable and not matrix.flags.owndata
    assert np.shares_memory(matrix, store.matrix), "a second look maps nothing anew"
    out = np.empty((3, WIDTH), np.float16)
    assert store.vectors(np.array([4, 2, 4]), out=out) is out
    np.testing.assert_array_equal(out, matrix[[4, 2, 4]])
    store.close()
    store.close()
    np.testing.assert_array_equal(matrix, vectors_of(named(20)))
    with BehaviourStore.open(path) as again:
        for rows in ([-1, 3], [20]):
            with pytest.raises(ValueError, match="rows must be from 0 to 19"):
                again.vectors(np.array(rows))


@settings(max_examples=20)
@given(st.lists(st.lists(st.sampled_from(["", "a", "b", "ab", "é", "x" * 10_000, *"cdefgh"]), max_size=9), max_size=5))
def test_a_text_is_there_once_whatever_the_batches(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[str]]
) -> None:
    path = tmp_path_factory.mktemp("stores") / "store"
    with writer(path) as store:
        seen: list[str] = []
        for batch in batches:
            added = store.put(batch, vectors_of(batch))
            assert added == len(set(batch) - set(seen))
            seen += batch
        distinct = list(dict.fromkeys(seen))
        assert len(store) == len(distinct) and store.rows(distinct).tolist() == list(range(len(distinct)))
    check_whole(path, distinct)
    assert (path / VECTORS).stat().st_size == len(distinct) * WIDTH * 2


def test_missing_vectors_are_encoded_once_each_and_kept(tmp_path: Path) -> None:
    path, asked = made(tmp_path / "store", ["a", "b"]), list[list[str]]()

    def encode(texts: list[str]) -> NDArray[np.float16]:
        asked.append(texts)
        return vectors_of(texts)

    wanted = ["c", "a", "", "c", "b", ""]
    with writer(path) as store:
        np.testing.assert_array_equal(store.get(wanted, encode), vectors_of(wanted))
        np.testing.assert_array_equal(store.get(wanted, encode), vectors_of(wanted))
        assert asked == [["c", ""]]
        stats = store.stats()
        assert (stats["distinct"], stats["hits"], stats["misses"]) == (4, 8, 4) and stats["hit_rate"] == 8 / 12
        on_disk = (path / VECTORS).stat().st_size + (path / "keys" / DATA).stat().st_size
        assert stats["bytes"] == on_disk and stats["bytes_per_vector"] == on_disk / 4
    with BehaviourStore.open(path) as store:
        assert store.stats()["hit_rate"] is None
        np.testing.assert_array_equal(store.get(["d", "a"], encode), vectors_of(["d", "a"]))
        assert len(store) == 4, "who reads does not write"
        with pytest.raises(InputError, match=r"store: 1 of 2 texts have no vector, the first is 'ddd.{0,70}\.\.\.'"):
            store.get(["a", "d" * 10_000])


def test_what_is_no_vector_or_no_text_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "store", ["a"])
    with writer(path) as store:
        with pytest.raises(ValueError, match=r"vectors must be \(1, 8\), got \(1, 7\)"):
            store.put(["b"], np.zeros((1, 7), np.float16))
        for wrong in (np.nan, 1e6):
            with pytest.raises(InputError, match="vector of 'c' is not finite in half precision"):
                store.put(["b", "c"], np.array([[0.0] * WIDTH, [wrong] * WIDTH]))
        with pytest.raises(ValueError, match="must be text, got NoneType"):
            store.rows(["a", None])  # type: ignore[list-item]
        assert len(store) == 1


def test_readers_see_what_another_process_commits_and_the_keys_grow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_keys, "_FIRST_BYTES", 1 << 16)
    path = made(tmp_path / "store", named(10))
    code = (
        "import sys\nfrom sparsefront.models import text_keys\ntext_keys._FIRST_BYTES = 1 << 16\n"
        "from tests.models.test_behaviour_store import *\n"
        "with writer(Path(sys.argv[1])) as store: store.put(named(20_000), vectors_of(named(20_000)))"
    )
    with BehaviourStore.open(path) as reader:
        matrix = reader.matrix
        assert len(reader) == 10
        subprocess.run([sys.executable, "-c", code, str(path)], check=True, env=os.environ)
        assert len(reader) == 20_000 and len(matrix) == 10
        rows = reader.rows(named(20_000))
        np.testing.assert_array_equal(reader.vectors(rows), vectors_of(named(20_000)))


def test_one_process_may_open_a_store_several_times(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    first = BehaviourStore.open(path)
    with writer(path) as store, BehaviourStore.open(path) as second:
        store.put(["new"], vectors_of(["new"]))
        assert first.rows(["new"]).tolist() == second.rows(["new"]).tolist() == [3]
    first.close()
    check_whole(path, [*named(3), "new"])


def test_threads_read_while_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_keys, "_FIRST_BYTES", 1 << 16)
    path, failures = made(tmp_path / "store", named(100)), list[BaseException]()

    def read() -> None:
        try:
            with BehaviourStore.open(path) as store:
                while len(store) < 5_000:
                    np.testing.assert_array_equal(store.get(named(100)), vectors_of(named(100)))
        except BaseException as error:
            failures.append(error)

    with writer(path) as store:
        threads = [threading.Thread(target=read, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        for start in range(0, 5_000, 250):
            store.put(named(250, start=start), vectors_of(named(250, start=start)))
        for thread in threads:
            thread.join(60)
    assert not failures and len(BehaviourStore.open(path)) == 5_000


def test_a_batch_that_is_committed_while_a_reader_opens_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = made(tmp_path / "store", named(3)), TextKeys.open
    with writer(path) as store:

        def late(folder: Path) -> TextKeys:
            store.put(named(9), vectors_of(named(9)))
            return opened(folder)

        monkeypatch.setattr(TextKeys, "open", late)
        check_whole(path, named(9))


def test_threads_that_write_through_one_store_keep_each_texts_own_vector(tmp_path: Path) -> None:
    path, failures, interval = tmp_path / "store", list[BaseException](), sys.getswitchinterval()
    batches = [[named(3, start=3 * (30 * thread + call)) for call in range(30)] for thread in range(4)]

    def write(store: BehaviourStore, own: list[list[str]]) -> None:
        try:
            for texts in own:
                np.testing.assert_array_equal(store.get(texts, vectors_of), vectors_of(texts))
        except BaseException as error:
            failures.append(error)

    sys.setswitchinterval(1e-5)
    try:
        with writer(path) as store:
            threads = [threading.Thread(target=write, args=(store, own), daemon=True) for own in batches]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            assert not failures and len(store) == 4 * 30 * 3
    finally:
        sys.setswitchinterval(interval)
    check_whole(path, named(4 * 30 * 3))


def test_keys_are_not_added_behind_another_number_of_rows(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    keys = TextKeys.open(path / "keys")
    for count in (2, 4):
        with pytest.raises(InputError, match=f"keys: 3 rows are committed; expected {count}$"):
            keys.add([key_of("new")], count=count)
    assert keys.rows([key_of("new")])[0].tolist() == [-1] and keys.count() == 3
    keys.close()


WRITER = """
import sys, os, signal
from pathlib import Path
from tests.models.test_behaviour_store import *
from sparsefront.models import behaviour_store
where, path = sys.argv[1], Path(sys.argv[2])
add, pwrite = TextKeys.add, os.pwrite
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
def half(handle, data, offset): pwrite(handle, data[:100], offset); die()
store = writer(path)
store.put(named(40), vectors_of(named(40)))
if where == "vectors": os.pwrite = half
if where == "keys": TextKeys.add = die
if where == "behind": TextKeys.add = lambda *a, **k: (add(*a, **k), die())
store.put(named(40, start=30), vectors_of(named(40, start=30)))
"""


@pytest.mark.parametrize("where", ["vectors", "keys", "behind"])
def test_a_killed_writer_leaves_whole_batches_and_the_next_goes_on(tmp_path: Path, where: str) -> None:
    path = tmp_path / "store"
    killed = subprocess.run([sys.executable, "-c", WRITER, where, str(path)], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    there = 70 if where == "behind" else 40
    check_whole(path, named(there))
    leftover = (path / VECTORS).stat().st_size - there * WIDTH * 2
    assert leftover == {"vectors": 100, "keys": 30 * WIDTH * 2, "behind": 0}[where]
    with BehaviourStore.open(path) as store:
        assert len(store) == len(store.matrix) == there
        assert (path / VECTORS).stat().st_size == there * WIDTH * 2 + leftover, "a reader changes nothing"
    with writer(path) as store:
        assert (path / VECTORS).stat().st_size == there * WIDTH * 2
        assert store.put(named(70), vectors_of(named(70))) == 70 - there
    check_whole(path, named(70))


def test_a_killed_creation_is_begun_again(tmp_path: Path) -> None:
    path = made(tmp_path / "store", [])
    (path / "keys").rename(path / ".keys")
    assert "no such file; expected the keys of a behaviour store" in refused(path)
    check_whole(made(path, named(3)), named(3))


def test_a_second_writer_is_told_the_first_ones_process(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    code = (
        "import sys; from tests.models.test_behaviour_store import *\n"
        "store = writer(Path(sys.argv[1])); print('open', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ
    )
    assert first.stdout is not None and first.stdout.readline() == b"open\n"
    assert refused(path, write=True) == f"{path}: process {first.pid} is writing to it; expected one writer at a time"
    check_whole(path, named(3))
    first.kill()
    first.communicate()
    with writer(path):
        assert f"process {os.getpid()} is writing" in refused(path, write=True)
    writer(path).close()


@pytest.mark.parametrize("full", ["vectors", "keys"])
def test_a_full_disk_keeps_what_is_committed_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    path = made(tmp_path / "store", named(40))
    texts = named(500)
    with writer(path) as store:
        with monkeypatch.context() as patch:
            if full == "vectors":
                pwrite = os.pwrite

                def written(handle: int, data: Any, offset: int) -> int:
                    if offset > 1000:
                        raise OSError(errno.ENOSPC, "No space left on device")
                    return pwrite(handle, data[:200], offset)

                patch.setattr(os, "pwrite", written)
            else:

                def not_added(*_: object, **__: object) -> None:
                    raise text_keys.DiskFull("mdb_txn_commit: No space left on device")

                patch.setattr(TextKeys, "add", not_added)
            with pytest.raises(InputError, match=r"store: no room left on the disk .*No space left.*goes on with room"):
                store.put(texts, vectors_of(texts))
        assert len(store) == 40 and (path / VECTORS).stat().st_size == 40 * WIDTH * 2
        assert store.put(texts, vectors_of(texts)) == 460
    check_whole(path, texts)


LIMITED = """
import sys, resource
from tests.models.test_behaviour_store import *
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
with writer(path) as store:
    try:
        for start in range(0, 40_000, 1000):
            store.put(named(1000, start=start), vectors_of(named(1000, start=start)))
    except InputError as error:
        assert "no room left" in str(error), error
        print(len(store))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert store.put(["goes on"], vectors_of(["goes on"])) == 1
"""


@pytest.mark.parametrize("limit", [100_000, 200_000])  # the vectors do not fit; the keys do not fit
def test_a_file_that_may_not_grow_is_a_full_disk(tmp_path: Path, limit: int) -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("files are limited here already")
    path = tmp_path / "store"
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(limit)],
        capture_output=True,
        text=True,
        env=os.environ,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    there = int(ran.stdout)
    assert 0 < there < 40_000 and there % 1000 == 0
    check_whole(path, [*named(there), "goes on"])


WITHOUT_ROOM = """
import sys, resource
from tests.models.test_behaviour_store import *
path = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
print(refused(path, write=True))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
made(path, named(4))
"""


@pytest.mark.parametrize("there", [0, 3])
def test_a_disk_without_room_for_the_lock_is_one_line_and_the_lock_is_free(tmp_path: Path, there: int) -> None:
    if resource.getrlimit(resource.RLIMIT_FSIZE)[1] != resource.RLIM_INFINITY:
        pytest.skip("files are limited here already")
    path = tmp_path / "store"
    if there:
        made(path, named(there))
    command = [sys.executable, "-c", WITHOUT_ROOM, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"{path}: no room left on the disk (") and ran.stdout.count("\n") == 1
    check_whole(path, named(4))


def test_stores_of_others_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    before = files_of(path)
    for write in (False, True):
        line = refused(path, write=write, fingerprint=OTHER)
        assert f"{path}: holds vectors of encoder {ENCODER[:12]}; expected encoder {OTHER[:12]}" in line
        assert f"{path}: holds vectors of width 8; expected width 9" in refused(path, write=write, width=9)
        assert f"{tmp_path}: not a behaviour store ({RECORD}" in refused(tmp_path, write=True)
    assert "not a behaviour store: store.json is missing" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "none") and not (tmp_path / "none").exists()
    file = tmp_path / "file"
    file.write_text("x")
    assert "is a file" in refused(file, write=True)
    assert files_of(path) == before
    with pytest.raises(ValueError, match="needs an encoder and a width"):
        BehaviourStore.open(tmp_path / "new", write=True)
    writer(path).close()


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"version": 2}, "version 2 of the format; expected 1"),
        ({"format": "else"}, "expected format 'sparsefront behaviour store'"),
        ({"width": "8"}, "damaged; expected an encoder, a width and dtype float16"),
        ({"width": 0}, "damaged: a store needs"),
        ({"dtype": "float32"}, "damaged; expected an encoder"),
        ({"encoder": None}, "damaged; expected an encoder"),
    ],
)
def test_damaged_records_are_refused(tmp_path: Path, change: dict[str, Any], line: str) -> None:
    path = made(tmp_path / "store", named(3))
    record = path / RECORD
    record.write_text(json.dumps({**json.loads(record.read_text()), **change}))
    for write in (False, True):
        assert line in refused(path, write=write)
    record.write_text("{")
    assert "damaged or not JSON" in refused(path)


def test_truncated_and_damaged_files_are_refused(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(2_000))
    vectors, keys = path / VECTORS, path / "keys" / DATA
    whole, known = vectors.read_bytes(), keys.read_bytes()
    for content, file, line in (
        (whole[:-1], vectors, "truncated: it holds 31999 bytes, expected 32000 for the 2000 behaviours"),
        (b"", vectors, "truncated: it holds 0 bytes"),
        (known[: len(known) // 2], keys, "truncated: it holds"),
        (known[:5000], keys, "data.mdb: "),
        (b"\0" * len(known), keys, "data.mdb: damaged: "),
        (b"", keys, "data.mdb: truncated: it is empty"),
    ):
        file.write_bytes(content)
        for write in (False, True):
            assert line in refused(path, write=write)
            assert file.read_bytes() == content
        vectors.write_bytes(whole)
        keys.write_bytes(known)
    vectors.unlink()
    assert "truncated" in refused(path, write=True)
    vectors.write_bytes(whole)
    check_whole(path, named(2_000))


def test_keys_of_rows_that_are_not_there_are_damage(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(3))
    keys = TextKeys.open(path / "keys")
    with keys._own.environment.begin(write=True) as transaction:
        transaction.put(key_of("viewed item 1"), (3).to_bytes(8, "little"))
    keys.close()
    with BehaviourStore.open(path) as store, pytest.raises(InputError, match="damaged: row 3 of 3"):
        store.rows(named(3))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_may_only_be_read_is_read(tmp_path: Path) -> None:
    path = made(tmp_path / "store", named(5))
    folders = (path / "keys", path)
    for one in (*folders, path / "keys" / DATA):
        one.chmod(0o555 if one.is_dir() else 0o444)
    check_whole(path, named(5))
    for one in folders:
        one.chmod(0o755)
