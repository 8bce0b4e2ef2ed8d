"""What is lost or damaged is made again from its recorded sources, byte for byte, or stays named.

Every file is made apart, compared with the SHA-256 in the snapshot, and only then written, whole:
so a repair can be killed at any moment and run again, and never makes anything worse.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.books import DUPLICATES, DUPLICATES_SCHEMA, REFUSED, Books, tables_of
from pipelines.chunks import ShardJob, write_chunk
from pipelines.executors import Executor, run_jobs
from pipelines.grouping import Unit
from pipelines.hashing import content_hash, stamp
from pipelines.plan import IngestPlan, PlannedUnit
from pipelines.progress import Progress
from pipelines.raw import RawFile
from pipelines.repair_columns import repair_columns
from pipelines.replan import RepairError, plan_again, spec_of
from pipelines.verify import file_hashes, record_of, verify
from storage.fingerprint import sha256_hex
from storage.fs import Store, StoreError
from storage.manifest import REJECTS_SCHEMA, write_table
from storage.snapshots import (
    PartEntry,
    Snapshot,
    part_path,
    read_snapshot,
    snapshot_path,
)
from storage.writers import writing

TABLES = ("manifest", "rejects", "inputs")


@dataclass(frozen=True, slots=True)
class ChunkRepair:
    """A chunk to write again, apart, and the files of it that are wanted."""

    job: ShardJob
    wanted: tuple[tuple[str, str], ...]
    "(path below the store, SHA-256)"


@dataclass(slots=True)
class _Part:
    """A part in need of repair."""

    store: Store
    snapshot: Snapshot
    entry: PartEntry
    wrong: set[str]
    "paths of its damaged files"
    executor: Executor
    progress: Progress | None
    reasons: dict[str, str] = field(default_factory=dict)
    "why a file could not be made again"
    plan: IngestPlan | RepairError | None = None

    @property
    def folder(self) -> str:
        return part_path(self.snapshot.dataset, self.entry.part)

    def planned(self) -> IngestPlan:
        """Return the part's plan, made again once.

        Raises:
            RepairError: it cannot be.
        """
        if self.plan is None:
            try:
                self.plan = plan_again(
                    self.store, self.snapshot, self.entry, self.executor, self.progress
                )
            except RepairError as error:
                self.plan = error
        if isinstance(self.plan, RepairError):
            raise self.plan
        return self.plan


def repair(
    store: Store,
    dataset: str,
    executor: Executor | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check a dataset and make again what is lost or damaged.

    Returns:
        As `verify`: samples, damaged (what still is, with the reason why it could not be made
        again) and repaired (paths of the files that were made again).

    Raises:
        FileNotFoundError: no such dataset.
        SnapshotError: the newest snapshot is damaged: nothing says what should be there.
    """
    executor = executor or Executor()
    found = verify(store, dataset, executor, progress=progress)
    store.delete_abandoned(f"datasets/{dataset}")  # of a repair that was killed
    if not found["damaged"]:
        return found
    snapshot = read_snapshot(store, dataset)
    assert snapshot is not None  # verify has read it
    wrong = {entry["where"] for entry in found["damaged"]}
    _repair_snapshots(store, snapshot, wrong)
    reasons: dict[str, str] = {}
    for entry in snapshot.parts:
        part = _Part(store, snapshot, entry, wrong, executor, progress)
        part.wrong = {path for path in wrong if path.startswith(f"{part.folder}/")}
        if part.wrong:
            with writing(store, part.folder):
                _repair_part(part)
            reasons.update(part.reasons)
    reasons.update(repair_columns(store, snapshot, wrong, executor))
    after = verify(store, dataset, executor, progress=progress)
    left = {entry["where"] for entry in after["damaged"]}
    for entry in after["damaged"]:
        if entry["where"] in reasons:
            entry["detail"] += f". Not made again: {reasons[entry['where']]}"
    return {**after, "repaired": sorted(wrong - left)}


def _repair_snapshots(store: Store, newest: Snapshot, wrong: set[str]) -> None:
    """Write older snapshots again: each has one part more than the one before it."""
    for number in range(1, newest.number):
        path = snapshot_path(newest.dataset, number)
        if path in wrong and len(newest.parts) == newest.number:
            older = Snapshot(newest.dataset, number, newest.parts[:number], newest.settings)
            store.write(path, older.to_json())


def _repair_part(part: _Part) -> None:
    """Make records and shards again, then the tables, which are made from the records."""
    hashes = dict(file_hashes(part.folder, part.entry))
    shards = {f"{part.folder}/{shard['name']}": shard["sha256"] for shard in part.entry.shards}
    chunks: dict[str, list[tuple[str, str]]] = {}
    for path in sorted(part.wrong):
        if path in shards:
            record = record_of(part.folder, path.rpartition("/")[2])
            chunks.setdefault(record, []).append((path, shards[path]))
        elif path in hashes and "/records/shard-" in path:
            chunks.setdefault(path, []).append((path, hashes[path]))
    _repair_chunks(part, chunks)
    for name, schema in ((DUPLICATES, DUPLICATES_SCHEMA), (REFUSED, REJECTS_SCHEMA)):
        path = f"{part.folder}/records/{name}"
        if path in part.wrong and path in hashes:
            _make(
                part, {path: hashes[path]}, lambda s, n=name, c=schema: _plan_record(part, s, n, c)
            )
    tables = {f"{part.folder}/{name}.parquet" for name in TABLES} & part.wrong & hashes.keys()
    if tables:
        wanted = {path: hashes[path] for path in sorted(tables)}
        _make(part, wanted, lambda scratch: _tables(part, scratch))


