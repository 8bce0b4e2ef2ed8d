"""The plan of an ingest: which raw files make which samples, in which shards.

A pure function of the raw bytes, the spec and the snapshot that is added to: whoever plans,
wherever and however often, plans the same. It is held in columns: some bytes a file, no object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute

from pipelines.executors import Executor
from pipelines.grouping import Refusal, Unit, Units, group_paths
from pipelines.hashing import hash_inputs
from pipelines.ingest_spec import IngestSpec
from pipelines.known import KnownInputs, known_inputs
from pipelines.listing import first_places, list_sources, raw_files
from pipelines.progress import Progress
from storage.fingerprint import fingerprint
from storage.fs import Store
from storage.snapshots import Snapshot, check_name, read_snapshot

__all__ = ["IngestPlan", "PlannedUnit", "Progress", "group_hash", "group_of", "plan_ingest"]

_LINES = 1 << 14
MAX_CHUNK_UNITS = 4096
"Units of a shard at most: its records stay small however small the files are."


@dataclass(frozen=True, slots=True)
class PlannedUnit:
    """A unit with the hashes of its bytes, and when its files were changed last."""

    unit: Unit
    hashes: tuple[str, ...]
    stamps: tuple[int, ...] = ()

    @property
    def content_hash(self) -> str:
        """What makes the unit a duplicate of another."""
        return unit_hash(self.unit.channels, self.hashes)


def unit_hash(channels: Sequence[str], hashes: Sequence[str]) -> str:
    """Return what a unit is by content: its bytes, and which channel each file is."""
    if len(hashes) == 1 and not channels:
        return hashes[0]
    return fingerprint(dict(zip(channels, hashes, strict=True)))


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """What an ingest will do."""

    dataset: str
    part: str
    spec: IngestSpec
    sources: tuple[str, ...]
    base: Snapshot | None
    "the snapshot that is added to"
    files: pa.Table
    "the inputs that no part has: the listing's columns, uri, content_hash and stamp"
    units: Units
    "rows of `files`"
    starts: NDArray[np.int64]
    "the first unit of each chunk, and the number of units"
    duplicates: pa.Table
    "uri, content_hash and first (the uri that has the same content) of files that come again"
    rejects: pa.Table
    "uri, content_hash, size, reason_class and detail of files that fit no unit"
    skipped: int
    inputs: int
    heldout_below: int
    retry: bool
    "all files were refused when they came last"
    shard_bytes: int
    "raw bytes of a chunk, more or less"

    @property
    def chunks(self) -> int:
        """How many jobs the plan is cut into: a shard each, or several where samples are large."""
        return len(self.starts) - 1

    def chunk(self, index: int) -> tuple[PlannedUnit, ...]:
        """Return the units of a chunk."""
        places = np.arange(self.starts[index], self.starts[index + 1])
        units = self.units.take(places)
        rows = self.files.take(units.rows.reshape(-1))
        files, width = raw_files(rows), units.rows.shape[1]
        hashes, stamps = rows["content_hash"].to_pylist(), rows["stamp"].to_pylist()
        return tuple(
            PlannedUnit(
                Unit(tuple(files[span]), units.channels, units.fields[i] if units.fields else {}),
                tuple(hashes[span]),
                tuple(stamps[span]),
            )
            for i, span in enumerate(slice(j * width, (j + 1) * width) for j in range(len(units)))
        )


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

    Args:
        sources: where raw files are; with `retry_rejects` none means those of the parts.
        retry_rejects: take only what was refused when it came last.

    Raises:
        FileNotFoundError: a source does not exist.
        ValueError: a bad dataset name or pattern, or a dataset of another modality.
    """
    base = _check_dataset(store, dataset, spec)
    if retry_rejects and not sources:
        sources = _recorded_sources(base)
    files = list_sources(sources, labels=spec.labels)
    known = known_inputs(store, base)
    if retry_rejects:
        files = files.filter(known.was_refused(files))
    files = hash_inputs(files, executor, progress)
    task = Task(dataset, spec, tuple(sources), base, retry_rejects, len(files))
    if not retry_rejects and base is not None:
        files = files.filter(compute.invert(known.knows(files)))
    files = files.combine_chunks()  # lets go of the chunks before they are planned
    return plan_files(files, known, task)


