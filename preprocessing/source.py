"""Raw bytes that a reader may visit piece by piece, so that a huge file is never whole in memory.

Readers know no file: who calls them says how bytes are read (from memory, a disk, a bucket, a tar).
"""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Source:
    """The bytes of one raw file."""

    size: int
    read_at: Callable[[int, int], bytes]
    "returns up to `size` bytes from `offset`; called as read_at(offset, size)"

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, span: slice) -> bytes:
        """Return the bytes of a slice of step 1."""
        start, stop, step = span.indices(self.size)
        if step != 1:
            raise ValueError(f"Source: slices have step 1, not {step}.")
        return self.read_at(start, stop - start) if stop > start else b""

    def startswith(self, prefix: bytes) -> bool:
        """Tell whether the file begins with some bytes."""
        return self[: len(prefix)] == prefix

    def file(self) -> io.BufferedReader:
        """Return a new seekable file over the bytes, with its own position."""
        return io.BufferedReader(_File(self), buffer_size=1 << 16)


def as_source(data: bytes | Source) -> Source:
    """Return bytes in memory as a source; a source stays what it is."""
    if isinstance(data, Source):
        return data
    view = memoryview(data)
    return Source(len(view), lambda offset, size: bytes(view[offset : offset + size]))


class _File(io.RawIOBase):
    """A source as a file for libraries that read, seek and tell."""

    def __init__(self, source: Source) -> None:
        self.source, self.position = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.source.size}[whence]
        if base + offset < 0:
            raise OSError(errno.EINVAL, f"seek to {base + offset}, before the beginning")
        self.position = base + offset
        return self.position

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")
        data = self.source[self.position : self.position + len(target)]
        target[: len(data)] = data
        self.position += len(data)
        return len(data)
