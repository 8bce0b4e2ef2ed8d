"""Tables at rest: the manifest of a part, its rejects, the index of a column. Parquet.

A table carries a digest of each of its columns, so that a damaged value is found on reading even
where nobody keeps the SHA-256 of the file, and where only some of the columns are read.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from pyarrow import parquet

from storage.fingerprint import canonical_json, sha256_hex
from storage.fs import Store

ROW_GROUP = 16_384
FORMAT = 1
DIGESTS = b"headrace"
"Key of the metadata that hold the number of rows and the digest of each column."
_CHUNK = 1 << 23

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


def write_table(store: Store, path: str, table: pa.Table, *, of: str = "") -> str:
    """Write a table whole; returns the SHA-256 of its bytes, which depend on the table alone.

    Args:
        of: what it belongs to, which a reader can ask for: the fingerprint of a column.
    """
    writer = TableWriter(table.schema)
    writer.add_table(table)
    return writer.write(store, path, of=of)


class TableWriter:
    """Collects the rows of a table in memory by row groups, and on a disk what is complete.

    The bytes depend on the rows alone, not on how they were added.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema.remove_metadata()
        self._file = tempfile.TemporaryFile(prefix="headrace-")  # noqa: SIM115 (closed by write)
        self._writer = parquet.ParquetWriter(
            self._file,
            self._schema,
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
        )
        self._digests = {field.name: Digest(field.type) for field in self._schema}
        self._waiting: list[pa.Table] = []
        self._rows = self._written = 0

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows; a field that a row lacks is null."""
        following = iter(rows)
        while some := list(islice(following, ROW_GROUP)):
            self.add_table(pa.Table.from_pylist(some, self._schema))

    def add_table(self, table: pa.Table) -> None:
        """Add the rows of a table of the same schema."""
        self._waiting.append(table.cast(self._schema))
        self._rows += len(table)
        while self._rows - self._written >= ROW_GROUP:
            self._write_group(ROW_GROUP)

    def _write_group(self, size: int) -> None:
        waiting = pa.concat_tables(self._waiting)
        group = waiting.slice(0, size).combine_chunks()
        for name, digest in self._digests.items():
            digest.feed(group[name])
        self._writer.write_table(group, row_group_size=ROW_GROUP)
        self._waiting = [waiting.slice(size)] if size < len(waiting) else []
        self._written += size

    def write(self, store: Store, path: str, *, of: str = "") -> str:
        """Write the table to a store, as `write_table` does; returns the SHA-256 of its bytes."""
        if self._waiting or not self._written:
            self._waiting = self._waiting or [self._schema.empty_table()]
            self._write_group(self._rows - self._written)
        columns = {name: digest.hexdigest() for name, digest in self._digests.items()}
        record = {"format": FORMAT, "rows": self._rows, "columns": columns}
        if of:
            record["of"] = of
        self._writer.add_key_value_metadata({DIGESTS: canonical_json(record)})
        self._writer.close()
        self._file.seek(0)
        with self._file:
            data = mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)
            store.write(path, data)
            return hashlib.sha256(data).hexdigest()


def read_table(
    store: Store,
    path: str,
    sha256: str | None = None,
    columns: Sequence[str] | None = None,
    *,
    of: str | None = None,
) -> pa.Table:
    """Read a table, or some of its columns, having checked them.

    Args:
        of: what it must belong to; None does not ask.
        sha256: what `write_table` returned: the whole file is compared, so another sound table in
            its place is found too. None where nobody kept it: the digests of the columns decide.

    Raises:
        ManifestError: missing, damaged, without one of the columns, or not the table that was
            committed.
    """
    try:
        source = _open(store, path, sha256)
    except FileNotFoundError as error:
        raise ManifestError(
            f"{path}: the file is missing. It was committed; restore it, or make it again."
        ) from error
    wanted = list(columns) if columns is not None else None
    try:
        with source:
            table = parquet.ParquetFile(source, page_checksum_verification=True).read(wanted)
    except (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise ManifestError(
            f"{path}: not a readable Parquet table ({error}). Restore it, or make it again."
        ) from error
    _check_owner(table, path, of)
    return _checked(table, path, wanted, digests=sha256 is None)


def _check_owner(table: pa.Table, path: str, of: str | None) -> None:
    """Refuse a table that was written for something else: it is sound, but was moved here."""
    try:
        found = json.loads((table.schema.metadata or {})[DIGESTS]).get("of", "")
    except (KeyError, ValueError, AttributeError):
        return  # damaged, which is told next
    if of is not None and found != of:
        raise ManifestError(
            f"{path}: belongs to {found[:16] or 'nothing'}, not to {of[:16]}. It was moved; "
            "restore it, or make it again."
        )


def _open(store: Store, path: str, sha256: str | None) -> Any:
    """Open a file after comparing its hash; only a remote one is held in memory."""
    local = store.local_path(path)
    if local is None:
        data = store.read(path)
        found = sha256_hex(data) if sha256 is not None else None
        source = pa.BufferReader(data)
    else:
        found = _file_sha256(str(local)) if sha256 is not None else None
        source = pa.OSFile(str(local), "rb")
    if found != sha256:
        source.close()
        raise ManifestError(
            f"{path}: its SHA-256 is {found}, the committed one is {sha256}. "
            "The file was damaged or replaced; restore it, or make it again."
        )
    return source


def _file_sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def _checked(table: pa.Table, path: str, wanted: list[str] | None, *, digests: bool) -> pa.Table:
    """Return a table that agrees with the record in its metadata, without that record.

    Args:
        digests: compare them; a file whose SHA-256 was compared needs it not (6 s in 10^7 rows).
    """
    metadata = dict(table.schema.metadata or {})
    try:
        record = json.loads(metadata.pop(DIGESTS))
        stated, rows, version = record["columns"], record["rows"], record["format"]
        names = wanted if wanted is not None else sorted(stated)
    except (KeyError, TypeError, ValueError) as error:
        raise ManifestError(
            f"{path}: carries no digests of its columns, so it is damaged or not ours."
        ) from error
    if version != FORMAT:
        raise ManifestError(
            f"{path}: has format {version}, this version reads {FORMAT}. Update headrace."
        )
    missing = [name for name in names if name not in stated or name not in table.column_names]
    if missing:
        raise ManifestError(
            f"{path}: has no column {missing[0]!r}. It has {', '.join(sorted(stated))}."
        )
    if len(table) != rows or len(table.column_names) != len(set(names)):
        raise ManifestError(
            f"{path}: has {len(table)} rows of {len(table.column_names)} columns, was written with "
            f"{rows} of {len(set(names))}. Restore it, or make it again."
        )
    for name in table.column_names:
        if digests and column_digest(table[name]) != stated[name]:
            raise ManifestError(
                f"{path}: values of column {name!r} are damaged. Restore it, or make it again."
            )
    return table.replace_schema_metadata(metadata or None)


def column_digest(column: pa.ChunkedArray) -> str:
    """Return a digest of a column's type and values, however the column is cut into chunks."""
    digest = Digest(column.type)
    digest.feed(column)
    return digest.hexdigest()


