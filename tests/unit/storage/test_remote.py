"""Stores that are neither a disk nor S3: HDFS's rules of renaming, Google's errors, no others."""

from __future__ import annotations

import gzip
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from storage import remote
from storage.fs import Store, StoreError, open_store
from storage.manifest import MANIFEST_SCHEMA, read_table, write_table
from storage.shards import Sample, ShardReader, pack_shard
from storage.snapshots import read_snapshot
from tests.unit.storage.renaming import RenamesOntoNothing, use_for_hdfs


@pytest.fixture(params=["arrow's file system in memory", "a file system that renames as HDFS does"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param.startswith("arrow"):
        return open_store(f"mock:///{tmp_path.name}")
    use_for_hdfs(monkeypatch, RenamesOntoNothing(tmp_path))
    return open_store("hdfs://cluster/store")


def test_files(store: Store) -> None:
    assert store.list() == []
    store.write("a/b", b"0123456789")
    store.write("a/b", b"9876543210")
    store.write("a-c", b"1")
    assert store.read("a/b") == b"9876543210"
    assert store.read_range("a/b", 8, 100) == b"10"
    assert [(e.path, e.size) for e in store.list()] == [("a-c", 1), ("a/b", 10)]
    assert list(store.walk("a")) == store.list("a")
    assert store.folders() == ("a",)
    assert (store.size("a/b"), store.exists("a/x"), store.exists("a")) == (10, False, False)
    with pytest.raises(FileNotFoundError):
        store.read("a/x")
    store.delete("a/b")
    store.delete("a/b")
    store.write("t/1", b"")
    store.delete_tree("t")
    store.delete_tree("t")
    assert [e.path for e in store.list()] == ["a-c"]
    assert store.local_path("a") is None


def test_names_say_nothing_of_the_bytes(store: Store) -> None:
    """pyarrow would pack and unpack by the ending of a name."""
    data = gzip.compress(b"0123456789")
    for name in ("a.tar.gz", "b.bz2", "c.zst", "d.lz4"):
        store.write(name, data)
        assert (store.size(name), store.read(name)) == (len(data), data)
        assert store.read_range(name, 3, 5) == data[3:8]


def test_one_of_several_writers_wins(store: Store) -> None:
    if store.uri.startswith("mock"):
        pytest.skip("its rename replaces what is there")
    with ThreadPoolExecutor(4) as pool:
        for name in ("x", "y", "z"):
            won = list(pool.map(lambda i, n=name: store.put_if_absent(n, b"%d" % i), range(8)))
            assert sum(won) == 1
            assert store.read(name) == b"%d" % won.index(True)
    assert [entry.path for entry in store.list()] == ["x", "y", "z"]


def test_shards_and_tables(store: Store) -> None:
    samples = [Sample(f"k{i}", "jpg", b"payload %d" % i, {"i": i}) for i in range(3)]
    data, rows = pack_shard(samples)
    store.write("s.tar", data)
    with ShardReader(store, "s.tar", "d/p/s") as reader:
        for row, sample in zip(rows, samples, strict=True):
            assert reader.read(row.offset, row.size, row.checksum, row.key) == sample.payload
    digest = write_table(store, "m.parquet", MANIFEST_SCHEMA.empty_table())
    assert read_table(store, "m.parquet", digest, ["key"]).column_names == ["key"]
    assert read_snapshot(store, "d") is None


def test_a_file_stays_readable_when_it_is_replaced(store: Store) -> None:
    store.write("f", b"old")
    filesystem, root = remote.open_remote(store.uri)
    with filesystem.open_output_stream(f"{root}/.tmp-half") as stream:
        stream.write(b"ha")
    assert [entry.path for entry in store.list()] == ["f"]
    store.write("f", b"new")
    assert store.read("f") == b"new"
    assert filesystem.get_file_info(f"{root}/.tmp-half").type == pafs.FileType.File


@pytest.mark.parametrize("uri", ["abfs://box@account.dfs.core.windows.net/x", "ftp://host/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(StoreError, match=r"are not supported. Use a folder, s3://"):
        open_store(uri)


def test_hdfs_without_its_library_says_what_is_needed() -> None:
    with pytest.raises(StoreError, match=r"JAVA_HOME|cannot be reached"):
        open_store("hdfs://127.0.0.1:1/x")


def test_a_google_store_that_refuses_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GCS_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"gs://.* cannot be reached"):
        open_store(f"gs://anonymous@bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http")
    assert time.monotonic() - began < 20
