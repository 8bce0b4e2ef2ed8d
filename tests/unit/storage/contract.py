"""What every store does, wherever it is: tests that ask for a fixture `store`."""

from __future__ import annotations

import gzip
from concurrent.futures import ThreadPoolExecutor

import pytest

from storage.fs import Store
from storage.manifest import MANIFEST_SCHEMA, read_table, write_table
from storage.shards import Sample, ShardError, ShardReader, pack_shard, read_shard


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


def test_shards_and_tables(store: Store) -> None:
    samples = [Sample(f"k{i}", "jpg", b"payload %d" % i, {"i": i}) for i in range(3)]
    data, rows = pack_shard(samples)
    store.write("s.tar", data)
    assert list(read_shard(store, "s.tar", 3)) == samples
    with ShardReader(store, "s.tar", "d/p/s") as reader:
        for row, sample in zip(rows, samples, strict=True):
            assert reader.read(row.offset, row.size, row.checksum, row.key) == sample.payload
        with pytest.raises(ShardError, match="sample k0 is cut short"):
            reader.read(len(data) - 5, 10, 0, "k0")
    with pytest.raises(ShardError, match="missing"):
        ShardReader(store, "t.tar", "d/p/t")
    digest = write_table(store, "m.parquet", MANIFEST_SCHEMA.empty_table())
    assert read_table(store, "m.parquet", digest, ["key"]).column_names == ["key"]


def test_one_of_several_writers_wins(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        for name in ("x", "y", "z"):
            won = list(pool.map(lambda i, n=name: store.put_if_absent(n, b"%d" % i), range(8)))
            assert sum(won) == 1
            assert store.read(name) == b"%d" % won.index(True)
    assert [entry.path for entry in store.list()] == ["x", "y", "z"]
