"""Raw files to a new part and snapshot: planned, written shard by shard, committed last.

The plan is a function of the inputs alone, so a killed ingest finds its finished shards by
their records and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.books import Books, close_books, write_part
from pipelines.encode import NewSample, encode_unit
from pipelines.executors import Executor, run_jobs
from pipelines.grouping import Reject
from pipelines.ingest_spec import IngestSpec
from pipelines.keys import sample_key
from pipelines.plan import (
    IngestPlan,
    PlannedUnit,
    Progress,
    group_hash,
    group_of,
    plan_ingest,
)
from pipelines.sources import read_files
from preprocessing.errors import DecodeError
from preprocessing.source import as_source
from preprocessing.statistics import Moments
from storage.fingerprint import canonical_json, sha256_hex
from storage.fs import Store
from storage.shards import Sample, pack_shard
from storage.snapshots import part_path, read_snapshot, shard_name


@dataclass(frozen=True, slots=True)
class ShardJob:
    """One shard to write: everything a worker needs."""

    store: str
    part: str
    "path of the part below the store"
    shard: int
    units: tuple[PlannedUnit, ...]
    spec: IngestSpec
    heldout_below: int


@dataclass(slots=True)
class _Outcomes:
    """What became of the units of one shard."""

    samples: list[Sample] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    written: list[list[str]] = field(default_factory=list)
    rejects: list[dict[str, Any]] = field(default_factory=list)
    moments: Moments = field(default_factory=Moments.empty)

    def write(self, planned: PlannedUnit, new: Sequence[NewSample], heldout_below: int) -> None:
        """Take the samples of a unit."""
        group, first = group_of(planned), planned.unit.files[0]
        about = {
            "source": first.uri,
            "content_hash": planned.content_hash,
            "group": group,
            "split": "heldout" if group_hash(group) < heldout_below else "train",
            "label": first.label,
        }
        for index, sample in enumerate(new):
            encoded, metadata = sample.encoded, {**sample.metadata, "label": first.label}
            key = sample_key(planned.unit, planned.content_hash, index)
            self.samples.append(Sample(key, encoded.ext, encoded.payload, metadata))
            self.moments = self.moments.merge(sample.moments)
            shown = {"shape": list(encoded.shape), "dtype": encoded.dtype, "score": sample.score}
            self.rows.append({**about, **shown, "metadata": canonical_json(metadata).decode()})
        pairs = zip(planned.unit.files, planned.hashes, strict=True)
        self.written += [[file.uri, digest] for file, digest in pairs]

    def reject(self, planned: PlannedUnit, sizes: Sequence[int], error: DecodeError) -> None:
        """Refuse all files of a unit for one cause."""
        reason = error.reason_class, error.detail
        self.rejects += [
            asdict(Reject(file.uri, *reason, digest, size))
            for file, digest, size in zip(planned.unit.files, planned.hashes, sizes, strict=True)
        ]


def record_path(part: str, shard: int) -> str:
    """Return the path of the record that says a shard is complete."""
    return f"{part}/records/{shard_name(shard).removesuffix('.tar')}.json"


def write_chunk(job: ShardJob) -> dict[str, Any]:
    """Write one shard and, after it, its record; a shard that has its record already is not
    written again."""
    store = Store(job.store)
    record_at, shard_at = record_path(job.part, job.shard), f"{job.part}/{shard_name(job.shard)}"
    if store.exists(record_at):
        record: dict[str, Any] = json.loads(store.read(record_at))
        whole = store.exists(shard_at) and store.size(shard_at) == record["bytes"]
        if whole or not record["bytes"]:
            return {**record, "reused": True}
    done = _Outcomes()
    for planned, blobs in _read_units(job.units):
        _check_unchanged(planned, blobs)
        try:
            new = list(encode_unit(planned.unit, [as_source(blob) for blob in blobs], job.spec))
        except DecodeError as error:
            done.reject(planned, [len(blob) for blob in blobs], error)
        else:
            done.write(planned, new, job.heldout_below)
    data, places = pack_shard(done.samples) if done.samples else (b"", [])
    record = {
        "shard": job.shard,
        "samples": len(done.samples),
        "bytes": len(data),
        "sha256": sha256_hex(data),
        "rows": [{**asdict(place), **row} for place, row in zip(places, done.rows, strict=True)],
        "written": done.written,
        "rejects": done.rejects,
        "moments": done.moments.to_json(),
    }
    if done.samples:
        store.write(shard_at, data)
    store.write(record_at, canonical_json(record))
    return record


def _read_units(units: Sequence[PlannedUnit]) -> Iterator[tuple[PlannedUnit, list[bytes]]]:
    """Yield each unit with the bytes of its files, opening each tar once."""
    stream = read_files([file for unit in units for file in unit.unit.files])
    for unit in units:
        yield unit, [next(stream)[1] for _ in unit.unit.files]


def _check_unchanged(planned: PlannedUnit, blobs: Sequence[bytes]) -> None:
    for file, digest, blob in zip(planned.unit.files, planned.hashes, blobs, strict=True):
        if sha256_hex(blob) != digest:
            raise RuntimeError(
                f"{file.uri}: changed while the ingest ran. Wait until it is complete, then "
                "ingest again."
            )


def ingest(
    store: Store,
    sources: Sequence[str],
    dataset: str,
    spec: IngestSpec,
    executor: Executor,
    *,
    retry_rejects: bool = False,
    progress: Progress | None = None,
) -> dict[str, object]:
    """Turn raw files into a new part and snapshot of a dataset.

    Returns:
        dataset, snapshot, fingerprint, inputs, written, samples, duplicates, rejects, skipped,
        shards, bytes,
        reasons (rejects by class), workers (ids of the processes that wrote shards) and reused
        (shards found
        complete from an earlier, interrupted ingest).

    Raises:
        BooksError: inputs are not written + duplicates + rejects + skipped.
    """
    plan = plan_ingest(
        store, sources, dataset, spec, executor, retry_rejects=retry_rejects, progress=progress
    )
    if not plan.chunks and not plan.duplicates and not plan.rejects:
        return _nothing_new(store, plan)
    part = part_path(dataset, plan.part)
    store.delete_abandoned(part)
    jobs = [
        ShardJob(store.uri, part, index, chunk, spec, plan.heldout_below)
        for index, chunk in enumerate(plan.chunks)
    ]
    records: list[dict[str, object]] = [{} for _ in jobs]
    workers = set()
    for done, (index, record, process) in enumerate(run_jobs(write_chunk, jobs, executor), 1):
        records[index] = record
        workers.add(process)
        if progress:
            progress("write shards", done, len(jobs))
    books = Books.of(plan.inputs, plan.skipped, records, plan.rejects, plan.duplicates)
    close_books(books, dataset)
    snapshot = write_part(store, plan.dataset, plan.part, spec, books, plan.heldout_below)
    return {
        **books.summary(),
        "dataset": dataset,
        "snapshot": snapshot.number,
        "fingerprint": snapshot.fingerprint,
        "workers": sorted(workers),
        "reused": sum(bool(record.get("reused")) for record in records),
    }


def _nothing_new(store: Store, plan: IngestPlan) -> dict[str, object]:
    current = read_snapshot(store, plan.dataset)
    empty = Books.of(plan.inputs, plan.skipped, [], (), ())
    close_books(empty, plan.dataset)
    return {
        **empty.summary(),
        "dataset": plan.dataset,
        "snapshot": current.number if current else 0,
        "fingerprint": current.fingerprint if current else "",
        "workers": [],
        "reused": 0,
    }
