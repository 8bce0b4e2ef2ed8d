"""Raw files to a new part and snapshot: planned from the inputs alone, written shard by shard,
committed last.

The plan (units, their order, their cut into shards, the part's name) is a function of the raw
bytes and the
spec, so an ingest that was killed finds its finished shards by their records and ends in the same
bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from pipelines.books import Books, close_books, known_inputs, write_part
from pipelines.encode import encode_unit
from pipelines.executors import Executor, run_jobs
from pipelines.grouping import Reject, Unit, group_files
from pipelines.ingest_spec import IngestSpec
from pipelines.keys import sample_key
from pipelines.sources import RawFile, list_source, read_files
from preprocessing.errors import DecodeError
from preprocessing.statistics import Moments
from storage.fingerprint import canonical_json, fingerprint, sha256_hex
from storage.fs import Store
from storage.shards import Sample, pack_shard
from storage.snapshots import Snapshot, check_name, part_path, read_snapshot, shard_name

HASH_BLOCK_BYTES = 64 * 2**20
Progress = Callable[[str, int, int], None]
"Called with (what, done, total)."


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit with the hashes of its bytes."""

    unit: Unit
    hashes: tuple[str, ...]

    @property
    def content_hash(self) -> str:
        """What makes the unit a duplicate of another: its bytes, and which channel each file is."""
        if len(self.hashes) == 1 and not self.unit.channels:
            return self.hashes[0]
        return fingerprint(dict(zip(self.unit.channels, self.hashes, strict=True)))


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


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What an ingest will do: a pure function of its inputs, its spec and the snapshot it adds
    to."""

    dataset: str
    part: str
    spec: IngestSpec
    chunks: tuple[tuple[PlannedUnit, ...], ...]
    rejects: tuple[Reject, ...]
    duplicates: tuple[tuple[PlannedUnit, str], ...]
    "units whose content is in the dataset already, each with where"
    skipped: int
    inputs: int
    heldout_below: int


def _hash_files(files: tuple[RawFile, ...]) -> list[str | None]:
    """Return the SHA-256 of each file's bytes; None for a file that a list names and nobody has."""
    present = [file for file in files if file.size >= 0]
    found = {file.uri: sha256_hex(data) for file, data in read_files(present)}
    return [found.get(file.uri) for file in files]


def _blocks(files: Sequence[RawFile]) -> list[tuple[RawFile, ...]]:
    """Cut a list of files into runs of about equal bytes; members of one tar stay together."""
    blocks: list[list[RawFile]] = []
    size = HASH_BLOCK_BYTES
    for file in files:
        same_tar = bool(blocks) and bool(file.member) and blocks[-1][-1].name == file.name
        if (size >= HASH_BLOCK_BYTES or len(blocks[-1]) >= 4096) and not same_tar:
            blocks.append([])
            size = 0
        blocks[-1].append(file)
        size += max(file.size, 0)
    return [tuple(block) for block in blocks]


def _cut(units: Sequence[PlannedUnit], shard_size: int) -> tuple[tuple[PlannedUnit, ...], ...]:
    """Cut the units into shards of about `shard_size` raw bytes."""
    chunks: list[list[PlannedUnit]] = []
    size = shard_size
    for unit in units:
        if size >= shard_size:
            chunks.append([])
            size = 0
        chunks[-1].append(unit)
        size += sum(file.size for file in unit.unit.files)
    return tuple(tuple(chunk) for chunk in chunks)


def group_of(planned: PlannedUnit) -> str:
    """Return what must not be split between training and held-out data: the video, the well, the
    scene."""
    fields = planned.unit.fields
    well = [f"{name}={fields[name]}" for name in ("plate", "well", "scene") if fields.get(name)]
    return ",".join(well) or planned.content_hash


def group_hash(group: str) -> int:
    """Return the place of a group on the line from 0 to 2^53 that the held-out share cuts."""
    return int(fingerprint(group)[:13], 16) * 2


def _heldout_below(units: Sequence[PlannedUnit], spec: IngestSpec, current: Snapshot | None) -> int:
    """Return the cut below which groups are held out; a dataset keeps the cut of its first part.

    The share of a small first part can fall on no group at all; then its lowest group is held out,
    so that
    there is a held-out loss from the beginning.
    """
    if current is not None:
        return int(str(current.settings["heldout_below"]))
    groups = sorted({group_hash(group_of(unit)) for unit in units})
    below = int(spec.heldout * 2**53)
    if spec.heldout and len(groups) > 1 and groups[0] >= below:
        return groups[0] + 1
    return below


