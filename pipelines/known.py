"""What a dataset has taken in already: so that an ingest takes only what is new."""

from __future__ import annotations

from dataclasses import dataclass

from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import Snapshot, part_path


@dataclass(frozen=True, slots=True)
class KnownInputs:
    """What the parts of a dataset have already taken in."""

    files: frozenset[tuple[str, str]]
    "(uri, content hash) of raw files with an outcome"
    units: dict[str, str]
    "content hash of each written unit, and where it came from"


def known_inputs(store: Store, snapshot: Snapshot | None, *, retry_rejects: bool) -> KnownInputs:
    """Read which raw files the parts of a snapshot have; rejected ones count as new when they are
    retried."""
    files: set[tuple[str, str]] = set()
    units: dict[str, str] = {}
    for entry in snapshot.parts if snapshot else ():
        folder = part_path(snapshot.dataset, entry.part)  # type: ignore[union-attr]
        for row in read_table(store, f"{folder}/inputs.parquet").to_pylist():
            if not (retry_rejects and row["outcome"] == "rejected"):
                files.add((row["uri"], row["content_hash"]))
        manifest = read_table(
            store,
            f"{folder}/manifest.parquet",
            entry.manifest_sha256,
            columns=["content_hash", "source"],
        )
        units.update(
            zip(*(manifest[name].to_pylist() for name in ("content_hash", "source")), strict=True)
        )
    return KnownInputs(frozenset(files), units)
