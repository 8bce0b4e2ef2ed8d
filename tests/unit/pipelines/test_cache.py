"""The cache of remote shards: bounded, shared by processes, clean after a crash."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from pipelines.cache import Ahead, ShardCache
from storage.fs import Store, open_store

SIZE = 1000


@pytest.fixture
def remote(tmp_path: Path) -> Store:
    """A store of ten shards; that it is a folder is nothing to the cache."""
    store = open_store(tmp_path / "remote")
    for number in range(10):
        store.write(f"s/{number}.tar", bytes([number]) * SIZE)
    return store


def read(cache: ShardCache, store: Store, number: int) -> bytes | None:
    found = cache.fetch(store, f"s/{number}.tar")
    if found is None:
        return None
    data = found.path.read_bytes()
    found.close()
    return data


def test_the_bound_holds_and_the_oldest_goes(remote: Store, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    for number in (0, 1, 2, 0, 3, 4):
        assert read(cache, remote, number) == bytes([number]) * SIZE
        assert cache.used() <= 3 * SIZE
        time.sleep(0.01)
    remote.delete("s/0.tar")
    assert read(cache, remote, 0) == bytes(SIZE)  # asked for again after 1 and 2, so it stayed
    with pytest.raises(FileNotFoundError):
        cache.fetch(remote, "s/99.tar")
    assert cache.used() <= 3 * SIZE


def test_what_is_in_use_is_not_removed(remote: Store, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 2 * SIZE)
    held = [cache.fetch(remote, f"s/{number}.tar") for number in (0, 1)]
    assert all(held)
    assert cache.fetch(remote, "s/2.tar") is None
    held[0].close()  # type: ignore[union-attr]  # both are there
    assert read(cache, remote, 2) == bytes([2]) * SIZE
    assert ShardCache(tmp_path / "small", SIZE - 1).fetch(remote, "s/0.tar") is None


def _read_all(folder: Path, uri: str, seed: int) -> None:
    cache, store = ShardCache(folder, 3 * SIZE), Store(uri)
    for turn in range(60):
        number = (turn * 7 + seed) % 10
        assert read(cache, store, number) in (None, bytes([number]) * SIZE)
        assert cache.used() <= 3 * SIZE


def test_processes_share_it(remote: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    others = [
        context.Process(target=_read_all, args=(tmp_path / "cache", remote.uri, seed))
        for seed in range(4)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join(60)
    assert [other.exitcode for other in others] == [0] * 4


def _die_while_downloading(folder: Path, uri: str) -> None:
    class Dying(Store):
        def read_range(self, path: str, offset: int, size: int) -> bytes:
            os.kill(os.getpid(), signal.SIGKILL)
            return b""

    ShardCache(folder, 3 * SIZE).fetch(Dying(uri), "s/0.tar")


def test_what_a_crash_left_is_taken_over(remote: Store, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    for take_over in (True, False):
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_die_while_downloading, args=(folder, remote.uri))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        cache = ShardCache(folder, 3 * SIZE)
        assert list(folder.glob(".tmp-*"))
        if take_over:
            assert read(cache, remote, 0) == bytes(SIZE)
            cache.forget(remote, "s/0.tar")
        else:
            assert cache.clean() == 1
        assert cache.used() == 0


def test_shards_come_ahead(remote: Store, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", 3 * SIZE)
    ahead = Ahead(cache, iter([(remote, f"s/{number}.tar") for number in range(3)]))
    deadline = time.monotonic() + 20
    while cache.used() < 3 * SIZE and time.monotonic() < deadline:
        time.sleep(0.01)
    ahead.close()
    assert cache.used() == 3 * SIZE
