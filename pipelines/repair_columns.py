"""Columns that are lost or damaged: derived again, shard by shard, as their index says."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass

import pyarrow as pa

from pipelines.column_codec import EXT, pack_array
from pipelines.executors import Executor, run_jobs
from pipelines.sidecars import SidecarJob, check_tables, compute_shard, sidecar_record
from pipelines.verify import ColumnPart, check_index, column_parts
from storage.columns import ColumnError, ColumnSpec, column_path, list_columns
from storage.fingerprint import canonical_json
from storage.fs import Store
from storage.manifest import INDEX_SCHEMA, ManifestError, write_table
from storage.shards import ShardError, pack_sidecar, sidecar_places
from storage.snapshots import Snapshot
from storage.streaming import TableFile
from storage.writers import writing

PASSES = 3
"A column may be made from another one that has to be made again first."


Places = list[tuple[str, int, int, int]]
"(key, offset, size, checksum) of each member of a sidecar."


@dataclass(frozen=True, slots=True)
class SidecarRepair:
    """A sidecar that may have to be computed again."""

    job: SidecarJob
    folder: str
    index: str
    "path of the index that says what it must hold; empty where that is lost"


def repair_columns(
    store: Store, snapshot: Snapshot, wrong: set[str], executor: Executor
) -> dict[str, str]:
    """Make the damaged files of columns again.

    Args:
        wrong: paths of damaged files.

    Returns:
        For each path that could not be made again, why.
    """
    if not any("/columns/" in path for path in wrong):
        return {}
    specs = _repair_specs(store, snapshot.dataset)
    reasons = dict[str, str]()
    for _ in range(PASSES):
        before, reasons = reasons, {}
        for spec in specs:
            for part in column_parts(store, snapshot, spec):
                mine = {path for path in wrong if path.startswith(f"{part.folder}/")}
                if mine:
                    with writing(store, part.folder):
                        reasons.update(_repair_part(store, snapshot.dataset, part, mine, executor))
        if not reasons or reasons == before:
            break
    return reasons


def _repair_specs(store: Store, dataset: str) -> list[ColumnSpec]:
    """Return the columns of a dataset, having written damaged `column.json` again from what the
    records of sidecars say."""
    while True:
        try:
            return list_columns(store, dataset)
        except ColumnError as error:
            path = str(error).partition(": ")[0]
            spec = _recorded_spec(store, dataset, path.rpartition("/")[0])
            if spec is None:
                return []
            store.write(path, spec.to_json())


def _recorded_spec(store: Store, dataset: str, folder: str) -> ColumnSpec | None:
    """Return what some record says of its column, if it is this folder's."""
    for entry in store.list(folder):
        if "/records/" in entry.path:
            with suppress(ValueError, KeyError, TypeError):
                spec = ColumnSpec(**json.loads(store.read(entry.path))["column"])
                if column_path(dataset, spec.column, spec.fingerprint) == folder:
                    return spec
    return None


def _repair_part(
    store: Store, dataset: str, part: ColumnPart, wrong: set[str], executor: Executor
) -> dict[str, str]:
    """Make the sidecars, records and index of a part of a column again; returns what failed."""
    lost_index = bool(check_index(store, dataset, part))
    jobs = [
        SidecarRepair(job, part.folder, "" if lost_index else part.index)
        for job in _jobs(store, dataset, part)
        if lost_index or {f"{part.folder}/{job.shard}", part.record(job.shard)} & wrong
    ]
    reasons: dict[str, str] = {}
    try:
        if jobs:
            check_tables(store, jobs[0].job)
    except (ManifestError, OSError) as error:
        return dict.fromkeys(wrong, str(error))
    found: list[Places] = [[] for _ in jobs]
    for index, (places, reason), _ in run_jobs(sidecar_again, jobs, executor):
        found[index] = places
        if reason:
            shard = jobs[index].job.shard
            both = {f"{part.folder}/{shard}", part.record(shard)}
            reasons.update(dict.fromkeys(both & wrong, reason))
            if lost_index:
                reasons[part.index] = f"{shard}: {reason}"
    if lost_index and not reasons:
        _write_index(store, part, found)
    return reasons


def _jobs(store: Store, dataset: str, part: ColumnPart) -> list[SidecarJob]:
    entry = part.entry
    return [
        SidecarJob(
            store.uri,
            dataset,
            entry.part,
            entry.manifest_sha256,
            shard["name"],
            position,
            part.spec,
        )
        for position, shard in enumerate(entry.shards)
    ]


def sidecar_again(repair: SidecarRepair) -> tuple[Places, str]:
    """Make a sidecar and its record again unless they are sound.

    Returns:
        The places of its members, and why it could not be made; one of them is empty.
    """
    job, store = repair.job, Store(repair.job.store)
    path = f"{repair.folder}/{job.shard}"
    record_at = f"{repair.folder}/records/{job.shard.removesuffix('.tar')}.json"
    try:
        wanted = _wanted(store, repair, record_at)
        data = _sound(store, path, wanted)
        if data is None:
            items = [(key, pack_array(array)) for key, array in compute_shard(store, job)]
            data, places = pack_sidecar(job.spec.column, EXT, items)
            if repair.index and places != wanted:
                return [], "derived again it has other values than those of its index"
            store.write(path, data)
        places = sidecar_places(data, path)
        record = canonical_json(sidecar_record(job.spec, data, places))
        if not store.exists(record_at) or store.read(record_at) != record:
            store.write(record_at, record)
    except (ManifestError, ShardError, OSError, ValueError) as error:
        return [], str(error)
    return places, ""


def _wanted(store: Store, repair: SidecarRepair, record_at: str) -> Places | None:
    """Return the places that a sidecar must have: by the index, or by its record."""
    if repair.index:
        with TableFile(store, repair.index) as table:
            rows = table.rows_of_shard(
                repair.job.position, ("key", "offset", "size", "checksum")
            ).to_pylist()
        return [(row["key"], row["offset"], row["size"], row["checksum"]) for row in rows]
    with suppress(FileNotFoundError, ValueError, KeyError, TypeError):
        return [tuple(row) for row in json.loads(store.read(record_at))["rows"]]
    return None


def _sound(store: Store, path: str, wanted: Places | None) -> bytes | None:
    """Return the bytes of a sidecar that is as it must be."""
    with suppress(FileNotFoundError, ShardError):
        data = store.read(path)
        if sidecar_places(data, path) == wanted:
            return data
    return None


def _write_index(store: Store, part: ColumnPart, found: list[Places]) -> None:
    """Write the index of a part, as `derive` does."""
    names = ("key", "offset", "size", "checksum")
    rows = [
        {"shard": position, "row": row, **dict(zip(names, place, strict=True))}
        for position, places in enumerate(found)
        for row, place in enumerate(places)
    ]
    table = pa.Table.from_pylist(rows, INDEX_SCHEMA)
    write_table(store, part.index, table, of=part.spec.fingerprint)
