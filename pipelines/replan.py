"""The plan of a part that is there already, made again from its sources: for records that are lost.

A part is named after everything that determines its bytes, so the plan that was carried out is
known when it is found.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pyarrow as pa
from pyarrow import compute

from pipelines.executors import Executor
from pipelines.hashing import hash_inputs
from pipelines.ingest_spec import ENCODER_VERSION, IngestSpec
from pipelines.known import identity, known_inputs
from pipelines.listing import list_sources
from pipelines.plan import IngestPlan, Task, plan_files
from pipelines.progress import Progress
from storage.fs import Store
from storage.manifest import ManifestError, read_table
from storage.snapshots import PartEntry, Snapshot, part_path


class RepairError(RuntimeError):
    """Something that is lost cannot be made again; says why."""


def spec_of(entry: PartEntry) -> IngestSpec:
    """Return what the ingest of a part was asked to do.

    Raises:
        RepairError: it was encoded by another version, which gives other bytes.
    """
    if entry.spec["encoder"] != ENCODER_VERSION:
        raise RepairError(
            f"part {entry.part} was written by encoder version {entry.spec['encoder']}, this is "
            f"version {ENCODER_VERSION} and would give other bytes. Use the version that wrote it."
        )
    names = {field.name for field in fields(IngestSpec)}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in entry.spec.items()
        if name in names
    }
    return IngestSpec(**values)


def plan_again(
    store: Store,
    snapshot: Snapshot,
    entry: PartEntry,
    executor: Executor,
    progress: Progress | None = None,
) -> IngestPlan:
    """Return the plan that gave a part.

    Raises:
        RepairError: its sources are gone, or hold other bytes than they did.
    """
    spec, sources = spec_of(entry), tuple(entry.spec["sources"])
    try:
        listing = list_sources(sources, labels=spec.labels)
    except (OSError, ValueError) as error:
        raise RepairError(f"its sources cannot be listed: {error}") from error
    had = _inputs_of(store, snapshot.dataset, entry)
    if had is not None:
        listing = listing.filter(compute.is_in(listing["uri"], value_set=had["uri"]))
    files = hash_inputs(listing, executor, progress)
    if had is not None:
        missing = _missing(had, files)
        if missing:
            raise RepairError(
                f"{len(missing)} of its {len(had)} raw files are gone or changed, such as "
                f"{missing[0]}. Bring them back as they were."
            )
    for base in _bases(snapshot, entry):
        known = known_inputs(store, base)
        mine = files if had is not None else files.filter(compute.invert(known.knows(files)))
        for retry in (False, True):
            task = Task(snapshot.dataset, spec, sources, base, retry, len(mine))
            plan = plan_files(mine.combine_chunks(), known, task)
            if plan.part == entry.part:
                return plan
    raise RepairError(
        f"its sources, {', '.join(sources)}, do not give this part any more: they hold other files "
        "than when they were ingested."
    )


def _inputs_of(store: Store, dataset: str, entry: PartEntry) -> pa.Table | None:
    """Return uri and content_hash of the raw files of a part; None if that table is lost too."""
    path = f"{part_path(dataset, entry.part)}/inputs.parquet"
    try:
        columns = ["uri", "content_hash"]
        return read_table(store, path, entry.inputs_sha256, columns).combine_chunks()
    except ManifestError:
        return None


def _missing(had: pa.Table, files: pa.Table) -> list[str]:
    """Return the uris of files that are not there with the same bytes."""
    there = compute.is_in(identity(had), value_set=identity(files).combine_chunks())
    missing: list[str] = had["uri"].filter(compute.invert(there)).to_pylist()
    return missing


def _bases(snapshot: Snapshot, entry: PartEntry) -> list[Snapshot | None]:
    """Return the snapshots that the part may have been planned on, the likeliest first."""
    before = [part.part for part in snapshot.parts].index(entry.part)
    shorter = [replace(snapshot, parts=snapshot.parts[:size]) for size in range(before, 0, -1)]
    return [*shorter, None]
