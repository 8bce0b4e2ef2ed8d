"""Columns of a dataset: what is missing is computed shard by shard, what is there is told and left
alone.

A part of a column exists when its `index.parquet` does; that is written after all of its sidecar
shards, each of
which was written whole with its own record. Two derives of one column write the same bytes, so
they cannot harm
each other.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from pipelines.catalog import open_snapshot
from pipelines.column_codec import EXT, pack_array
from pipelines.executors import Executor, run_jobs
from pipelines.keys import sample_id
from pipelines.plan import Progress
from pipelines.producers import PRODUCERS, Stored, column_spec
from preprocessing.errors import DecodeError
from storage.columns import ColumnSpec, column_path, list_columns, part_state, write_column_spec
from storage.fingerprint import canonical_json
from storage.fs import Store
from storage.manifest import INDEX_SCHEMA, read_table, write_table
from storage.shards import ShardReader, pack_sidecar
from storage.snapshots import PartEntry, Snapshot, part_path


@dataclass(frozen=True, slots=True)
class SidecarJob:
    """One sidecar shard to write."""

    store: str
    dataset: str
    part: str
    manifest_sha256: str
    shard: str
    position: int
    "of the shard in the part, which is what the manifest calls it"
    spec: ColumnSpec


def write_sidecar(job: SidecarJob) -> dict[str, Any]:
    """Compute one sidecar shard, write it and then its record; a shard with a record is left
    alone."""
    store = Store(job.store)
    folder = f"{column_path(job.dataset, job.spec.column, job.spec.fingerprint)}/{job.part}"
    record_at = f"{folder}/records/{job.shard.removesuffix('.tar')}.json"
    if store.exists(record_at):
        record: dict[str, Any] = json.loads(store.read(record_at))
        return {**record, "seconds": 0.0, "computed": 0}
    began = time.process_time()
    rows = _shard_rows(store, job)
    items = [(row["key"], pack_array(_compute(job, row, blob))) for row, blob in rows]
    data, places = pack_sidecar(job.spec.column, EXT, items)
    record = {"rows": [list(place) for place in places], "bytes": len(data), "samples": len(items)}
    store.write(f"{folder}/{job.shard}", data)
    store.write(record_at, canonical_json(record))
    return {**record, "seconds": time.process_time() - began, "computed": len(items)}


def _shard_rows(store: Store, job: SidecarJob) -> list[tuple[dict[str, Any], bytes]]:
    """Return the manifest rows of a shard with their verified payloads."""
    folder = part_path(job.dataset, job.part)
    table = read_table(store, f"{folder}/manifest.parquet", job.manifest_sha256)
    rows = table.filter(pa.compute.equal(table["shard"], job.position)).to_pylist()
    reader = ShardReader(store, f"{folder}/{job.shard}", f"{job.dataset}/{job.part}/{job.shard}")
    try:
        return [
            (row, reader.read(row["offset"], row["size"], row["checksum"], row["key"]))
            for row in rows
        ]
    finally:
        reader.close()


def _compute(job: SidecarJob, row: dict[str, Any], payload: bytes) -> Any:
    metadata = json.loads(row["metadata"])
    stored = Stored(sample_id(row["key"]), row["ext"], payload, metadata)
    try:
        return PRODUCERS[job.spec.producer].compute(stored, job.spec.parameters)
    except (ValueError, DecodeError) as error:
        raise ValueError(
            f"derive {job.spec.column} of {job.dataset}/{job.shard}, sample {row['key']}: {error}"
        ) from error


def derive(
    store: Store,
    dataset: str,
    columns: Mapping[str, dict[str, Any]],
    executor: Executor,
    *,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Compute the missing parts of columns.

    Args:
        columns: the parameters asked of each column; what is not named has the producer's default.

    Returns:
        For each column: fingerprint, computed and reused (samples), seconds (CPU), bytes, workers.

    Raises:
        FileNotFoundError: no such dataset.
        ValueError: an unknown column or parameter, or a column that this modality cannot have.
    """
    snapshot = open_snapshot(store, dataset)
    specs = {name: column_spec(name, parameters) for name, parameters in columns.items()}
    modality = str(snapshot.settings["modality"])
    for name in specs:
        if modality not in PRODUCERS[name].modalities:
            able = [column for column, p in PRODUCERS.items() if modality in p.modalities]
            raise ValueError(
                f"derive {name} of {dataset}: {name} needs "
                f"{' or '.join(PRODUCERS[name].modalities)} samples, "
                f"{dataset} holds {modality} samples. Columns for these: {', '.join(able)}."
            )
    return {
        name: _derive_column(store, snapshot, spec, executor, progress)
        for name, spec in specs.items()
    }


