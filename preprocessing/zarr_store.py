"""A read-only Zarr store over files that are sources: no disk, no listing but the names given."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any

from zarr.abc.store import (
    ByteRequest,
    OffsetByteRequest,
    RangeByteRequest,
    Store,
    SuffixByteRequest,
)
from zarr.core.buffer import Buffer, BufferPrototype

from preprocessing.errors import DecodeError
from preprocessing.raster_reader import MAX_SEGMENT_BYTES
from preprocessing.source import Source

_METADATA = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")
_BLOSC = struct.Struct("<4xI4xI")
"of its 16-byte header: the bytes of the values, and those of the buffer"


class SourceStore(Store):
    """The files of one Zarr folder, by their names below it."""

    def __init__(self, members: Mapping[str, Source]) -> None:
        super().__init__(read_only=True)
        self.members = members
        self.blosc = False
        "whether chunks are Blosc buffers, whose length is to be checked"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SourceStore) and other.members is self.members

    @property
    def supports_writes(self) -> bool:
        return False

    @property
    def supports_deletes(self) -> bool:
        return False

    @property
    def supports_listing(self) -> bool:
        return True

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a file, or of a part of it; None where there is none."""
        source = self.members.get(key)
        if source is None:
            return None
        data = source[_span(byte_range, len(source))]
        if self.blosc and byte_range is None and not key.endswith(_METADATA):
            _check_blosc(key, data)
        return prototype.buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Return parts of several files."""
        return [await self.get(key, prototype, span) for key, span in key_ranges]

    async def exists(self, key: str) -> bool:
        """Tell whether there is a file of the name."""
        return key in self.members

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: raw data are never written."""
        raise PermissionError(f"{key}: a raw Zarr folder is read-only")

    async def delete(self, key: str) -> None:
        """Refuse: raw data are never deleted."""
        raise PermissionError(f"{key}: a raw Zarr folder is read-only")

    async def list(self) -> AsyncIterator[str]:
        """Yield all names."""
        for name in self.members:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names that begin with a prefix."""
        for name in self.members:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names one level below a folder."""
        start = prefix.rstrip("/") + "/" if prefix else ""
        seen = {n[len(start) :].split("/")[0] for n in self.members if n.startswith(start)}
        for name in sorted(seen):
            yield name


def _check_blosc(key: str, data: bytes) -> None:
    """Refuse a buffer that is shorter than it says: numcodecs would read on behind its end.

    Raises:
        DecodeError: truncated, or too_large.
    """
    if len(data) < _BLOSC.size:
        raise DecodeError("truncated", f"the chunk {key} has {len(data)} bytes")
    unpacked, packed = _BLOSC.unpack_from(data)
    if len(data) < packed:
        raise DecodeError("truncated", f"the chunk {key} has {len(data)} of {packed} bytes")
    if unpacked > MAX_SEGMENT_BYTES:
        raise DecodeError("too_large", f"the chunk {key} says that it unpacks to {unpacked} bytes")


def _span(request: ByteRequest | None, size: int) -> slice:
    """Return a byte request as a slice."""
    match request:
        case RangeByteRequest(start, end):
            return slice(start, end)
        case OffsetByteRequest(offset):
            return slice(offset, size)
        case SuffixByteRequest(suffix):
            return slice(max(0, size - suffix), size)
    return slice(0, size)


def open_array(members: Mapping[str, Source], path: str, zarr_format: int) -> Any:
    """Return the array at a path.

    Reading from it raises DecodeError (truncated, too_large) for a Blosc chunk that was cut.
    """
    import zarr

    store = SourceStore(members)
    array: Any = zarr.open_array(
        store=store, path=path, mode="r", zarr_format=3 if zarr_format == 3 else 2
    )
    store.blosc = any("blosc" in type(codec).__name__.lower() for codec in array.compressors)
    return array
