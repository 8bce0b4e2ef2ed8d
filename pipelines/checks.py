"""Checks of one file each, for as many processes as there are: what differs, by sample.

A file that is as it was written costs one pass over its bytes, in pieces; rows are read only to
name the samples of one that is not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from storage.columns import ColumnSpec
from storage.fs import Store, StoreError
from storage.manifest import ManifestError
from storage.shards import ShardError, ShardReader, sidecar_places
from storage.streaming import TableFile, file_sha256

Damage = dict[str, str]
"where (a path), sample (a key, or empty for the file itself) and detail."
_PLACES = ("key", "offset", "size", "checksum", "meta_offset", "meta_size", "meta_checksum")


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A file whose SHA-256 a snapshot keeps: a table or a record."""

    store: str
    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class ShardCheck:
    """A shard, and where its rows are if it is damaged."""

    store: str
    path: str
    sha256: str
    samples: int
    position: int
    manifest: str
    "path of the manifest"
    record: str
    "path of the chunk's record, for a manifest that is damaged too"


@dataclass(frozen=True, slots=True)
class SidecarCheck:
    """A sidecar shard, and the index that has its rows."""

    store: str
    path: str
    position: int
    index: str
    record: str
    column: str
    "fingerprint of the column that its record must name"


def damage(where: str, detail: object, sample: str = "") -> Damage:
    """Return one entry of what is damaged."""
    return {"where": where, "sample": sample, "detail": str(detail)}


def check(job: FileCheck | ShardCheck | SidecarCheck) -> list[Damage]:
    """Return what is damaged in a file."""
    store = Store(job.store)
    try:
        if isinstance(job, SidecarCheck):
            return _check_sidecar(store, job)
        found = file_sha256(store, job.path)
        if found == job.sha256:
            return []
        if isinstance(job, ShardCheck):
            return _name_samples(store, job)
    except FileNotFoundError:
        lost = f", with {job.samples} samples" if isinstance(job, ShardCheck) else ""
        return [damage(job.path, f"is missing{lost}")]
    except (StoreError, OSError) as error:
        return [damage(job.path, f"cannot be read ({error})")]
    return [damage(job.path, f"its SHA-256 is {found}, the committed one is {job.sha256}")]


def _name_samples(store: Store, job: ShardCheck) -> list[Damage]:
    """Read a damaged shard member by member."""
    rows = shard_rows(store, job)
    members = [
        (tuple(row[f"{prefix}{name}"] for name in ("offset", "size", "checksum")), row["key"])
        for row in rows
        for prefix in ("", "meta_")
    ]
    found = check_members(store, job.path, members)
    if found:
        return found
    where = "outside of the samples' members (headers or padding)" if rows else "somewhere"
    return [damage(job.path, f"its bytes differ {where}")]


def shard_rows(store: Store, job: ShardCheck) -> list[dict[str, Any]]:
    """Return the rows of a shard from the manifest, or from the record where that is damaged."""
    try:
        with TableFile(store, job.manifest) as table:
            rows: list[dict[str, Any]] = table.rows_of_shard(job.position, _PLACES).to_pylist()
            if len(rows) == job.samples:
                return rows
    except ManifestError:
        pass
    try:
        record = json.loads(store.read(job.record))
        name = job.path.rpartition("/")[2]
        return next(s["rows"] for s in record["shards"] if s["name"] == name)
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return []  # then the shard is reported without the names of its samples


def check_members(
    store: Store, path: str, members: list[tuple[tuple[int, ...], str]]
) -> list[Damage]:
    """Read the members ((offset, size, checksum), key) of a tar; return the damaged ones."""
    found = []
    try:
        reader = ShardReader(store, path, path)
    except (ShardError, OSError) as error:
        return [damage(path, error)]
    with reader:
        for (offset, size, expected), key in members:
            try:
                reader.read(offset, size, expected, key)
            except (ShardError, OSError) as error:
                found.append(damage(path, error, key))
    return found


def _check_sidecar(store: Store, job: SidecarCheck) -> list[Damage]:
    """Compare every byte: the members with their checksums, all others with what a tar of these
    members must hold."""
    with TableFile(store, job.index) as table:
        rows = table.rows_of_shard(job.position, _PLACES[:4]).to_pylist()
    wanted = [(row["key"], row["offset"], row["size"], row["checksum"]) for row in rows]
    data = store.read(job.path)
    try:
        if sidecar_places(data, job.path) == wanted:
            return _check_column_record(store, job, wanted, len(data))
        detail = "its members are not those of the index (keys, places or checksums)"
    except ShardError as error:
        detail = str(error)
    members = [((offset, size, digest), key) for key, offset, size, digest in wanted]
    return check_members(store, job.path, members) or [damage(job.path, detail)]


def _check_column_record(
    store: Store, job: SidecarCheck, rows: list[tuple[str, int, int, int]], size: int
) -> list[Damage]:
    """Compare the record of a sidecar with the index; one that is gone says nothing wrong."""
    try:
        record = json.loads(store.read(job.record))
        same = [tuple(row) for row in record["rows"]] == rows and record["bytes"] == size
        same = same and record["samples"] == len(rows)
        of = ColumnSpec(**record["column"]).fingerprint
    except FileNotFoundError:
        return [damage(job.record, "is missing")]
    except (ValueError, KeyError, TypeError):
        return [damage(job.record, "is not a record of a sidecar")]
    if of != job.column:
        detail = f"is of column {of[:16]}, in the folder of {job.column[:16]}; it was moved"
        return [damage(job.record, detail)]
    return [] if same else [damage(job.record, "does not say what the index says")]