def _derive_column(
    store: Store,
    snapshot: Snapshot,
    spec: ColumnSpec,
    executor: Executor,
    progress: Progress | None,
) -> dict[str, Any]:
    missing = [
        p for p in snapshot.parts if part_state(store, snapshot.dataset, spec, p.part) == "missing"
    ]
    done = {p.part for p in snapshot.parts} - {p.part for p in missing}
    result = {
        "fingerprint": spec.fingerprint,
        "computed": 0,
        "reused": sum(p.samples for p in snapshot.parts if p.part in done),
        "seconds": 0.0,
        "bytes": 0,
        "workers": [],
    }
    if not missing:
        return result
    write_column_spec(store, snapshot.dataset, spec)
    for entry in missing:
        _derive_part(store, snapshot.dataset, entry, spec, executor, result, progress)
    result["seconds"] = round(result["seconds"], 3)
    return result


def _derive_part(
    store: Store,
    dataset: str,
    entry: PartEntry,
    spec: ColumnSpec,
    executor: Executor,
    result: dict[str, Any],
    progress: Progress | None,
) -> None:
    folder = f"{column_path(dataset, spec.column, spec.fingerprint)}/{entry.part}"
    store.delete_abandoned(folder)
    jobs = [
        SidecarJob(
            store.uri,
            dataset,
            entry.part,
            entry.manifest_sha256,
            shard["name"],
            position,
            spec,
        )
        for position, shard in enumerate(entry.shards)
    ]
    records: list[dict[str, Any]] = [{} for _ in jobs]
    for done, (index, record, process) in enumerate(run_jobs(write_sidecar, jobs, executor), 1):
        records[index] = record
        result["computed"] += record["computed"]
        result["reused"] += record["samples"] - record["computed"]
        result["seconds"] += record["seconds"]
        result["bytes"] += record["bytes"]
        result["workers"] = sorted({*result["workers"], process})
        if progress:
            progress(f"derive {spec.column}", done, len(jobs))
    rows = [
        {
            "key": key,
            "shard": job.position,
            "row": row,
            "offset": offset,
            "size": size,
            "checksum": digest,
        }
        for job, record in zip(jobs, records, strict=True)
        for row, (key, offset, size, digest) in enumerate(record["rows"])
    ]
    write_table(store, f"{folder}/index.parquet", pa.Table.from_pylist(rows, INDEX_SCHEMA))


def why(
    store: Store, dataset: str, column: str, parameters: dict[str, Any]
) -> list[dict[str, Any]]:
    """Explain, a line a part, whether a column with these parameters is there, and if not what
    differs."""
    snapshot = open_snapshot(store, dataset)
    wanted = column_spec(column, parameters)
    others = [spec for spec in list_columns(store, dataset) if spec.column == column]
    lines = []
    for entry in snapshot.parts:
        state = part_state(store, dataset, wanted, entry.part)
        there = [s for s in others if part_state(store, dataset, s, entry.part) == "complete"]
        reason = "complete" if state == "complete" else _differences(wanted, there)
        lines.append({"part": entry.part, "state": state, "reason": reason})
    return lines


def _differences(wanted: ColumnSpec, others: Sequence[ColumnSpec]) -> str:
    if not others:
        return f"no column {wanted.column} was derived for this part"
    return "; ".join(f"{other.fingerprint[:8]} has {difference(wanted, other)}" for other in others)


def difference(wanted: ColumnSpec, other: ColumnSpec) -> str:
    """Say in words how another column differs from the wanted one."""
    left, right = asdict(wanted), asdict(other)
    words = [
        f"{name} {right[name]!r}, wanted {left[name]!r}"
        for name in ("producer", "version")
        if left[name] != right[name]
    ]
    names = sorted({*wanted.parameters, *other.parameters})
    words += [
        f"{name} {other.parameters.get(name)!r}, wanted {wanted.parameters.get(name)!r}"
        for name in names
        if wanted.parameters.get(name) != other.parameters.get(name)
    ]
    return ", ".join(words) or "the same settings"