@dataclass(frozen=True, slots=True)
class Task:
    """What an ingest was asked for."""

    dataset: str
    spec: IngestSpec
    sources: tuple[str, ...]
    base: Snapshot | None
    retry: bool
    inputs: int


def plan_files(files: pa.Table, known: KnownInputs, task: Task) -> IngestPlan:
    """Plan files that are listed, hashed and new to the dataset."""
    spec = task.spec
    units, rejects = group_inputs(files, spec)
    hashes = _unit_hashes(files, units)
    unique, repeated, first = _split_duplicates(files, units, hashes, known)
    units = units.take(unique)
    hashes = hashes.take(unique)
    below = _heldout_below(units, hashes, spec, task.base)
    sizes = files["size"].to_numpy()[units.rows].sum(axis=1)
    shard_bytes = spec.shard_bytes(int(sizes.sum()))
    plan = IngestPlan(
        dataset=task.dataset,
        part="",
        spec=spec,
        sources=task.sources,
        base=task.base,
        files=files,
        units=units,
        starts=cut_chunks(sizes, shard_bytes),
        duplicates=_duplicates_table(files, repeated, first),
        rejects=rejects,
        skipped=task.inputs - len(files),
        inputs=task.inputs,
        heldout_below=below,
        retry=task.retry,
        shard_bytes=shard_bytes,
    )
    return _named(plan, hashes)


def _named(plan: IngestPlan, hashes: pa.Array) -> IngestPlan:
    """Give a plan the name of its part: a fingerprint of everything that determines its bytes."""
    content = hashlib.sha256()
    told = plan.files.select(["name", "member", "label", "extra"])
    for start in range(0, len(hashes), _LINES):
        first = told.take(plan.units.rows[start : start + _LINES, 0])
        columns = hashes.slice(start, _LINES), _paths(first), first["label"], first["extra"]
        lines = compute.binary_join_element_wise(*columns, "\0").to_pylist()
        content.update("".join(f"{line}\n" for line in lines).encode())
    for table, names in ((plan.duplicates, ("uri",)), (plan.rejects, ("uri", "reason_class"))):
        for row in table.select(names).to_pylist():
            content.update(f"{row}\n".encode())
    determined = {
        "spec": plan.spec.to_json(),
        "content": content.hexdigest(),
        "heldout_below": str(plan.heldout_below),
        "again": [entry.part for entry in plan.base.parts] if plan.retry and plan.base else [],
    }
    return replace(plan, part=fingerprint(determined)[:16])


def _check_dataset(store: Store, dataset: str, spec: IngestSpec) -> Snapshot | None:
    """Return the snapshot that is added to, if there is one."""
    current = read_snapshot(store, check_name(dataset))
    if current is not None and current.settings["modality"] != spec.modality:
        raise ValueError(
            f"dataset {dataset!r}: holds {current.settings['modality']} samples, --modality is "
            f"{spec.modality}. A dataset has one modality; choose another --dataset."
        )
    return current


def _recorded_sources(base: Snapshot | None) -> tuple[str, ...]:
    """Return the sources that the parts of a snapshot came from."""
    parts = base.parts if base else ()
    return tuple(dict.fromkeys(source for part in parts for source in part.spec["sources"]))


def _paths(files: pa.Table) -> pa.Array:
    """Return the path of each file below its source."""
    member = files["member"]
    paths = compute.if_else(compute.equal(member, ""), files["name"], member)
    return pa.chunked_array(paths.chunks, pa.string()).combine_chunks()


def group_inputs(files: pa.Table, spec: IngestSpec) -> tuple[Units, pa.Table]:
    """Return the units of the files that can be read, and what is refused already."""
    readable = compute.equal(files["problem"], "").to_numpy()
    sound = np.flatnonzero(readable)
    refused = []
    for row in np.flatnonzero(~readable):
        reason, _, detail = files["problem"][int(row)].as_py().partition(": ")
        refused.append(Refusal(int(row), reason, detail))
    if spec.pattern:
        paths = _paths(files.take(sound)).to_pylist()
        units, more = group_paths(paths, sound, spec.pattern, spec.expected_channels)
        refused += more
    else:
        units = Units(sound.reshape(-1, 1))
    rows = files.take(np.array([refusal.row for refusal in refused], np.int64))
    return units, rows.select(["uri", "content_hash", "size"]).append_column(
        "reason_class", pa.array([refusal.reason_class for refusal in refused], pa.string())
    ).append_column("detail", pa.array([refusal.detail for refusal in refused], pa.string()))