def plan_ingest(
    store: Store,
    sources: Sequence[str],
    dataset: str,
    spec: IngestSpec,
    executor: Executor,
    *,
    retry_rejects: bool = False,
    progress: Progress | None = None,
) -> IngestPlan:
    """List, hash, group and cut the raw files of the sources.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a bad dataset name or pattern.
    """
    check_name(dataset)
    files = [file for source in sources for file in list_source(source, labels=spec.labels)]
    files = list({file.uri: file for file in files}.values())
    hashes = _hash_all(files, executor, progress)
    current = read_snapshot(store, dataset)
    known = known_inputs(store, current, retry_rejects=retry_rejects)
    fresh = [file for file in files if (file.uri, hashes[file.uri] or "") not in known.files]
    units, rejects = group_files(fresh, spec.pattern, spec.channels)
    missing = [
        Reject(file.uri, "decode_error", "listed, but there is no such file")
        for file in fresh
        if hashes[file.uri] is None
    ]
    gone = {reject.uri for reject in missing}
    rejects = [replace(r, content_hash=hashes[r.uri] or "") for r in rejects if r.uri not in gone]
    planned = [
        PlannedUnit(unit, tuple(str(hashes[file.uri]) for file in unit.files))
        for unit in units
        if not gone & {file.uri for file in unit.files}
    ]
    unique, duplicates = _split_duplicates(planned, known.units)
    total = sum(file.size for unit in unique for file in unit.unit.files)
    heldout_below = _heldout_below(unique, spec, current)
    content = [[unit.content_hash, unit.unit.files[0].path] for unit in unique]
    named = {"spec": spec.to_json(), "units": content, "heldout_below": heldout_below}
    named["others"] = [[r.uri, r.reason_class] for r in rejects + missing]
    named["duplicates"] = [unit.content_hash for unit, _ in duplicates]
    return IngestPlan(
        dataset=dataset,
        part=fingerprint(named)[:16],
        spec=spec,
        chunks=_cut(unique, spec.shard_bytes(total)),
        rejects=tuple(rejects + missing),
        duplicates=tuple(duplicates),
        skipped=len(files) - len(fresh),
        inputs=len(files),
        heldout_below=heldout_below,
    )


def _hash_all(
    files: Sequence[RawFile], executor: Executor, progress: Progress | None
) -> dict[str, str | None]:
    blocks = _blocks(files)
    hashes: dict[str, str | None] = {}
    for index, result, _ in run_jobs(_hash_files, blocks, executor):
        hashes.update(zip((file.uri for file in blocks[index]), result, strict=True))
        if progress:
            progress("hash files", len(hashes), len(files))
    return hashes


def _split_duplicates(
    planned: Sequence[PlannedUnit], known: dict[str, str]
) -> tuple[list[PlannedUnit], list[tuple[PlannedUnit, str]]]:
    """Separate the units whose content comes for the first time from those that repeat it."""
    seen = dict(known)
    unique, duplicates = [], []
    for unit in planned:
        first = seen.setdefault(unit.content_hash, unit.unit.files[0].uri)
        if first != unit.unit.files[0].uri or unit.content_hash in known:
            duplicates.append((unit, first))
        else:
            unique.append(unit)
    return unique, duplicates


def record_path(part: str, shard: int) -> str:
    """Return the path of the record that says a shard is complete."""
    return f"{part}/records/{shard_name(shard).removesuffix('.tar')}.json"


def write_chunk(job: ShardJob) -> dict[str, object]:
    """Write one shard and, after it, its record; a shard that has its record already is not
    written again."""
    store = Store(job.store)
    record_at, shard_at = record_path(job.part, job.shard), f"{job.part}/{shard_name(job.shard)}"
    if store.exists(record_at):
        record: dict[str, object] = json.loads(store.read(record_at))
        if not record["bytes"] or (
            store.exists(shard_at) and store.size(shard_at) == record["bytes"]
        ):
            return {**record, "reused": True}
    samples, rows, outcomes, rejects = [], [], [], []
    moments = Moments.empty()
    for planned, blobs in _read_units(job.units):
        uris = [file.uri for file in planned.unit.files]
        try:
            _check_unchanged(planned, blobs)
            new = list(encode_unit(planned.unit, blobs, job.spec))
        except DecodeError as error:
            rejects += [
                asdict(Reject(uri, error.reason_class, error.detail, digest, len(blob)))
                for uri, digest, blob in zip(uris, planned.hashes, blobs, strict=True)
            ]
            continue
        group = group_of(planned)
        split = "heldout" if group_hash(group) < job.heldout_below else "train"
        for index, sample in enumerate(new):
            metadata = {**sample.metadata, "label": planned.unit.files[0].label}
            key = sample_key(planned.unit, planned.content_hash, index)
            encoded = sample.encoded
            samples.append(Sample(key, encoded.ext, encoded.payload, metadata))
            moments = moments.merge(sample.moments)
            rows.append(
                {
                    "shape": list(encoded.shape),
                    "dtype": encoded.dtype,
                    "source": uris[0],
                    "content_hash": planned.content_hash,
                    "group": group,
                    "split": split,
                    "label": planned.unit.files[0].label,
                    "score": sample.score,
                    "metadata": canonical_json(metadata).decode(),
                }
            )
        outcomes += [[uri, digest] for uri, digest in zip(uris, planned.hashes, strict=True)]
    data, places = pack_shard(samples) if samples else (b"", [])
    record = {
        "shard": job.shard,
        "samples": len(samples),
        "bytes": len(data),
        "sha256": sha256_hex(data),
        "rows": [{**asdict(place), **row} for place, row in zip(places, rows, strict=True)],
        "written": outcomes,
        "rejects": rejects,
        "moments": moments.to_json(),
    }
    if samples:
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
