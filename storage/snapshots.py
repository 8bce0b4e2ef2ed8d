"""Versions of a dataset: numbered files that name their parts, committed by put-if-absent."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from storage.fingerprint import canonical_json, fingerprint
from storage.fs import Store

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class SnapshotError(RuntimeError):
    """A snapshot that is damaged or of a format this version cannot read."""


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
    spec: dict[str, Any]
    stats: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A version of a dataset."""

    dataset: str
    number: int
    parts: tuple[PartEntry, ...]
    settings: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything the snapshot says."""
        return fingerprint(self._content())

    def _content(self) -> dict[str, Any]:
        parts = [asdict(part) for part in self.parts]
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "number": self.number,
            "parts": parts,
            "settings": self.settings,
        }

    def to_json(self) -> bytes:
        """Return the file's bytes."""
        return canonical_json({**self._content(), "fingerprint": self.fingerprint})


def check_name(name: str) -> str:
    """Return a name of a dataset or run that can be a folder.

    Raises:
        ValueError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {name!r}: use 1 to 100 letters, digits, '_', '-' and '.', beginning with a letter or digit.")
    return name


def part_path(dataset: str, part: str) -> str:
    """Return the folder of a part."""
    return f"datasets/{check_name(dataset)}/parts/{check_name(part)}"


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06d}.tar"


def _snapshot_path(dataset: str, number: int) -> str:
    return f"datasets/{check_name(dataset)}/snapshots/{number:06d}.json"


def list_datasets(store: Store) -> list[str]:
    """Return the names of datasets that have a snapshot."""
    found = (entry.path.split("/") for entry in store.list("datasets"))
    return sorted({place[1] for place in found if len(place) == 4 and place[2] == "snapshots"})


def read_snapshot(store: Store, dataset: str, number: int | None = None) -> Snapshot | None:
    """Return a snapshot, by default the newest; None where there is none.

    Raises:
        SnapshotError: the file is damaged.
    """
    if number is None:
        names = [entry.path.rsplit("/", 1)[1] for entry in store.list(f"datasets/{check_name(dataset)}/snapshots")]
        numbers = [int(name.removesuffix(".json")) for name in names if re.fullmatch(r"\d{6}\.json", name)]
        if not numbers:
            return None
        number = max(numbers)
    path = _snapshot_path(dataset, number)
    if not store.exists(path):
        return None
    return _parse(store.read(path), path)


def _parse(data: bytes, path: str) -> Snapshot:
    try:
        content = json.loads(data)
        if content["format"] != FORMAT:
            raise SnapshotError(f"{path}: has format {content['format']}, this version reads {FORMAT}. Update headrace.")
        parts = tuple(PartEntry(**part) for part in content["parts"])
        snapshot = Snapshot(content["dataset"], content["number"], parts, content["settings"])
        stated = content["fingerprint"]
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotError(f"{path}: not a snapshot ({error}). Restore the file.") from error
    if snapshot.fingerprint != stated:
        raise SnapshotError(f"{path}: its content does not match its own fingerprint {stated[:12]}. Restore the file.")
    return snapshot


def commit_part(store: Store, dataset: str, part: PartEntry, settings: Mapping[str, Any]) -> Snapshot:
    """Add a part to a dataset as a new snapshot.

    The loser of a race reads the winner's snapshot and tries the next number. A part that is there already is not
    added again. The settings are those of the first snapshot.
    """
    while True:
        current = read_snapshot(store, dataset)
        if current is not None and any(entry.part == part.part for entry in current.parts):
            return current
        parts = (*current.parts, part) if current else (part,)
        number = current.number + 1 if current else 1
        snapshot = Snapshot(dataset, number, parts, current.settings if current else dict(settings))
        if store.put_if_absent(_snapshot_path(dataset, number), snapshot.to_json()):
            return snapshot
