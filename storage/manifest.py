"""Tables at rest: the manifest of a part, its rejects, the index of a column. Parquet, written whole, verified on read."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
from pyarrow import parquet

from storage.fingerprint import sha256_hex
from storage.fs import Store

ROW_GROUP = 100_000

MANIFEST_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("ext", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("checksum", pa.uint64()),
        ("meta_offset", pa.int64()),
        ("meta_size", pa.int64()),
        ("meta_checksum", pa.uint64()),
        ("shape", pa.list_(pa.int32())),
        ("dtype", pa.string()),
        ("source", pa.string()),
        ("content_hash", pa.string()),
        ("group", pa.string()),
        ("split", pa.string()),
        ("label", pa.string()),
        ("score", pa.float32()),
        ("metadata", pa.string()),
    ]
)
REJECTS_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("reason_class", pa.string()),
        ("detail", pa.string()),
        ("content_hash", pa.string()),
        ("size", pa.int64()),
    ]
)
INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("checksum", pa.uint64()),
    ]
)


class ManifestError(RuntimeError):
    """A table that is damaged or not the one that was committed."""


def write_table(store: Store, path: str, table: pa.Table) -> str:
    """Write a table whole; returns the SHA-256 of its bytes, which depend on the table alone."""
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd", compression_level=1, row_group_size=ROW_GROUP)
    data = buffer.getvalue()
    store.write(path, data)
    return sha256_hex(data)


def read_table(
    store: Store, path: str, sha256: str | None = None, columns: Sequence[str] | None = None
) -> pa.Table:
    """Read a table, or some of its columns.

    Args:
        sha256: what `write_table` returned; None trusts the file.

    Raises:
        ManifestError: missing, unreadable, or other bytes than were committed.
    """
    try:
        data = store.read(path)
    except FileNotFoundError as error:
        raise ManifestError(f"{path}: the file is missing. It was committed; restore it, or ingest again.") from error
    if sha256 is not None and sha256_hex(data) != sha256:
        raise ManifestError(f"{path}: its bytes are not the committed ones. Restore the file, or ingest again.")
    try:
        return parquet.read_table(io.BytesIO(data), columns=list(columns) if columns else None)
    except (pa.ArrowException, OSError) as error:
        raise ManifestError(f"{path}: not a readable Parquet table ({error}). Restore it, or make it again.") from error
