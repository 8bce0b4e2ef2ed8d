"""One job of an ingest: the units of a chunk become a shard, or several, and a record.

The record is written last and says everything that became of the units, so a chunk with a record
is done. Memory is bounded by a shard's payloads, whatever a unit holds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from pipelines.encode import NewSample, encode_unit
from pipelines.hashing import source_hash, stamp
from pipelines.ingest_spec import IngestSpec
from pipelines.keys import sample_key
from pipelines.plan import PlannedUnit, group_hash, group_of
from pipelines.raw import SMALL_BYTES, RawFile, opened
from preprocessing.errors import DecodeError
from preprocessing.source import Source
from preprocessing.statistics import ByChannels, apart, apart_to_json, merge_apart
from storage.fingerprint import canonical_json, sha256_hex
from storage.fs import Store
from storage.shards import Row, Sample, pack_shard
from storage.snapshots import shard_name

MOST_SAMPLES = 16_384
"Samples of a shard at most."


@dataclass(frozen=True, slots=True)
class ShardJob:
    """A chunk to write: everything a worker needs."""

    store: str
    part: str
    "path of the part below the store"
    chunk: int
    units: tuple[PlannedUnit, ...]
    spec: IngestSpec
    heldout_below: int
    shard_bytes: int
    "payload bytes after which the next shard begins"


def record_path(part: str, chunk: int) -> str:
    """Return the path of the record that says a chunk is complete."""
    return f"{part}/records/shard-{chunk:06d}.json"


def read_record(store: Store, part: str, chunk: int) -> dict[str, Any]:
    """Return the record of a chunk."""
    record: dict[str, Any] = json.loads(store.read(record_path(part, chunk)))
    return record


def write_chunk(job: ShardJob) -> dict[str, Any]:
    """Write a chunk's shards and, after them, its record; a chunk that is done stays as it is.

    Returns:
        samples, bytes, rejects and reused (whether it was done).
    """
    store = Store(job.store)
    record = _done(store, job)
    reused = record is not None
    if record is None:
        record = _write(store, job)
    return {
        "samples": sum(shard["samples"] for shard in record["shards"]),
        "bytes": sum(shard["bytes"] for shard in record["shards"]),
        "rejects": len(record["rejects"]),
        "reused": reused,
    }


def _done(store: Store, job: ShardJob) -> dict[str, Any] | None:
    """Return the record of a chunk whose shards are all there."""
    try:
        record = read_record(store, job.part, job.chunk)
        whole = all(
            store.size(f"{job.part}/{shard['name']}") == shard["bytes"]
            for shard in record["shards"]
        )
    except FileNotFoundError:
        return None
    return record if whole else None


def _write(store: Store, job: ShardJob) -> dict[str, Any]:
    """Encode and write; a unit that fails after some of its samples were written begins anew."""
    refused: dict[int, DecodeError] = {}
    while True:
        writer = _ChunkWriter(store, job)
        late = _encode_all(writer, job, refused)
        if late is None:
            break
        writer.remove()
        refused.update([late])
    record = writer.finish()
    store.write(record_path(job.part, job.chunk), canonical_json(record))
    return record


def _encode_all(
    writer: _ChunkWriter, job: ShardJob, refused: dict[int, DecodeError]
) -> tuple[int, DecodeError] | None:
    """Give every unit's samples to the writer; returns a unit whose samples must be taken back."""
    for place, planned in enumerate(job.units):
        if place in refused:
            writer.reject(planned, refused[place])
            continue
        writer.begin()
        try:
            for index, sample in enumerate(_encoded(planned, job.spec)):
                writer.add(planned, index, sample)
        except DecodeError as error:
            if not writer.forget():
                return place, error
            writer.reject(planned, error)
        else:
            writer.accept(planned)
    return None


def _encoded(planned: PlannedUnit, spec: IngestSpec) -> Iterator[NewSample]:
    """Yield a unit's samples, with its files open and checked to be those that were planned."""
    with ExitStack() as stack:
        sources = []
        for file, digest, changed in zip(
            planned.unit.files, planned.hashes, planned.stamps, strict=True
        ):
            try:
                source = stack.enter_context(opened(file))
            except FileNotFoundError as error:
                raise _changed(file) from error
            _check_unchanged(file, source, digest, changed)
            sources.append(source)
        yield from encode_unit(planned.unit, sources, spec)
        for file, changed in zip(planned.unit.files, planned.stamps, strict=True):
            _check_stamp(file, changed)


def _check_unchanged(file: RawFile, source: Any, digest: str, changed: int) -> None:
    """Compare a small file's bytes, a large one's time."""
    if isinstance(source, Source) and len(source) <= SMALL_BYTES:
        if source_hash(source) != digest:
            raise _changed(file)
    else:
        _check_stamp(file, changed)


