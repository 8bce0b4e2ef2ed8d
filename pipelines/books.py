"""The books of an ingest: every raw input ends as written, duplicate or rejected, and the totals
must match. The tables of a part are written from its records, one chunk after another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.chunks import record_path
from pipelines.plan import IngestPlan
from pipelines.raw import RawFile
from preprocessing.statistics import ByChannels, apart_from_json, apart_to_json, merge_apart
from storage.fingerprint import checksum, sha256_hex
from storage.fs import Store
from storage.manifest import (
    MANIFEST_SCHEMA,
    REJECTS_SCHEMA,
    TableWriter,
    read_table,
    write_table,
)
from storage.snapshots import PartEntry, part_path

INPUTS_SCHEMA = pa.schema(
    [
        ("uri", pa.string()),
        ("content_hash", pa.string()),
        ("outcome", pa.string()),
        ("detail", pa.string()),
    ]
)
"One row a raw file: what became of it."

DUPLICATES, REFUSED = "duplicates.parquet", "refused.parquet"
"Records of what the plan decided: files that come again, and files that fit no unit."
DUPLICATES_SCHEMA = pa.schema(
    [("uri", pa.string()), ("content_hash", pa.string()), ("first", pa.string())]
)

MOST_LABELS = 1000
"Labels that a snapshot counts; a dataset with a label a sample keeps the most frequent."


class BooksError(RuntimeError):
    """Raw inputs are unaccounted for."""


@dataclass(slots=True)
class Statistics:
    """What the samples of a part are like."""

    moments: ByChannels = field(default_factory=dict)
    shapes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    groups: dict[str, list[NDArray[np.uint64]]] = field(default_factory=dict)
    "of each split the hashes of the groups that each chunk has"
    channels: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        """Take the samples of a chunk."""
        self.moments = merge_apart(self.moments, apart_from_json(record["moments"]))
        self.shapes.update(record["shapes"])
        groups: dict[str, set[int]] = {}
        for row in (row for shard in record["shards"] for row in shard["rows"]):
            groups.setdefault(row["split"], set()).add(checksum(row["group"].encode()))
            self.splits[row["split"]] += 1
            self.labels[row["label"]] += 1
            if len(self.channels) < 2:
                self.channels.add(tuple(json.loads(row["metadata"]).get("channels") or ()))
        for split, found in groups.items():
            hashes = np.fromiter(found, np.uint64, len(found))
            self.groups.setdefault(split, []).append(hashes)

    def group_counts(self) -> dict[str, int]:
        """Return how many groups each split has: videos, wells, scenes, or single samples."""
        return {
            split: len(np.unique(np.concatenate(found)))
            for split, found in sorted(self.groups.items())
        }

    def to_json(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        return {
            "moments": apart_to_json(self.moments),
            "shapes": dict(sorted(self.shapes.items())),
            "splits": dict(sorted(self.splits.items())),
            "groups": self.group_counts(),
            "labels": dict(self.labels.most_common(MOST_LABELS)),
        }

    def common_channels(self) -> list[str]:
        """Return the channel names that all samples share; none where they differ."""
        return list(next(iter(self.channels))) if len(self.channels) == 1 else []


@dataclass(slots=True)
class Books:
    """What became of every raw file of one ingest, in numbers."""

    inputs: int
    skipped: int = 0
    "raw files that a part of the dataset has already"
    written: int = 0
    duplicates: int = 0
    rejects: int = 0
    samples: int = 0
    bytes: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    statistics: Statistics = field(default_factory=Statistics)

    def summary(self) -> dict[str, Any]:
        """Return the counts that the command prints."""
        splits = self.statistics.splits
        return {
            "inputs": self.inputs,
            "written": self.written,
            "samples": self.samples,
            "duplicates": self.duplicates,
            "rejects": self.rejects,
            "skipped": self.skipped,
            "shards": len(self.shards),
            "bytes": self.bytes,
            "reasons": dict(sorted(self.reasons.items())),
            "splits": dict(sorted(splits.items())),
            "groups": self.statistics.group_counts(),
        }


def close_books(books: Books, dataset: str) -> None:
    """Check that every input has an outcome (G1).

    Raises:
        BooksError: it has not.
    """
    counted = books.written + books.duplicates + books.rejects + books.skipped
    if counted != books.inputs:
        raise BooksError(
            f"{dataset}: {books.inputs} raw files went in, but written {books.written} + "
            f"duplicates {books.duplicates} + rejects {books.rejects} + skipped {books.skipped} = "
            f"{counted}. Nothing was committed; run the ingest again, and report this if it stays."
        )


@dataclass(slots=True)
class Tables:
    """The tables of a part, complete and not yet written."""

    manifest: TableWriter
    rejects: TableWriter
    inputs: TableWriter


def write_tables(store: Store, plan: IngestPlan) -> tuple[PartEntry, Books]:
    """Write manifest, rejects and inputs of a part from its records; memory goes by a row group.

    What the plan itself decided, duplicates and files that fit no unit, becomes records of its own
    first: so the tables can be made again from the records alone.

    Returns:
        The part's entry for a snapshot, and the books, closed.

    Raises:
        BooksError: an input has no outcome; nothing names the part then.
    """
    folder = part_path(plan.dataset, plan.part)
    records = {
        name: write_table(store, f"{folder}/records/{name}", table.cast(schema))
        for name, table, schema in (
            (DUPLICATES, plan.duplicates, DUPLICATES_SCHEMA),
            (REFUSED, plan.rejects.select(REJECTS_SCHEMA.names), REJECTS_SCHEMA),
        )
    }
    books = Books(plan.inputs, plan.skipped)
    tables = tables_of(store, folder, plan.chunks, books, records)
    close_books(books, plan.dataset)
    digests = {
        f"{name}_sha256": getattr(tables, name).write(store, f"{folder}/{name}.parquet")
        for name in ("manifest", "rejects", "inputs")
    }
    return _entry(plan, books, digests, records), books


def tables_of(
    store: Store, folder: str, chunks: int, books: Books, records: dict[str, str]
) -> Tables:
    """Return the tables of a part, made from its records.

    Args:
        books: the numbers are entered here.
        records: gets the SHA-256 of the record of each chunk.
    """
    tables = Tables(*map(TableWriter, (MANIFEST_SCHEMA, REJECTS_SCHEMA, INPUTS_SCHEMA)))
    late = read_table(store, f"{folder}/records/{REFUSED}").to_pylist()
    for chunk in range(chunks):
        data = store.read(record_path(folder, chunk))
        record = json.loads(data)
        records[record_path("", chunk).rpartition("/")[2]] = sha256_hex(data)
        for shard in record["shards"]:
            place = len(books.shards)
            tables.manifest.add(
                {**row, "shard": place, "row": i} for i, row in enumerate(shard["rows"])
            )
            books.shards.append({k: v for k, v in shard.items() if k != "rows"})
        books.statistics.add(record)
        written = list(_written(record))
        tables.inputs.add(written)
        books.written += len(written)
        late += record["rejects"]
    duplicates = read_table(store, f"{folder}/records/{DUPLICATES}")
    tables.inputs.add(_duplicate(row) for row in duplicates.to_pylist())
    tables.inputs.add(_rejected(row) for row in late)
    tables.rejects.add(late)
    books.duplicates, books.rejects = len(duplicates), len(late)
    books.reasons.update(row["reason_class"] for row in late)
    books.samples = sum(shard["samples"] for shard in books.shards)
    books.bytes = sum(shard["bytes"] for shard in books.shards)
    return tables


def _entry(
    plan: IngestPlan, books: Books, digests: dict[str, str], records: dict[str, str]
) -> PartEntry:
    return PartEntry(
        part=plan.part,
        samples=books.samples,
        shards=books.shards,
        bytes=books.bytes,
        inputs=books.inputs - books.skipped,
        written=books.written,
        duplicates=books.duplicates,
        rejects=books.rejects,
        spec={**plan.spec.to_json(), "sources": list(plan.sources)},
        manifest_sha256=digests["manifest_sha256"],
        rejects_sha256=digests["rejects_sha256"],
        inputs_sha256=digests["inputs_sha256"],
        records=records,
        stats=books.statistics.to_json(),
    )


def _written(record: dict[str, Any]) -> Iterator[dict[str, str]]:
    for unit in record["units"]:
        if not unit.get("refused"):
            for file, digest in zip(unit["files"], unit["hashes"], strict=True):
                uri = RawFile(**file).uri
                yield {"uri": uri, "content_hash": digest, "outcome": "written", "detail": ""}


def _duplicate(row: dict[str, Any]) -> dict[str, str]:
    uri, digest, first = row["uri"], row["content_hash"], row["first"]
    return {
        "uri": uri,
        "content_hash": digest,
        "outcome": "duplicate",
        "detail": f"of {first}",
    }


def _rejected(row: dict[str, Any]) -> dict[str, str]:
    return {
        "uri": row["uri"],
        "content_hash": row["content_hash"] or "",
        "outcome": "rejected",
        "detail": row["reason_class"],
    }