class Digest:
    """A digest of a column that is given in pieces."""

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind
        self.streams: defaultdict[str, Any] = defaultdict(xxhash.xxh3_128)

    def feed(self, column: pa.ChunkedArray) -> None:
        """Add the next values of the column."""
        for chunk in column.chunks:
            _feed(chunk, "", self.streams)

    def hexdigest(self) -> str:
        """Return the digest of what was added."""
        parts = [f"{name}={stream.hexdigest()}" for name, stream in sorted(self.streams.items())]
        return xxhash.xxh3_128_hexdigest(" ".join((_kind(self.kind), *parts)).encode())


def _kind(kind: pa.DataType) -> str:
    """Return a type's name; Parquet may rename the items of a list, which says nothing."""
    return f"list of {_kind(kind.value_type)}" if pa.types.is_list(kind) else str(kind)


def _feed(values: pa.Array, prefix: str, streams: defaultdict[str, Any]) -> None:
    """Add an array to the streams of its validity (1 byte a value), lengths (8 bytes) and data."""
    from pyarrow import compute  # 4 MB that a reader of whole files does not need

    kind = values.type
    if not len(values):
        return
    valid = values.is_valid().to_numpy(zero_copy_only=False)
    streams[f"{prefix}valid"].update(np.ascontiguousarray(valid))
    if pa.types.is_list(kind):
        streams[f"{prefix}lengths"].update(_numbers(compute.list_value_length(values), np.int64))
        _feed(values.flatten(), f"{prefix}item ", streams)
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        full = values.fill_null("" if pa.types.is_string(kind) else b"")
        streams[f"{prefix}lengths"].update(_numbers(compute.binary_length(full), np.int64))
        streams[f"{prefix}data"].update(_text_bytes(full))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        streams[f"{prefix}data"].update(_numbers(values))
    else:
        raise TypeError(
            f"column of type {kind}: cannot be written. Use text, bytes, numbers, truth values "
            "or lists of these."
        )


def _text_bytes(values: pa.Array) -> memoryview:
    """Return the bytes of an array of text without nulls, end to end."""
    _, offsets, content = values.buffers()
    if content is None:
        return memoryview(b"")
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
    return memoryview(content)[bounds[0] : bounds[-1]]


def _numbers(values: pa.Array, dtype: type | None = None) -> Any:
    """Return contiguous numbers, nulls as 0."""
    filled = values.fill_null(False if pa.types.is_boolean(values.type) else 0)
    return np.ascontiguousarray(filled.to_numpy(zero_copy_only=False), dtype)
