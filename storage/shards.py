"""Shards: tars whose bytes depend on their samples alone, and verified reads of members."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from xxhash import xxh3_64_intdigest

from storage import tar
from storage.fingerprint import canonical_json, checksum
from storage.fs import Store, StoreError
from storage.local_files import pread_all

MAX_KEY_BYTES = 80
_KEY = re.compile(rf"[!-\-0-\[\]-~]{{1,{MAX_KEY_BYTES}}}")  # printable ASCII but . / \ and space
_EXT = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")


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


class _Writer:
    """Collects the pieces of a tar; tells where each member's data begin."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.position = 0

    def add(self, name: str, data: bytes) -> tuple[int, int, int]:
        """Append a member; returns (offset, size, checksum) of its data."""
        header, zeros = tar.header(name, len(data)), tar.padding(len(data))
        offset = self.position + len(header)
        self.pieces += (header, data, zeros)
        self.position = offset + len(data) + len(zeros)
        return offset, len(data), checksum(data)

    def finish(self) -> bytes:
        """Return the whole tar."""
        return b"".join((*self.pieces, tar.end(self.position)))


def pack_shard(samples: Iterable[Sample]) -> tuple[bytes, list[Row]]:
    """Return the tar of the samples and a row for each: `<key>.<ext>`, then `<key>.json`.

    Raises:
        ValueError: a key or extension that is not allowed, or a key that comes twice.
    """
    writer, rows = _Writer(), list[Row]()
    seen: set[str] = set()
    for sample in samples:
        _check_key(sample.key, seen)
        _check_ext(sample.ext)
        if sample.ext == "json":
            raise ValueError(f"sample {sample.key}: its payload cannot be json, the metadata are.")
        payload = writer.add(f"{sample.key}.{sample.ext}", sample.payload)
        metadata = writer.add(f"{sample.key}.json", canonical_json(sample.metadata))
        rows.append(Row(sample.key, sample.ext, *payload, *metadata))
    return writer.finish(), rows


def pack_sidecar(
    column: str, ext: str, items: Iterable[tuple[str, bytes]]
) -> tuple[bytes, list[tuple[str, int, int, int]]]:
    """Return the tar of a derived column, and (key, offset, size, checksum) of each member.

    Args:
        items: (key, data), in the order of the base shard; members are `<key>.<column>.<ext>`.

    Raises:
        ValueError: a key or extension that is not allowed, or a key that comes twice.
    """
    _check_ext(ext)
    writer, places = _Writer(), list[tuple[str, int, int, int]]()
    seen: set[str] = set()
    for key, data in items:
        _check_key(key, seen)
        places.append((key, *writer.add(f"{key}.{column}.{ext}", data)))
    return writer.finish(), places


def _check_key(key: str, seen: set[str]) -> None:
    if not _KEY.fullmatch(key):
        raise ValueError(
            f"key {key!r} cannot name a sample. Use 1 to {MAX_KEY_BYTES} printable ASCII "
            "characters without dots, slashes and spaces."
        )
    if key in seen:
        raise ValueError(f"key {key!r} comes twice in one shard. Keys name one sample each.")
    seen.add(key)


def _check_ext(ext: str) -> None:
    if not _EXT.fullmatch(ext):
        raise ValueError(
            f"extension {ext!r}: use lower-case letters and digits, such as jpg or npy.zst."
        )


def read_shard(store: Store, path: str, samples: int) -> Iterator[Sample]:
    """Yield the samples of a whole shard in stored order, after a check of all its structure.

    Payload bytes are checked by `ShardReader`, which has the manifest's checksums; everything else
    is compared here.

    Args:
        samples: how many the manifest says there are.

    Raises:
        ShardError: cut short, a byte outside of the payloads that differs, a member that is no
            plain file, members of a sample apart from each other, a key that comes twice, or
            another number of samples. Names the sample.
    """
    data = store.read(path)
    for payload, metadata in _pairs(data, path, samples):
        key, _, ext = payload.name.partition(".")
        text = data[metadata.offset : metadata.offset + metadata.size]
        try:
            described = json.loads(text)
        except ValueError as error:
            raise ShardError(f"{path}: sample {key} has damaged metadata ({error}).") from error
        yield Sample(key, ext, data[payload.offset : payload.offset + payload.size], described)


def shard_rows(data: bytes, where: str, samples: int | None = None) -> list[Row]:
    """Return the rows that `pack_shard` gave for these bytes: a manifest made again from its tars.

    Raises:
        ShardError: as `read_shard`.
    """
    view, rows = memoryview(data), []
    for members in _pairs(data, where, samples):
        places = [
            (m.offset, m.size, xxh3_64_intdigest(view[m.offset : m.offset + m.size]))
            for m in members
        ]
        key, _, ext = members[0].name.partition(".")
        rows.append(Row(key, ext, *places[0], *places[1]))
    return rows


def sidecar_places(data: bytes, where: str) -> list[tuple[str, int, int, int]]:
    """Return the places that `pack_sidecar` gave for these bytes.

    Raises:
        ShardError: damaged, or a key comes twice.
    """
    view, places = memoryview(data), list[tuple[str, int, int, int]]()
    seen: set[str] = set()
    for name, offset, size in _members(data, where):
        key = name.partition(".")[0]
        if key in seen:
            raise ShardError(f"{where}: sample {key} comes twice. Derive this column again.")
        seen.add(key)
        places.append((key, offset, size, xxh3_64_intdigest(view[offset : offset + size])))
    return places