def _repair_chunks(part: _Part, chunks: dict[str, list[tuple[str, str]]]) -> None:
    jobs = []
    for record, wanted in chunks.items():
        try:
            jobs.append(ChunkRepair(_job(part, record), tuple(wanted)))
        except RepairError as error:
            part.reasons.update(dict.fromkeys((path for path, _ in wanted), str(error)))
    for done, (_, reasons, _) in enumerate(run_jobs(write_again, jobs, part.executor), 1):
        part.reasons.update(reasons)
        if part.progress:
            part.progress("make shards again", done, len(jobs))


def _job(part: _Part, record_at: str) -> ShardJob:
    """Return the job that wrote a chunk: from its record, or from a plan made again.

    Raises:
        RepairError: the record is lost, and its sources do not give the part any more.
    """
    chunk = int(record_at.rpartition("-")[2].removesuffix(".json"))
    spec, below = spec_of(part.entry), int(part.snapshot.settings["heldout_below"])
    if record_at not in part.wrong:
        record = json.loads(part.store.read(record_at))
        units = tuple(_unit(unit) for unit in record["units"])
        size = record["shard_bytes"]
    else:
        plan = part.planned()
        units, size = plan.chunk(chunk), spec.overflow_bytes(plan.shard_bytes)
    return ShardJob(part.store.uri, part.folder, chunk, units, spec, below, size)


def _unit(recorded: dict[str, Any]) -> PlannedUnit:
    files = tuple(RawFile(**file) for file in recorded["files"])
    unit = Unit(files, tuple(recorded["channels"]), recorded["fields"])
    return PlannedUnit(unit, tuple(recorded["hashes"]), (0,) * len(files))


def write_again(repair_job: ChunkRepair) -> dict[str, str]:
    """Write a chunk apart and take the files that are wanted and have the right bytes.

    Returns:
        For each path that could not be made again, why.
    """
    job = repair_job.job
    try:
        units = tuple(_unchanged(planned) for planned in job.units)
        with tempfile.TemporaryDirectory(prefix="headrace-") as scratch:
            write_chunk(replace(job, store=scratch, units=units))
            return _take(Store(job.store), Store(scratch), dict(repair_job.wanted))
    except (RepairError, StoreError, OSError, RuntimeError) as error:
        return dict.fromkeys((path for path, _ in repair_job.wanted), str(error))


def _unchanged(planned: PlannedUnit) -> PlannedUnit:
    """Return a unit with the times that its files have now, whose bytes are those of then.

    Raises:
        RepairError: a file is gone or holds other bytes.
    """
    for file, digest in zip(planned.unit.files, planned.hashes, strict=True):
        try:
            found = content_hash(file)
        except (FileNotFoundError, PermissionError) as error:
            raise RepairError(
                f"its source {file.uri} cannot be read ({error.strerror or error}). Bring it back."
            ) from error
        if found != digest:
            raise RepairError(
                f"its source {file.uri} has changed: SHA-256 {found[:12]}, was {digest[:12]}. "
                "Bring it back as it was."
            )
    return replace(planned, stamps=tuple(stamp(file) for file in planned.unit.files))


def _take(store: Store, scratch: Store, wanted: dict[str, str]) -> dict[str, str]:
    """Move the files that have the right bytes into the store; returns why others are not taken."""
    reasons = {}
    for path, sha256 in wanted.items():
        try:
            data = scratch.read(path)
        except FileNotFoundError:
            reasons[path] = "its sources do not give it any more"
            continue
        if sha256_hex(data) != sha256:
            reasons[path] = (
                f"its sources give other bytes now (SHA-256 {sha256_hex(data)[:12]}, committed "
                f"{sha256[:12]}). Compare the versions of the decoders with 'headrace doctor'"
            )
            continue
        store.write(path, data)
    return reasons


def _make(part: _Part, wanted: dict[str, str], write: Callable[[Store], None]) -> None:
    """Let files be written apart, and take those that have the right bytes."""
    with tempfile.TemporaryDirectory(prefix="headrace-") as folder:
        try:
            write(Store(folder))
            part.reasons.update(_take(part.store, Store(folder), wanted))
        except (RepairError, StoreError, OSError, RuntimeError, ValueError, KeyError) as error:
            part.reasons.update(dict.fromkeys(wanted, str(error)))


def _plan_record(part: _Part, scratch: Store, name: str, schema: Any) -> None:
    plan = part.planned()
    table = plan.duplicates if name == DUPLICATES else plan.rejects.select(schema.names)
    write_table(scratch, f"{part.folder}/records/{name}", table.cast(schema))


def _tables(part: _Part, scratch: Store) -> None:
    """Write the tables of a part from its records, each of which must be sound."""
    records = {
        path: sha256 for path, sha256 in file_hashes(part.folder, part.entry) if "/records/" in path
    }
    for path, sha256 in records.items():
        if sha256_hex(part.store.read(path)) != sha256:
            raise RepairError(f"the record {path} that it is made from is damaged")
    chunks = sum(path.endswith(".json") for path in records)
    tables = tables_of(part.store, part.folder, chunks, Books(part.entry.inputs), {})
    for name in TABLES:
        getattr(tables, name).write(scratch, f"{part.folder}/{name}.parquet")