def _unit_hashes(files: pa.Table, units: Units) -> pa.Array:
    hashes = files["content_hash"].combine_chunks().take(units.rows.reshape(-1))
    if not units.channels:
        return hashes
    width = units.rows.shape[1]
    each = (hashes[i : i + width].to_pylist() for i in range(0, len(hashes), width))
    return pa.array([unit_hash(units.channels, some) for some in each], pa.string())


def _split_duplicates(
    files: pa.Table, units: Units, hashes: pa.Array, known: KnownInputs
) -> tuple[NDArray[np.int64], NDArray[np.int64], pa.Array]:
    """Separate the units whose content comes for the first time from those that repeat it.

    Returns:
        Places of the first ones, rows of the files of the others, and for each of these files the
        uri that has its content.
    """
    seen = known.sources_of(hashes)
    new = np.flatnonzero(seen.is_null().to_numpy(zero_copy_only=False))
    unique = np.intersect1d(first_places(pa.chunked_array([hashes])), new)
    repeated = np.setdiff1d(np.arange(len(units)), unique)
    if not len(repeated):
        return unique, repeated, pa.array([], pa.string())
    owners = compute.index_in(hashes.take(repeated), value_set=hashes.take(unique))
    uris = files["uri"].combine_chunks().take(units.rows[unique, 0]).take(owners)
    first = compute.coalesce(seen.take(repeated), uris)
    width = units.rows.shape[1]
    return unique, units.rows[repeated].reshape(-1), first.take(np.arange(len(first)).repeat(width))


def _duplicates_table(files: pa.Table, rows: NDArray[np.int64], first: pa.Array) -> pa.Table:
    return files.select(["uri", "content_hash"]).take(rows).append_column("first", first)


def cut_chunks(sizes: NDArray[np.int64], shard_size: int) -> NDArray[np.int64]:
    """Return where shards of about `shard_size` raw bytes begin, and the number of units.

    A unit that fills a shard by itself has one of its own.
    """
    ends = np.cumsum(sizes)
    starts, unit = [0], 0
    large = np.append(np.flatnonzero(sizes >= shard_size), len(sizes))
    while unit < len(sizes):
        before = ends[unit] - sizes[unit]
        full = int(np.searchsorted(ends, before + shard_size)) + 1
        next_large = int(large[np.searchsorted(large, unit, side="right")])
        unit = min(full, unit + MAX_CHUNK_UNITS, max(next_large, unit + 1), len(sizes))
        starts.append(unit)
    return np.array(starts, np.int64)


def group_of(fields: dict[str, str], content_hash: str) -> str:
    """Return what must not be split between training and held-out data: the video, the well, the
    scene."""
    well = [f"{name}={fields[name]}" for name in ("plate", "well", "scene") if fields.get(name)]
    return ",".join(well) or content_hash


def group_hash(group: str) -> int:
    """Return the place of a group on the line from 0 to 2^53 that the held-out share cuts."""
    return int(fingerprint(group)[:13], 16) * 2


def _heldout_below(units: Units, hashes: pa.Array, spec: IngestSpec, base: Snapshot | None) -> int:
    """Return the cut below which groups are held out; a dataset keeps the cut of its first part.

    The share of a small first part can fall on no group at all; then its lowest group is held out,
    so that there is a held-out loss from the beginning.
    """
    if base is not None:
        return int(str(base.settings["heldout_below"]))
    below = int(spec.heldout * 2**53)
    if not spec.heldout:
        return below
    groups: set[int] = set()
    for index, digest in enumerate(hashes):
        about = units.fields[index] if units.fields else {}
        place = group_hash(group_of(about, digest.as_py()))
        if place < below:
            return below
        groups.add(place)
    return min(groups) + 1 if len(groups) > 1 else below
