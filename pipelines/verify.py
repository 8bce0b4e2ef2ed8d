"""Every byte of a dataset against its snapshot: what is damaged is named by shard and sample.

A snapshot keeps the SHA-256 of every file of its parts, so a sound file is read once, in pieces,
and no table is held in memory. Columns have an index with digests of its own; their sidecars are
compared with it byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from pipelines.artefacts import ArtefactError, artefact_path, read_artefact
from pipelines.catalog import open_snapshot
from pipelines.checks import Damage, FileCheck, ShardCheck, SidecarCheck, check, damage
from pipelines.executors import Executor, run_jobs
from pipelines.progress import Progress
from storage.columns import ColumnError, ColumnSpec, column_path, list_columns
from storage.fs import Store, StoreError
from storage.manifest import ManifestError
from storage.snapshots import (
    PartEntry,
    Snapshot,
    SnapshotError,
    part_path,
    read_snapshot,
    snapshot_path,
)
from storage.streaming import TableFile

Check = FileCheck | ShardCheck | SidecarCheck


def verify(
    store: Store,
    dataset: str,
    executor: Executor | None = None,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check tables, records, shards, every member and every column of a dataset.

    Returns:
        samples (checked), damaged (a list of {where, sample, detail}) and repaired (empty).

    Raises:
        FileNotFoundError: no such dataset.
        SnapshotError: the snapshot itself is damaged.
    """
    snapshot = open_snapshot(store, dataset)
    damaged, jobs = _plan_columns(store, snapshot)
    damaged += _older_snapshots(store, snapshot)
    for entry in snapshot.parts:
        jobs += part_checks(store, dataset, entry)
        damaged += _extra_files(store, dataset, entry)
    found: list[list[Damage]] = [[] for _ in jobs]
    running = run_jobs(check, jobs, _in_threads(executor or Executor()))
    for done, (index, result, _) in enumerate(running, 1):
        found[index] = result
        if progress:
            progress("verify files", done, len(jobs))
    damaged += [entry for result in found for entry in result]
    damaged.sort(key=lambda entry: (entry["where"], entry["sample"]))
    samples = sum(entry.samples for entry in snapshot.parts)
    return {"samples": samples, "damaged": damaged, "repaired": []}


def _in_threads(executor: Executor) -> Executor:
    """Hashing leaves Python's lock, so threads do where processes would have to start first."""
    return replace(executor, kind="threads") if executor.kind == "direct" else executor


def _older_snapshots(store: Store, newest: Snapshot) -> list[Damage]:
    """Return the earlier snapshots that are damaged, missing, or no beginning of the newest."""
    found = []
    for number in range(1, newest.number):
        path = snapshot_path(newest.dataset, number)
        try:
            older = read_snapshot(store, newest.dataset, number)
        except (SnapshotError, StoreError) as error:
            found.append(damage(path, error))
            continue
        if older is None:
            found.append(damage(path, "is missing"))
        elif older.parts != newest.parts[: len(older.parts)]:
            found.append(damage(path, "names parts that the newest snapshot does not"))
    return found


def part_checks(store: Store, dataset: str, entry: PartEntry) -> list[Check]:
    """Return the checks of the files that a snapshot names in a part."""
    folder = part_path(dataset, entry.part)
    return [
        *(FileCheck(store.uri, path, sha) for path, sha in sorted(file_hashes(folder, entry))),
        *(
            ShardCheck(
                store.uri,
                f"{folder}/{shard['name']}",
                shard["sha256"],
                shard["samples"],
                position,
                f"{folder}/manifest.parquet",
                record_of(folder, shard["name"]),
            )
            for position, shard in enumerate(entry.shards)
        ),
    ]


def record_of(folder: str, shard: str) -> str:
    """Return the path of the record of the chunk that a shard belongs to."""
    return f"{folder}/records/{'-'.join(shard.removesuffix('.tar').split('-')[:2])}.json"


def file_hashes(folder: str, entry: PartEntry) -> Iterator[tuple[str, str]]:
    """Yield (path, SHA-256) of the tables and records that a snapshot names in a part."""
    yield f"{folder}/manifest.parquet", entry.manifest_sha256
    yield f"{folder}/rejects.parquet", entry.rejects_sha256
    yield f"{folder}/inputs.parquet", entry.inputs_sha256
    for name, sha256 in entry.records.items():
        yield f"{folder}/records/{name}", sha256


