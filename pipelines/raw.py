"""Raw files: what they are called and how their bytes are read, piece by piece."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import IO, Any

from preprocessing.source import Source, as_source
from storage.fs import Store, StoreError, plain_uri
from storage.local_files import pread_all

SMALL_BYTES = 8 * 2**20
"Files up to this size are read at once."
PACKED_ENDINGS = (".tar.gz", ".tgz")
_BOMB_RATIO, _BOMB_BYTES = 200, 2**30
_PIECE = 1 << 20
_unpacking = threading.Lock()


@dataclass(frozen=True, slots=True)
class RawFile:
    """One raw input: the file `name` below `root`, a member of the tar `name`, or a folder that
    is one image (OME-Zarr)."""

    root: str
    name: str
    size: int
    member: str = ""
    offset: int = -1
    "where a member's bytes begin in the unpacked tar"
    folder: bool = False
    label: str = ""
    extra: str = ""
    "JSON: the other columns of the list that named the file; segments are [start, end] pairs"

    @property
    def uri(self) -> str:
        """The address that manifests, rejects and errors show."""
        place = f"{plain_uri(self.root)}/{self.name}"
        return f"{place}!{self.member}" if self.member else place

    @property
    def path(self) -> str:
        """The path below the source that patterns and labels look at."""
        return self.member or self.name

    @property
    def metadata(self) -> dict[str, Any]:
        """What the list said of the file beside its path and label."""
        found: dict[str, Any] = json.loads(self.extra) if self.extra else {}
        found.pop("segments", None)
        return found

    @property
    def segments(self) -> tuple[tuple[float, float], ...]:
        """(start, end) in seconds of the parts of a video to take; empty takes all of it."""
        pairs = json.loads(self.extra).get("segments", ()) if self.extra else ()
        return tuple((float(start), float(end)) for start, end in pairs)


@contextmanager
def opened(file: RawFile) -> Iterator[Any]:
    """Give a raw file's bytes: a `Source`, or for a folder a dict of them by path below it.

    Raises:
        FileNotFoundError, PermissionError: the file is gone, or may not be read.
        StoreError: the store does not answer, or a packed tar is a bomb.
    """
    store = Store(file.root)
    if file.folder:
        yield {
            entry.path.removeprefix(f"{file.name}/"): _ranges(store, entry.path, entry.size)
            for entry in store.list(file.name)
        }
    elif file.member and file.name.lower().endswith(PACKED_ENDINGS):
        handle = unpacked(store, file.name).fileno()
        yield Source(file.size, lambda offset, size: pread_all(handle, size, file.offset + offset))
    else:
        with _opened_plain(store, file) as source:
            yield source


@contextmanager
def _opened_plain(store: Store, file: RawFile) -> Iterator[Source]:
    """Give a file of a store, or a member of a plain tar there."""
    base = max(file.offset, 0)
    local = store.local_path(file.name)
    if local is None:
        source = Source(file.size, lambda o, n: store.read_range(file.name, base + o, n))
        small = file.size <= SMALL_BYTES
        yield as_source(source[:]) if small else source
        return
    handle = os.open(local, os.O_RDONLY)
    try:
        if file.size <= SMALL_BYTES:
            yield as_source(pread_all(handle, file.size, base))
        else:
            yield Source(file.size, lambda o, n: pread_all(handle, n, base + o))
    finally:
        os.close(handle)


def refusal_of(error: OSError) -> tuple[str, str]:
    """Return reason class and detail of a file that is gone or may not be read.

    Raises:
        OSError: any other error, which is no fault of the file.
    """
    cause = error.__cause__ if isinstance(error, StoreError) else error
    if isinstance(error, FileNotFoundError):
        return "missing_file", f"listed, but gone ({error.strerror or error})"
    if isinstance(cause, PermissionError):
        return "permission_denied", f"cannot be read ({cause.strerror or cause})"
    raise error


def _ranges(store: Store, path: str, size: int) -> Source:
    read = partial(store.read_range, path)
    return Source(size, lambda offset, count: read(offset, count))


def unpacked(store: Store, name: str) -> IO[bytes]:
    """Return an open file with the content of a gzipped tar, unpacked once a process.

    The file has no name, so it goes with the process, however that ends.
    """
    with _unpacking:
        return _unpack(store, name)


@lru_cache(maxsize=2)
def _unpack(store: Store, name: str) -> IO[bytes]:
    size = store.size(name)
    most = max(_BOMB_BYTES, _BOMB_RATIO * size)
    target = tempfile.TemporaryFile(prefix="headrace-")  # noqa: SIM115 (kept open)
    packed = Source(size, lambda offset, count: store.read_range(name, offset, count))
    try:
        with gzip.open(packed.file()) as stream:
            while piece := stream.read(_PIECE):
                target.write(piece)
                if target.tell() > most:
                    raise StoreError(
                        f"{store.uri}/{name}: unpacks to more than {most} bytes, {_BOMB_RATIO} "
                        "times its size. If it is no bomb, unpack it yourself and give its folder."
                    )
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        if not target.tell():
            raise StoreError(f"{store.uri}/{name}: cannot be unpacked ({error}).") from error
        # What came before the damage is kept; the listing finds that the tar's end is missing.
    except OSError as error:
        free = shutil.disk_usage(tempfile.gettempdir()).free
        raise StoreError(
            f"{store.uri}/{name}: cannot be unpacked into {tempfile.gettempdir()} ({error}; "
            f"{free} bytes free). Set TMPDIR to a larger folder."
        ) from error
    target.flush()
    return target
