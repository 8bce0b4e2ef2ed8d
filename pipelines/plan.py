"""The plan of an ingest: which raw files make which samples, in which shards.

A pure function of the raw bytes, the spec and the snapshot that is added to: whoever plans,
wherever and however often, plans the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipelines.executors import Executor, run_jobs
from pipelines.grouping import Reject, Unit, group_files
from pipelines.ingest_spec import IngestSpec
from pipelines.known import known_inputs
from pipelines.sources import RawFile, list_source, read_files
from storage.fingerprint import fingerprint, sha256_hex
from storage.fs import Store
from storage.snapshots import Snapshot, check_name, read_snapshot

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
        ValueError: a bad dataset name or pattern, or a dataset of another modality.
    """
    current = _check_dataset(store, dataset, spec)
    listed = [file for source in sources for file in list_source(source, labels=spec.labels)]
    files = list({file.uri: file for file in listed}.values())
    hashes = _hash_all(files, executor, progress)
    known = known_inputs(store, current, retry_rejects=retry_rejects)
    fresh = [file for file in files if (file.uri, hashes[file.uri] or "") not in known.files]
    planned, rejects = _group(fresh, hashes, spec)
    unique, duplicates = _split_duplicates(planned, known.units)
    heldout_below = _heldout_below(unique, spec, current)
    total = sum(file.size for unit in unique for file in unit.unit.files)
    determined = {
        "spec": spec.to_json(),
        "units": [[unit.content_hash, unit.unit.files[0].path] for unit in unique],
        "duplicates": [unit.content_hash for unit, _ in duplicates],
        "rejects": [[reject.uri, reject.reason_class] for reject in rejects],
        "heldout_below": str(heldout_below),
    }
    return IngestPlan(
        dataset=dataset,
        part=fingerprint(determined)[:16],
        spec=spec,
        chunks=_cut(unique, spec.shard_bytes(total)),
        rejects=tuple(rejects),
        duplicates=tuple(duplicates),
        skipped=len(files) - len(fresh),
        inputs=len(files),
        heldout_below=heldout_below,
    )


def _check_dataset(store: Store, dataset: str, spec: IngestSpec) -> Snapshot | None:
    """Return the snapshot that is added to, if there is one."""
    current = read_snapshot(store, check_name(dataset))
    if current is not None and current.settings["modality"] != spec.modality:
        raise ValueError(
            f"dataset {dataset!r}: holds {current.settings['modality']} samples, --modality is "
            f"{spec.modality}. A dataset has one modality; choose another --dataset."
        )
    return current


def _group(
    files: Sequence[RawFile], hashes: dict[str, str | None], spec: IngestSpec
) -> tuple[list[PlannedUnit], list[Reject]]:
    """Return the units of the files that exist, and the files that are missing or fit no unit."""
    missing = [
        Reject(file.uri, "decode_error", "listed, but there is no such file")
        for file in files
        if hashes[file.uri] is None
    ]
    present = [file for file in files if hashes[file.uri] is not None]
    units, rejects = group_files(present, spec.pattern, spec.channels)
    planned = [
        PlannedUnit(unit, tuple(str(hashes[file.uri]) for file in unit.files)) for unit in units
    ]
    return planned, missing + [
        replace(reject, content_hash=str(hashes[reject.uri])) for reject in rejects
    ]


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
