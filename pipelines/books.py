"""The books of an ingest: every raw input ends as written, duplicate or rejected, and the totals
must match. The tables of a part are written from its records, one chunk after another."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipelines.chunks import read_record
from pipelines.plan import IngestPlan
from pipelines.raw import RawFile
from preprocessing.statistics import Moments
from storage.fs import Store
from storage.manifest import MANIFEST_SCHEMA, REJECTS_SCHEMA, TableWriter
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

MOST_LABELS = 1000
"Labels that a snapshot counts; a dataset with a label a sample keeps the most frequent."


class BooksError(RuntimeError):
    """Raw inputs are unaccounted for."""


@dataclass(slots=True)
class Statistics:
    """What the samples of a part are like."""

    moments: Moments = field(default_factory=Moments.empty)
    shapes: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    channels: set[tuple[str, ...]] = field(default_factory=set)

    def add(self, record: dict[str, Any]) -> None:
        """Take the samples of a chunk."""
        self.moments = self.moments.merge(Moments.from_json(record["moments"]))
        self.shapes.update(record["shapes"])
        for shard in record["shards"]:
            self.splits.update(row["split"] for row in shard["rows"])
            self.labels.update(row["label"] for row in shard["rows"])
            for row in shard["rows"]:
                if len(self.channels) < 2:
                    self.channels.add(tuple(json.loads(row["metadata"]).get("channels") or ()))

    def to_json(self) -> dict[str, Any]:
        """Return what a snapshot keeps."""
        return {
            "moments": self.moments.to_json(),
            "shapes": dict(sorted(self.shapes.items())),
            "splits": dict(sorted(self.splits.items())),
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


def write_tables(store: Store, plan: IngestPlan) -> tuple[PartEntry, Books]:
    """Write manifest, rejects and inputs of a part from its records; memory goes by a row group.

    Returns:
        The part's entry for a snapshot, and the books, closed.

    Raises:
        BooksError: an input has no outcome; nothing names the part then.
    """
    folder = part_path(plan.dataset, plan.part)
    books = Books(plan.inputs, plan.skipped, duplicates=len(plan.duplicates))
    manifest = TableWriter(MANIFEST_SCHEMA)
    rejects = TableWriter(REJECTS_SCHEMA)
    inputs = TableWriter(INPUTS_SCHEMA)
    late: list[dict[str, Any]] = plan.rejects.to_pylist()
    for chunk in range(plan.chunks):
        record = read_record(store, folder, chunk)
        for shard in record["shards"]:
            position = len(books.shards)
            manifest.add({**r, "shard": position, "row": i} for i, r in enumerate(shard["rows"]))
            books.shards.append({k: v for k, v in shard.items() if k != "rows"})
        books.statistics.add(record)
        written = list(_written(record))
        inputs.add(written)
        books.written += len(written)
        late += record["rejects"]
    inputs.add(_duplicate(row) for row in plan.duplicates.to_pylist())
    inputs.add(_rejected(row) for row in late)
    rejects.add(late)
    books.rejects = len(late)
    books.reasons.update(row["reason_class"] for row in late)
    books.samples = sum(shard["samples"] for shard in books.shards)
    books.bytes = sum(shard["bytes"] for shard in books.shards)
    close_books(books, plan.dataset)
    digests = {
        "manifest_sha256": manifest.write(store, f"{folder}/manifest.parquet"),
        "rejects_sha256": rejects.write(store, f"{folder}/rejects.parquet"),
    }
    inputs.write(store, f"{folder}/inputs.parquet")
    return _entry(plan, books, digests), books


def _entry(plan: IngestPlan, books: Books, digests: dict[str, str]) -> PartEntry:
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
        stats=books.statistics.to_json(),
        **digests,
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
