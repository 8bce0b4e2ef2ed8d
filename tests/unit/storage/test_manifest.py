"""Tables: round trips, digests that find damage, messages that name the file."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from storage.fs import Store, open_store
from storage.manifest import (
    INDEX_SCHEMA,
    MANIFEST_SCHEMA,
    REJECTS_SCHEMA,
    ManifestError,
    column_digest,
    read_table,
    write_table,
)


@pytest.fixture(params=["disk", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return open_store(tmp_path if request.param == "disk" else f"mock:///{tmp_path.name}")


def manifest(rows: int = 50) -> pa.Table:
    draw = random.Random(3)
    return pa.Table.from_pylist(
        [
            {
                "key": f"sample-{i:05d}",
                "shard": i // 10,
                "row": i % 10,
                "ext": "jpg",
                "offset": i * 10240 + 512,
                "size": draw.randrange(10_000),
                "checksum": draw.randrange(2**64),
                "shape": [i, 4, 3][: i % 4],
                "label": None if i % 7 == 0 else f"läbel {i % 3}",
                "score": draw.random(),
                "metadata": '{"i":1}',
            }
            for i in range(rows)
        ],
        MANIFEST_SCHEMA,
    )


@pytest.mark.parametrize("rows", [0, 1, 50])
def test_tables_come_back(store: Store, rows: int) -> None:
    table = manifest(rows)
    digest = write_table(store, "p/m.parquet", table)
    for sha256 in (digest, None):
        back = read_table(store, "p/m.parquet", sha256)
        assert back.equals(table)
        assert back.schema.equals(MANIFEST_SCHEMA)
        assert back.schema.metadata is None
        some = read_table(store, "p/m.parquet", sha256, columns=["size", "key"])
        assert some.equals(table.select(some.column_names))
        assert set(some.column_names) == {"size", "key"}
    assert write_table(store, "p/again.parquet", table) == digest


def test_all_schemas_are_written(store: Store) -> None:
    for schema in (REJECTS_SCHEMA, INDEX_SCHEMA):
        write_table(store, "t.parquet", schema.empty_table())
        assert read_table(store, "t.parquet").schema.equals(schema)


def test_a_replaced_table_is_refused(store: Store) -> None:
    digest = write_table(store, "m.parquet", manifest(50))
    write_table(store, "m.parquet", manifest(49))
    assert len(read_table(store, "m.parquet")) == 49
    with pytest.raises(
        ManifestError, match=rf"m\.parquet: its SHA-256 is .*committed one is {digest}"
    ):
        read_table(store, "m.parquet", digest)


def test_missing_tables_and_columns_are_named(store: Store) -> None:
    with pytest.raises(ManifestError, match=r"m\.parquet: the file is missing"):
        read_table(store, "m.parquet")
    write_table(store, "m.parquet", manifest())
    with pytest.raises(ManifestError, match=r"has no column 'colour'\. It has checksum"):
        read_table(store, "m.parquet", columns=["key", "colour"])


def test_tables_of_others_are_refused(store: Store, tmp_path: Path) -> None:
    place = tmp_path / "m.parquet"
    parquet.write_table(manifest(), place)
    store.write("m.parquet", place.read_bytes())
    with pytest.raises(ManifestError, match="carries no digests"):
        read_table(store, "m.parquet")
    store.write("m.parquet", b"PAR1 but not really PAR1")
    with pytest.raises(ManifestError, match="not a readable Parquet table"):
        read_table(store, "m.parquet")


def test_types_that_have_no_digest_are_refused(store: Store) -> None:
    with pytest.raises(TypeError, match=r"column of type .*cannot be written"):
        write_table(store, "m.parquet", pa.table({"a": [{"b": 1}]}))


VALUES = {
    "text": (pa.string(), ["a", None, "", "bc", "é"]),
    "bytes": (pa.binary(), [b"a", None, b"", b"bc"]),
    "numbers": (pa.int32(), [1, None, 0, -5]),
    "reals": (pa.float32(), [1.5, None, 0.0, -0.0]),
    "truths": (pa.bool_(), [True, None, False]),
    "lists": (pa.list_(pa.int32()), [[1, 2], None, [], [None], [3]]),
}


@pytest.mark.parametrize("name", VALUES)
def test_digests_depend_on_values_and_not_on_chunks(name: str) -> None:
    kind, values = VALUES[name]
    whole = pa.chunked_array([pa.array(values, kind)])
    for cut in range(len(values) + 1):
        pieces = pa.chunked_array([pa.array(values[:cut], kind), pa.array(values[cut:], kind)])
        sliced = pa.chunked_array([whole.chunk(0)[:cut], whole.chunk(0)[cut:]])
        assert column_digest(pieces) == column_digest(whole) == column_digest(sliced)
    others: list[Any] = [values[1:], values[:-1], [*values, None], [values[-1], *values[:-1]]]
    digests = {column_digest(pa.chunked_array([pa.array(other, kind)])) for other in others}
    assert len(digests) == len(others)
    assert column_digest(whole) not in digests


def test_digests_tell_where_texts_and_lists_end() -> None:
    def digest(values: list[Any]) -> str:
        return column_digest(pa.chunked_array([pa.array(values)]))

    assert digest(["ab", "c"]) != digest(["a", "bc"])
    assert digest([[1, 2], [3]]) != digest([[1], [2, 3]])
    assert digest([0]) != digest([False])


def test_any_flipped_bit_is_found_or_changes_no_value(tmp_path: Path) -> None:
    """G5, without the SHA-256 of the file: what only its own digests protect."""
    store, table, draw = open_store(tmp_path), manifest(20), random.Random(5)
    write_table(store, "m.parquet", table)
    good, place = store.read("m.parquet"), tmp_path / "m.parquet"
    found = 0
    for position in range(0, len(good), 17):
        damaged = bytearray(good)
        damaged[position] ^= 1 << draw.randrange(8)
        place.write_bytes(damaged)
        try:
            assert read_table(store, "m.parquet").equals(table)
        except ManifestError as error:
            assert "m.parquet: " in str(error)
            found += 1
    assert found > 100


def test_a_table_cut_anywhere_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    write_table(store, "m.parquet", manifest(5))
    good, place = store.read("m.parquet"), tmp_path / "m.parquet"
    for cut in range(0, len(good), 53):
        place.write_bytes(good[:cut])
        with pytest.raises(ManifestError, match="not a readable Parquet table"):
            read_table(store, "m.parquet")