def _check_stamp(file: RawFile, changed: int) -> None:
    if file.size > SMALL_BYTES and stamp(file) != changed:
        raise _changed(file)


def _changed(file: RawFile) -> RuntimeError:
    return RuntimeError(
        f"{file.uri}: changed while the ingest ran. Wait until it is complete, then ingest again."
    )


@dataclass(slots=True)
class _Open:
    """What the shard holds that is being filled."""

    samples: list[Sample] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0


class _ChunkWriter:
    """Collects samples into shards, writes each when it is full, and keeps the books of a chunk."""

    def __init__(self, store: Store, job: ShardJob) -> None:
        self.store, self.job = store, job
        self.shards: list[dict[str, Any]] = []
        self.open = _Open()
        self.moments: ByChannels = {}
        self.units: list[dict[str, Any]] = []
        self.rejects: list[dict[str, Any]] = []
        self.begin()

    def begin(self) -> None:
        """Remember where a unit begins, so that it can be taken back."""
        self.mark = len(self.shards), len(self.open.samples), self.open.size, self.moments

    def forget(self) -> bool:
        """Take back the samples since `begin`; False if some of them are in a written shard."""
        shards, samples, size, moments = self.mark
        if shards != len(self.shards):
            return False
        del self.open.samples[samples:], self.open.rows[samples:]
        self.open.size, self.moments = size, moments
        return True

    def add(self, planned: PlannedUnit, index: int, new: NewSample) -> None:
        """Take a sample of a unit."""
        job, encoded, first = self.job, new.encoded, planned.unit.files[0]
        full = self.open.size >= job.shard_bytes or len(self.open.samples) >= MOST_SAMPLES
        if full:
            self._write_shard()
        group = group_of(planned.unit.fields, planned.content_hash)
        metadata = {**first.metadata, **new.metadata, "label": first.label}
        key = sample_key(planned.unit, planned.content_hash, index)
        self.open.samples.append(Sample(key, encoded.ext, encoded.payload, metadata))
        self.open.size += len(encoded.payload)
        self.moments = merge_apart(self.moments, apart(new.moments))
        self.open.rows.append(
            {
                "source": first.uri,
                "content_hash": planned.content_hash,
                "group": group,
                "split": "heldout" if group_hash(group) < job.heldout_below else "train",
                "label": first.label,
                "shape": list(encoded.shape),
                "dtype": encoded.dtype,
                "score": new.score,
                "metadata": canonical_json(metadata).decode(),
            }
        )

    def accept(self, planned: PlannedUnit) -> None:
        """Enter the files of a unit that gave samples."""
        self.units.append(unit_record(planned))

    def reject(self, planned: PlannedUnit, error: DecodeError) -> None:
        """Refuse all files of a unit for one cause."""
        self.rejects += [
            {
                "uri": file.uri,
                "reason_class": error.reason_class,
                "detail": error.detail,
                "content_hash": digest,
                "size": file.size,
            }
            for file, digest in zip(planned.unit.files, planned.hashes, strict=True)
        ]
        self.units.append({**unit_record(planned), "refused": True})

    def _write_shard(self) -> None:
        data, places = pack_shard(self.open.samples)
        name = shard_name(self.job.chunk, len(self.shards))
        rows = [
            {**_fields(place), **row} for place, row in zip(places, self.open.rows, strict=True)
        ]
        self.shards.append(
            {
                "name": name,
                "samples": len(rows),
                "bytes": len(data),
                "sha256": sha256_hex(data),
                "rows": rows,
            }
        )
        self.open = _Open()
        self.store.write(f"{self.job.part}/{name}", data)

    def remove(self) -> None:
        """Remove the shards that were written."""
        for shard in self.shards:
            self.store.delete(f"{self.job.part}/{shard['name']}")

    def finish(self) -> dict[str, Any]:
        """Write the last shard; returns the record."""
        if self.open.samples:
            self._write_shard()
        rows = [row for shard in self.shards for row in shard["rows"]]
        return {
            "chunk": self.job.chunk,
            "shard_bytes": self.job.shard_bytes,
            "shards": self.shards,
            "units": self.units,
            "rejects": self.rejects,
            "moments": apart_to_json(self.moments),
            "shapes": dict(Counter("x".join(map(str, row["shape"])) for row in rows)),
        }


def unit_record(planned: PlannedUnit) -> dict[str, Any]:
    """Return what a record keeps of a unit: enough to write its samples again."""
    unit = planned.unit
    return {
        "files": [_fields(file) for file in unit.files],
        "channels": list(unit.channels),
        "fields": unit.fields,
        "hashes": list(planned.hashes),
    }


def _fields(value: Row | RawFile) -> dict[str, Any]:
    """Return what `asdict` does of a flat dataclass, without its copies."""
    return {name: getattr(value, name) for name in value.__slots__}
