"""Who writes a folder: gc and writers exclude each other, on a disk and in an object store."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from storage import writers
from storage.fs import Store, StoreError, open_store
from storage.writers import abandoned_files, removing, writing

FOLDER = "datasets/photos/parts/x"
HOLD = """
import sys, time
from storage.fs import open_store
from storage.writers import writing
with writing(open_store(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def free(store: Store, hours: float | None = None, folder: str = FOLDER) -> bool:
    with removing(store, folder, hours) as mine:
        return mine


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


def test_a_folder_is_free_when_all_its_writers_are_done(store: Store) -> None:
    with writing(store, FOLDER):
        with writing(store, FOLDER):
            assert not free(store)
        assert not free(store)
    assert free(store)
    assert not free(store, folder="datasets/nothing")
    assert list(Path(store.uri).rglob("*x/*")) == []


def test_a_killed_writer_leaves_its_folder_free(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, store.uri, FOLDER]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=os.getcwd())
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert not free(store)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert free(store)


def test_age_spares_a_young_folder_where_it_is_asked_for(store: Store) -> None:
    store.write(f"{FOLDER}/shard-000000.tar", b"data")
    assert free(store)
    assert not free(store, 1.0)
    before = time.time() - 7200
    for path in (f"{FOLDER}/shard-000000.tar", FOLDER):
        os.utime(Path(store.uri) / path, (before, before))
    assert free(store, 1.0)
    assert not free(store, 3.0)


def test_age_decides_where_there_are_no_locks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(writers.errno.ENOLCK, "no locks here")

    store.write(f"{FOLDER}/shard-000000.tar", b"data")
    monkeypatch.setattr(writers.fcntl, "flock", no_locks)
    with writing(store, FOLDER):
        assert not free(store)
    assert not free(store)
    assert free(store, 0.0)


def test_a_writer_waits_for_gc_and_makes_its_folder_again(store: Store) -> None:
    held = threading.Event()

    def write() -> None:
        with writing(store, FOLDER):
            store.write(f"{FOLDER}/new", b"1")
            held.set()

    store.write(f"{FOLDER}/old", b"1")
    with removing(store, FOLDER, None) as mine:
        assert mine
        thread = threading.Thread(target=write)
        thread.start()
        assert not held.wait(0.2)
        store.delete_tree(FOLDER)
    thread.join(10)
    assert held.is_set()
    assert [entry.path for entry in store.list()] == [f"{FOLDER}/new"]


def test_a_writer_does_not_wait_for_ever(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "WAIT_SECONDS", 0.1)
    store.write(f"{FOLDER}/old", b"1")
    with (
        removing(store, FOLDER, None),
        pytest.raises(StoreError, match="gc' has been removing"),
        writing(store, FOLDER),
    ):
        pass


def test_temporary_files_of_the_dead_are_told_from_those_of_the_living(store: Store) -> None:
    store.write("a/b", b"1")
    dead = Path(store.uri) / "a" / ".tmp-dead"
    dead.write_bytes(b"12")
    living = Path(store.uri) / "a" / ".tmp-living"
    with living.open("wb") as file:
        writers.fcntl.flock(file, writers.fcntl.LOCK_EX)
        assert [(e.path, e.size) for e in abandoned_files(store)] == [("a/.tmp-dead", 2)]
