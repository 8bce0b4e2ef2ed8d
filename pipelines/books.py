"""The books of an ingest: every raw input ends as written, duplicate or rejected, and the totals
must match."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.grouping import Reject
from pipelines.ingest_spec import IngestSpec
from pipelines.plan import PlannedUnit
from preprocessing.statistics import Moments
from storage.fs import Store
from storage.manifest import MANIFEST_SCHEMA, REJECTS_SCHEMA, write_table
from storage.snapshots import PartEntry, Snapshot, commit_part, part_path, shard_name

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


@dataclass(frozen=True, slots=True)
class Books:
    """What became of every raw file of one ingest."""

    inputs: int
    skipped: int
    "raw files that a part of the dataset has already"
    written: tuple[tuple[str, str], ...]
    "(uri, content hash) of the files that gave samples"
    duplicates: tuple[tuple[str, str, str], ...]
    "(uri, content hash, uri of the first)"
    rejects: tuple[dict[str, Any], ...]
    records: tuple[dict[str, Any], ...]

    @classmethod
    def of(
        cls,
        inputs: int,
        skipped: int,
        records: Sequence[dict[str, Any]],
        rejects: Sequence[Reject],
        duplicates: Sequence[tuple[PlannedUnit, str]],
    ) -> Books:
        """Collect the outcomes of the plan and of the shards' records."""
        return cls(
            inputs,
            skipped,
            tuple((uri, digest) for record in records for uri, digest in record["written"]),
            tuple(
                (file.uri, digest, first)
                for planned, first in duplicates
                for file, digest in zip(planned.unit.files, planned.hashes, strict=True)
            ),
            tuple(map(asdict, rejects))
            + tuple(reject for record in records for reject in record["rejects"]),
            tuple(records),
        )

    def summary(self) -> dict[str, Any]:
        """Return the counts that the command prints."""
        return {
            "inputs": self.inputs,
            "written": len(self.written),
            "samples": sum(record["samples"] for record in self.records),
            "duplicates": len(self.duplicates),
            "rejects": len(self.rejects),
            "skipped": self.skipped,
            "shards": sum(bool(record["samples"]) for record in self.records),
            "bytes": sum(record["bytes"] for record in self.records),
            "reasons": dict(sorted(Counter(r["reason_class"] for r in self.rejects).items())),
        }


def close_books(books: Books, dataset: str) -> None:
    """Check that every input has an outcome (G1).

    Raises:
        BooksError: it has not.
    """
    counted = len(books.written) + len(books.duplicates) + len(books.rejects) + books.skipped
    if counted != books.inputs:
        raise BooksError(
            f"{dataset}: {books.inputs} raw files went in, but written {len(books.written)} + "
            "duplicates "
            f"{len(books.duplicates)} + rejects {len(books.rejects)} + skipped {books.skipped} = "
            f"{counted}. "
            "Nothing was committed; run the ingest again, and report this if it stays."
        )


def write_part(
    store: Store, dataset: str, part: str, spec: IngestSpec, books: Books, heldout_below: int
) -> Snapshot:
    """Write manifest, rejects and inputs of a part, then commit the snapshot that names it."""
    folder = part_path(dataset, part)
    records = [record for record in books.records if record["samples"]]
    rows = [
        {**row, "shard": record["shard"], "row": place}
        for record in records
        for place, row in enumerate(record["rows"])
    ]
    manifest = write_table(
        store, f"{folder}/manifest.parquet", pa.Table.from_pylist(rows, MANIFEST_SCHEMA)
    )
    rejected = write_table(
        store,
        f"{folder}/rejects.parquet",
        pa.Table.from_pylist(list(books.rejects), REJECTS_SCHEMA),
    )
    write_table(store, f"{folder}/inputs.parquet", _inputs_table(books))
    summary = books.summary()
    entry = PartEntry(
        part=part,
        samples=summary["samples"],
        shards=[
            {"name": shard_name(r["shard"]), **{k: r[k] for k in ("samples", "bytes", "sha256")}}
            for r in records
        ],
        bytes=summary["bytes"],
        inputs=books.inputs - books.skipped,
        written=summary["written"],
        duplicates=summary["duplicates"],
        rejects=summary["rejects"],
        manifest_sha256=manifest,
        rejects_sha256=rejected,
        spec=spec.to_json(),
        stats=_statistics(books),
    )
    settings = {
        "heldout_below": str(heldout_below),
        "modality": spec.modality,
        "channels": _common_channels(rows),
    }
    return commit_part(store, dataset, entry, settings)


def _common_channels(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the channel names that all samples share, in their order; none where they differ."""
    found = {tuple(json.loads(row["metadata"]).get("channels") or ()) for row in rows}
    return list(found.pop()) if len(found) == 1 else []


def _inputs_table(books: Books) -> pa.Table:
    rows = [
        {"uri": u, "content_hash": h, "outcome": "written", "detail": ""} for u, h in books.written
    ]
    rows += [
        {"uri": u, "content_hash": h, "outcome": "duplicate", "detail": f"of {first}"}
        for u, h, first in books.duplicates
    ]
    rows += [
        {
            "uri": r["uri"],
            "content_hash": r["content_hash"],
            "outcome": "rejected",
            "detail": r["reason_class"],
        }
        for r in books.rejects
    ]
    return pa.Table.from_pylist(rows, INPUTS_SCHEMA)


def _statistics(books: Books) -> dict[str, Any]:
    moments = Moments.empty()
    sizes: Counter[str] = Counter()
    splits: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for record in books.records:
        moments = moments.merge(Moments.from_json(record["moments"]))
        sizes.update("x".join(map(str, row["shape"])) for row in record["rows"])
        splits.update(row["split"] for row in record["rows"])
        labels.update(row["label"] for row in record["rows"])
    return {
        "moments": moments.to_json(),
        "shapes": dict(sorted(sizes.items())),
        "splits": dict(sorted(splits.items())),
        "labels": dict(labels.most_common(MOST_LABELS)),
    }