def _members(data: bytes, where: str) -> list[tar.Member]:
    """Return the members of a tar of ours."""
    try:
        return list(tar.members(data))
    except ValueError as error:
        raise ShardError(
            f"{where}: {error}. The file was damaged or replaced; see 'headrace verify'."
        ) from error


def _pairs(data: bytes, where: str, samples: int | None) -> list[tuple[tar.Member, tar.Member]]:
    """Return (payload, metadata) of every sample."""
    members = _members(data, where)
    pairs: dict[str, tuple[tar.Member, tar.Member]] = {}
    for payload, metadata in zip(members[::2], [*members[1::2], None], strict=False):
        key, _, ext = payload.name.partition(".")
        if key in pairs:
            raise ShardError(f"{where}: sample {key} comes twice. Keys name one sample each.")
        if metadata is None or metadata.name != f"{key}.json" or ext in ("", "json"):
            found = "the end" if metadata is None else metadata.name
            raise ShardError(
                f"{where}: sample {key} has {payload.name} followed by {found}, wanted its payload "
                f"and then {key}.json. Members of a sample stand together, once each."
            )
        pairs[key] = payload, metadata
    if samples is not None and len(pairs) != samples:
        raise ShardError(
            f"{where}: holds {len(pairs)} samples, its manifest says {samples}. "
            "The file was cut short or replaced; see 'headrace verify'."
        )
    return list(pairs.values())


class ShardReader:
    """Reads members of one shard by place, each of them verified; it stays open until `close`.

    Safe for several threads. Neither picklable nor to be kept over a fork of a remote store's
    process.
    """

    __slots__ = ("_handle", "_remote", "path", "store", "verifying", "where")

    def __init__(self, store: Store, path: str, where: str) -> None:
        """Open a shard.

        Args:
            where: what errors call it, usually `<dataset>/<part>/<shard>`.

        Raises:
            ShardError: there is no such file.
        """
        self.store, self.path, self.where = store, path, where
        self.verifying = 0.0  # seconds spent on checksums, of all reads so far
        self._handle = -1
        self._remote: Any = None
        local = store.local_path(path)
        try:
            if local is not None:
                self._handle = os.open(local, os.O_RDONLY)
            else:
                self._remote = store.open_remote_file(path)
        except FileNotFoundError as error:
            raise ShardError(f"{where}: the file is missing. See 'headrace verify'.") from error
        except OSError as error:
            raise ShardError(f"{where}: cannot be opened ({error}).") from error

    def read(self, offset: int, size: int, expected: int, key: str) -> bytes:
        """Return the bytes of a member.

        Args:
            expected: the checksum in the manifest.
            key: the sample, for the error.

        Raises:
            ShardError: they are not the bytes that were written. Names the sample.
        """
        data = self.sound(offset, size, expected)
        return data if data is not None else self._read_again(offset, size, expected, key)

    def sound(self, offset: int, size: int, expected: int) -> bytes | None:
        """Return a member's bytes if one read of a local file has them sound; else None."""
        if self._handle < 0:
            return None
        try:
            data = os.pread(self._handle, size, offset)
        except (OSError, OverflowError, MemoryError):  # told when it is read again
            return None
        began = time.perf_counter()
        same = xxh3_64_intdigest(data) == expected and len(data) == size
        self.verifying += time.perf_counter() - began
        return data if same else None

    def _read_remote(self, size: int, offset: int) -> bytes:
        if self._remote is None:
            raise StoreError("this reader was closed")
        return bytes(self._remote.read_at(size, offset))

    def _read_again(self, offset: int, size: int, expected: int, key: str) -> bytes:
        """Read what is remote, or what the system cut short; anything else is damage."""
        try:
            if self._handle >= 0:
                data = os.pread(self._handle, size, offset)
                if 0 < len(data) < size:
                    data += pread_all(self._handle, size - len(data), offset + len(data))
            else:
                data = self._read_remote(size, offset)
        except (OSError, OverflowError, MemoryError) as error:
            self._fail(key, f"cannot be read ({error})", error)
        if len(data) != size:
            self._fail(key, f"is cut short: {len(data)} of {size} bytes")
        began = time.perf_counter()
        same = xxh3_64_intdigest(data) == expected
        self.verifying += time.perf_counter() - began
        if not same:
            self._fail(key, "is damaged: its bytes do not have the manifest's checksum")
        return data

    def _fail(self, key: str, what: str, cause: BaseException | None = None) -> NoReturn:
        raise ShardError(
            f"{self.where}: sample {key} {what}. Find all damage with 'headrace verify'."
        ) from cause

    def close(self) -> None:
        """Close the file; a second time is no error."""
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def __del__(self) -> None:
        """A feed that is dropped takes its open files with it."""
        if hasattr(self, "_remote"):  # opened, or refused after `__init__` had begun
            self.close()

    def __enter__(self) -> ShardReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