def _extra_files(store: Store, dataset: str, entry: PartEntry) -> list[Damage]:
    """Return the files in a part that its snapshot does not name."""
    folder = part_path(dataset, entry.part)
    named = {path for path, _ in file_hashes(folder, entry)}
    named |= {f"{folder}/{shard['name']}" for shard in entry.shards}
    return _unnamed(store, folder, named)


def _unnamed(store: Store, folder: str, named: set[str]) -> list[Damage]:
    return [
        damage(found.path, "nothing names this file; 'headrace gc' removes it")
        for found in store.list(folder)
        if found.path not in named
    ]


@dataclass(frozen=True, slots=True)
class ColumnPart:
    """A part of a column."""

    spec: ColumnSpec
    entry: PartEntry
    folder: str

    @property
    def index(self) -> str:
        """The path of its index."""
        return f"{self.folder}/index.parquet"

    @property
    def files(self) -> set[str]:
        """The paths of all files that it has."""
        names = [shard["name"] for shard in self.entry.shards]
        return {
            self.index,
            *(f"{self.folder}/{name}" for name in names),
            *(self.record(name) for name in names),
        }

    def record(self, shard: str) -> str:
        """Return the path of the record of a sidecar."""
        return f"{self.folder}/records/{shard.removesuffix('.tar')}.json"


def column_parts(store: Store, snapshot: Snapshot, spec: ColumnSpec) -> list[ColumnPart]:
    """Return the parts that a column has: those with an index, and those that lost it."""
    above = column_path(snapshot.dataset, spec.column, spec.fingerprint)
    parts = [ColumnPart(spec, entry, f"{above}/{entry.part}") for entry in snapshot.parts]
    return [
        part
        for part in parts
        if store.exists(part.index)
        or (
            part.entry.shards
            and all(store.exists(part.record(shard["name"])) for shard in part.entry.shards)
        )
    ]


def _plan_columns(store: Store, snapshot: Snapshot) -> tuple[list[Damage], list[Check]]:
    """Return what is wrong with records and indexes of columns, and the checks of sidecars."""
    damaged: list[Damage] = []
    jobs: list[Check] = []
    specs: list[ColumnSpec] = []
    dataset = snapshot.dataset
    try:
        specs = list_columns(store, dataset)
    except ColumnError as error:
        damaged.append(damage(str(error).partition(": ")[0], error))
    for spec in specs:
        try:
            read_artefact(store, dataset, spec)
        except FileNotFoundError:
            lost = f"is missing; remove the column's folder and derive {spec.column} again"
            damaged.append(damage(artefact_path(dataset, spec), lost))
        except (ArtefactError, OSError) as error:
            damaged.append(damage(artefact_path(dataset, spec), error))
        for part in column_parts(store, snapshot, spec):
            wrong = check_index(store, snapshot.dataset, part)
            damaged += wrong + _unnamed(store, part.folder, part.files)
            jobs += [] if wrong else _sidecar_checks(store, part)
    return damaged, jobs


def check_index(store: Store, dataset: str, part: ColumnPart) -> list[Damage]:
    """Compare an index with its own digests, and its keys with those of the part."""
    try:
        with TableFile(store, part.index) as index:
            index.check()
            if index.of != part.spec.fingerprint:
                detail = f"is of column {index.of[:16] or 'nothing'}: it was moved here"
                return [damage(part.index, detail)]
            path = f"{part_path(dataset, part.entry.part)}/manifest.parquet"
            same = _has_keys_of(store, path, index)
    except (ManifestError, StoreError) as error:
        return [damage(part.index, error)]
    if same:
        return []
    detail = f"its index holds {index.rows} keys that are not the part's {part.entry.samples}"
    return [damage(part.index, f"{detail}, in order")]


def _has_keys_of(store: Store, manifest: str, index: TableFile) -> bool:
    """Compare the digests of keys and places; True where the manifest cannot say."""
    try:
        with TableFile(store, manifest) as table:
            names = ("key", "shard", "row")
            return all(table.digests[name] == index.digests.get(name) for name in names)
    except ManifestError:
        return True  # the damage of the manifest is reported by itself


def _sidecar_checks(store: Store, part: ColumnPart) -> list[Check]:
    return [
        SidecarCheck(
            store.uri,
            f"{part.folder}/{shard['name']}",
            position,
            part.index,
            part.record(shard["name"]),
            part.spec.fingerprint,
        )
        for position, shard in enumerate(part.entry.shards)
    ]
