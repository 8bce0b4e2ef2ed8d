"""Versions of a dataset: numbered files that name their parts, committed by put-if-absent."""

from __future__ import annotations

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from storage.fingerprint import canonical_json, fingerprint
from storage.fs import Store

FORMAT = 2
COMMIT_SECONDS = 60.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_NUMBERED = re.compile(r"(\d{6,})\.json")


class SnapshotError(RuntimeError):
    """A snapshot that is damaged, of another format, or that cannot be committed."""


class SnapshotMoved(SnapshotError):
    """A dataset has got parts meanwhile that a new part does not go with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PartEntry:
    """What a snapshot says about one part."""

    part: str
    samples: int
    shards: list[dict[str, Any]]
    "name, samples, bytes and sha256 of each"
    bytes: int
    inputs: int
    written: int
    duplicates: int
    rejects: int
    manifest_sha256: str
    rejects_sha256: str
    inputs_sha256: str
    records: dict[str, str]
    "SHA-256 of each file below `records/`"
    spec: dict[str, Any]
    stats: dict[str, Any]

    def content(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class Snapshot:
    """A version of a dataset."""

    dataset: str
    number: int
    parts: tuple[PartEntry, ...]
    settings: dict[str, Any]
    "what holds for all parts, such as the share held out"

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything the snapshot says."""
        return fingerprint(self._content())

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "number": self.number,
            "parts": [part.content() for part in self.parts],
            "settings": self.settings,
        }

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json({**self._content(), "fingerprint": self.fingerprint})


def check_name(name: str) -> str:
    """Return a name of a dataset, column, part or run that can be a folder.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"name {name!r}: cannot name a folder. Use 1 to 100 letters, digits, '_', '-' and '.', "
            "beginning with a letter or digit."
        )
    return name


def part_path(dataset: str, part: str) -> str:
    """Return the folder of a part."""
    return f"datasets/{check_name(dataset)}/parts/{check_name(part)}"


def shard_name(chunk: int, more: int = 0) -> str:
    """Return the file name of a chunk's shard; `more` counts those that its samples overflow to."""
    return f"shard-{chunk:06d}-{more:03d}.tar" if more else f"shard-{chunk:06d}.tar"


def snapshots_path(dataset: str) -> str:
    """Return the folder of a dataset's snapshots."""
    return f"datasets/{check_name(dataset)}/snapshots"


def snapshot_path(dataset: str, number: int) -> str:
    """Return the path of a snapshot."""
    return f"{snapshots_path(dataset)}/{number:06d}.json"


def list_snapshots(store: Store, dataset: str) -> list[int]:
    """Return the numbers of a dataset's snapshots, ascending."""
    entries = store.list(snapshots_path(dataset))
    found = (_NUMBERED.fullmatch(entry.path.rpartition("/")[2]) for entry in entries)
    return sorted(int(match[1]) for match in found if match)


def list_datasets(store: Store) -> list[str]:
    """Return the names of datasets that have a snapshot."""
    names = [name for name in store.folders("datasets") if _NAME.fullmatch(name)]
    return [name for name in names if list_snapshots(store, name)]


def read_snapshot(store: Store, dataset: str, number: int | None = None) -> Snapshot | None:
    """Return a snapshot, by default the newest; None where there is none.

    Raises:
        SnapshotError: the file is damaged, or is another snapshot's.
    """
    if number is None:
        numbers = list_snapshots(store, dataset)
        if not numbers:
            return None
        number = numbers[-1]
    path = snapshot_path(dataset, number)
    try:
        data = store.read(path)
    except FileNotFoundError:
        return None
    snapshot = _parse(data, path)
    if (snapshot.dataset, snapshot.number) != (dataset, number):
        raise SnapshotError(
            f"{path}: holds snapshot {snapshot.number} of {snapshot.dataset}. "
            "A snapshot cannot be copied or renamed; restore the file."
        )
    return snapshot


def _parse(data: bytes, path: str) -> Snapshot:
    """Return the snapshot whose bytes these are, every one of them."""
    try:
        content = json.loads(data)
        version = content["format"]
        if version != FORMAT:
            newer = "Update headrace" if version > FORMAT else "Ingest into another dataset"
            raise SnapshotError(
                f"{path}: has format {version}, this version reads {FORMAT}. {newer}."
            )
        parts = tuple(PartEntry(**part) for part in content["parts"])
        snapshot = Snapshot(content["dataset"], content["number"], parts, content["settings"])
        stated, same = content["fingerprint"], snapshot.to_json() == data
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SnapshotError(
            f"{path}: not a snapshot ({error}). It is damaged; restore the file."
        ) from error
    if not same:
        raise SnapshotError(
            f"{path}: its content does not match its own fingerprint {str(stated)[:12]}. "
            "It is damaged; restore the file."
        )
    return snapshot


def commit_part(
    store: Store,
    dataset: str,
    part: PartEntry,
    settings: Mapping[str, Any],
    goes_with: Callable[[Snapshot], bool] = lambda _: True,
) -> Snapshot:
    """Add a part to a dataset as a new snapshot; returns the snapshot that has it.

    The loser of a race reads the winner's snapshot and tries the next number. A part that is there
    already is not added again. The settings are those of the first snapshot.

    Args:
        goes_with: asked about each snapshot that the part would be added to.

    Raises:
        SnapshotMoved: it said no.
        SnapshotError: a part of this name but with another manifest is there, or no snapshot could
            be committed.
    """
    deadline = time.monotonic() + COMMIT_SECONDS
    while True:
        current = read_snapshot(store, dataset)
        if current is not None and _has(current, part):
            return current
        if current is not None and not goes_with(current):
            raise SnapshotMoved(
                f"{dataset}: snapshot {current.number} came meanwhile and does not go with part "
                f"{part.part}. Run the command again; nothing is lost."
            )
        number = current.number + 1 if current else 1
        parts = (*current.parts, part) if current else (part,)
        snapshot = Snapshot(dataset, number, parts, current.settings if current else dict(settings))
        if store.put_if_absent(snapshot_path(dataset, number), snapshot.to_json()):
            return snapshot
        if time.monotonic() > deadline:
            raise SnapshotError(
                f"{dataset}: snapshot {number} could not be committed in {COMMIT_SECONDS:.0f} s, "
                "others kept coming first. Run the command again; nothing is lost."
            )
        time.sleep(random.uniform(0.001, 0.02))  # not a draw about data: only who waits longer


def _has(snapshot: Snapshot, part: PartEntry) -> bool:
    """Say whether a snapshot has a part.

    Raises:
        SnapshotError: it has one of the same name that holds other samples.
    """
    for entry in snapshot.parts:
        if entry.part == part.part:
            if entry.manifest_sha256 != part.manifest_sha256:
                raise SnapshotError(
                    f"{snapshot.dataset}: snapshot {snapshot.number} has part {part.part} with "
                    f"manifest {entry.manifest_sha256[:12]}, now {part.manifest_sha256[:12]}. "
                    "The same inputs gave other bytes; check the versions of the decoders, or use "
                    "a new dataset."
                )
            return True
    return False
