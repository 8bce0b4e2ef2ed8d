"""Shards: tars whose bytes depend on their samples alone, and reads of single members that are always verified."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from storage.fingerprint import canonical_json, checksum
from storage.fs import Store

MAX_KEY_BYTES = 80


class ShardError(RuntimeError):
    """A shard that does not hold what its manifest says."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample: its payload, and the metadata that go beside it as JSON."""

    key: str
    ext: str
    payload: bytes
    metadata: dict[str, object]


@dataclass(frozen=True, slots=True)
class Row:
    """Where a sample's two members lie in its shard, and their checksums."""

    key: str
    ext: str
    offset: int
    size: int
    checksum: int
    meta_offset: int
    meta_size: int
    meta_checksum: int


class _TarWriter:
    """Appends members with fixed time, owner and mode; tells where each one's bytes begin."""

    def __init__(self) -> None:
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), 0o444
        self.tar.addfile(info, io.BytesIO(data))
        padded = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        return self.tar.offset - padded, len(data), checksum(data)

    def finish(self) -> bytes:
        self.tar.close()
        return self.buffer.getvalue()


def _check_key(key: str) -> str:
    if not key or "." in key or "/" in key or not key.isascii() or len(key) > MAX_KEY_BYTES:
        raise ValueError(
            f"key {key!r} cannot name a sample. Use 1 to {MAX_KEY_BYTES} ASCII characters without dots and slashes."
        )
    return key


def pack_shard(samples: Iterable[Sample]) -> tuple[bytes, list[Row]]:
    """Return the tar of the samples and a row for each: `<key>.<ext>`, then `<key>.json`.

    Raises:
        ValueError: a key that is not allowed, or that comes twice.
    """
    writer, rows = _TarWriter(), []
    seen: set[str] = set()
    for sample in samples:
        if _check_key(sample.key) in seen:
            raise ValueError(f"key {sample.key!r} comes twice in one shard. Keys name one sample each.")
        seen.add(sample.key)
        payload = writer.add(f"{sample.key}.{sample.ext}", sample.payload)
        metadata = writer.add(f"{sample.key}.json", canonical_json(sample.metadata))
        rows.append(Row(sample.key, sample.ext, *payload, *metadata))
    return writer.finish(), rows


def pack_sidecar(
    column: str, ext: str, items: Iterable[tuple[str, bytes]]
) -> tuple[bytes, list[tuple[str, int, int, int]]]:
    """Return the tar of a derived column, members `<key>.<column>.<ext>`, and (key, offset, size, checksum) of each."""
    writer = _TarWriter()
    places = [(key, *writer.add(f"{_check_key(key)}.{column}.{ext}", data)) for key, data in items]
    return writer.finish(), places


def read_shard(store: Store, path: str, samples: int) -> Iterator[Sample]:
    """Yield the samples of a whole shard in stored order, checking its structure.

    Args:
        samples: how many the manifest says there are.

    Raises:
        ShardError: not a readable tar, a member that is no plain file, members of a sample apart from each other,
            a key that comes twice, or another number of samples.
    """
    seen: set[str] = set()
    for key, members in _samples_of(store.read(path), path):
        if key in seen:
            raise ShardError(f"{path}: sample {key} comes twice or its members are apart. Ingest this part again.")
        seen.add(key)
        names = sorted(members, key=lambda name: name == "json")
        if len(names) != 2 or names[1] != "json":
            raise ShardError(f"{path}: sample {key} has the members {names}, wanted a payload and json.")
        yield Sample(key, names[0], members[names[0]], json.loads(members["json"]))
    if len(seen) != samples:
        raise ShardError(
            f"{path}: holds {len(seen)} samples, its manifest says {samples}. "
            "The file was cut short or replaced; ingest this part again."
        )


def _samples_of(data: bytes, path: str) -> Iterator[tuple[str, dict[str, bytes]]]:
    key, members = "", dict[str, bytes]()
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            for info in tar:
                stream = tar.extractfile(info) if info.isreg() else None
                if stream is None:
                    raise ShardError(f"{path}: member {info.name!r} is no plain file. This shard is not ours.")
                content = stream.read()
                if len(content) != info.size:
                    raise ShardError(f"{path}: member {info.name!r} is cut short. Ingest this part again.")
                name, _, column = info.name.partition(".")
                if name != key and key:
                    yield key, members
                    members = {}
                key, members[column] = name, content
    except tarfile.TarError as error:
        raise ShardError(f"{path}: not a readable tar after sample {key or 'none'} ({error}). Ingest this part again.") from error
    if key:
        yield key, members


class ShardReader:
    """Reads members of one shard by place; every read is verified. A local shard stays open."""

    def __init__(self, store: Store, path: str, where: str) -> None:
        self.store, self.path, self.where = store, path, where
        local = store.local_path(path)
        try:
            self.handle = os.open(local, os.O_RDONLY) if local is not None else -1
        except FileNotFoundError as error:
            raise ShardError(f"{where}: the file is missing. See 'headrace verify'.") from error

    def read(self, offset: int, size: int, expected: int, key: str) -> bytes:
        """Return the bytes of a member.

        Raises:
            ShardError: they are not the bytes that were written.
        """
        if self.handle >= 0:
            data = os.pread(self.handle, size, offset)
        else:
            data = self.store.read_range(self.path, offset, size)
        if checksum(data) != expected:
            found = "is damaged" if len(data) == size else f"is cut short: {len(data)} of {size} bytes"
            raise ShardError(f"{self.where}: sample {key} {found}. Find all damage with 'headrace verify'.")
        return data

    def close(self) -> None:
        """Close the file."""
        if self.handle >= 0:
            os.close(self.handle)
            self.handle = -1
