"""Tables and hashes in pieces: the same as whole, and damage is found."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from storage import manifest
from storage.fingerprint import sha256_hex
from storage.fs import Store, open_store
from storage.manifest import INDEX_SCHEMA, ManifestError, read_table, write_table
from storage.streaming import TableFile, file_sha256


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(manifest, "ROW_GROUP", 100)
    return open_store(tmp_path / "store")


def index(samples: int = 1000, in_shard: int = 70) -> pa.Table:
    rows = [
        {
            "key": f"key{i}",
            "shard": i // in_shard,
            "row": i % in_shard,
            "offset": 512 * i,
            "size": i,
            "checksum": 2**64 - 1 - i,
        }
        for i in range(samples)
    ]
    return pa.Table.from_pylist(rows, INDEX_SCHEMA)


def test_a_hash_in_pieces_is_that_of_the_whole(store: Store) -> None:
    data = bytes(range(256)) * 40_000
    store.write("a", data)
    store.write("b", b"")
    assert file_sha256(store, "a") == sha256_hex(data)
    assert file_sha256(store, "b") == sha256_hex(b"")
    with pytest.raises(FileNotFoundError):
        file_sha256(store, "c")


def test_row_groups_are_the_table(store: Store) -> None:
    whole = index()
    digest = write_table(store, "t.parquet", whole, of="column")
    assert file_sha256(store, "t.parquet") == digest
    with TableFile(store, "t.parquet") as table:
        table.check()
        assert (table.rows, table.of) == (1000, "column")
        groups = list(table.groups())
        assert len(groups) == 10
        assert pa.concat_tables(groups).equals(whole)
        for position in (0, 5, 14, 99):
            wanted = whole.filter(pa.compute.equal(whole["shard"], position))
            found = table.rows_of_shard(position, ["key", "offset"])
            assert found.equals(wanted.select(["key", "offset"]))


def test_only_the_groups_that_can_hold_a_shard_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(store, "t.parquet", index())
    read: list[int] = []
    real = TableFile._group

    def watched(self: TableFile, number: int, columns: list[str]) -> pa.Table:
        read.append(number)
        return real(self, number, columns)

    monkeypatch.setattr(TableFile, "_group", watched)
    with TableFile(store, "t.parquet") as table:
        table.rows_of_shard(3, ["key"])
    assert read == [2]


def test_a_changed_value_is_found(store: Store) -> None:
    whole = index()
    write_table(store, "t.parquet", whole)
    path = Path(store.uri) / "t.parquet"
    metadata = parquet.ParquetFile(path).metadata.metadata
    other = whole.set_column(4, "size", pa.array(range(1, 1001), pa.int64()))
    parquet.write_table(other.replace_schema_metadata(metadata), path)
    with TableFile(store, "t.parquet") as table, pytest.raises(ManifestError, match="'size'"):
        table.check()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ManifestError, match="not a readable table"):
        TableFile(store, "t.parquet")
    path.unlink()
    with pytest.raises(ManifestError, match="missing"):
        TableFile(store, "t.parquet")


def test_a_table_of_something_else_is_refused(store: Store) -> None:
    write_table(store, "t.parquet", index(), of="mine")
    assert len(read_table(store, "t.parquet", of="mine")) == 1000
    with pytest.raises(ManifestError, match="belongs to mine, not to other"):
        read_table(store, "t.parquet", of="other")
