"""Shards of a remote store on a disk of this machine: bounded in bytes, shared by its processes.

A file is downloaded under a temporary name that has its full size from the start, so room is taken
before the bytes come, and then renamed. Whoever reads or writes a file holds a lock on it; a lock
goes with its process, so what a crash left is told from what is in use. The file that was asked for
longest ago makes room first.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from threading import Event, Thread

from storage.fs import Store

_TEMPORARY = ".tmp-"
_LOCK = ".lock"
_PIECE = 8 << 20
FETCH_SECONDS = 600.0
"Deadline of waiting for another process that downloads the same shard."
ENVIRONMENT = ("HEADRACE_CACHE", "HEADRACE_CACHE_BYTES")


@dataclass(slots=True)
class Cached:
    """A file of the cache, which stays while this is open."""

    path: Path
    handle: int

    def close(self) -> None:
        """Let the file go when room is needed; a second time is no error."""
        handle, self.handle = self.handle, -1
        if handle >= 0:
            os.close(handle)


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A folder that holds at most `limit` bytes of shards."""

    folder: Path
    limit: int

    def fetch(self, store: Store, path: str) -> Cached | None:
        """Return a file of a store, downloaded if it is not here; None where it does not fit.

        Raises:
            FileNotFoundError, StoreError: the store does not give it.
            TimeoutError: another process has been downloading it for too long.
        """
        target = self._place(store, path)
        deadline = time.monotonic() + FETCH_SECONDS
        self.folder.mkdir(parents=True, exist_ok=True)
        size = -1
        while time.monotonic() < deadline:
            if found := _opened(target):
                return found
            size = store.size(path) if size < 0 else size
            with self._locked():
                if target.exists():
                    continue
                handle = _claim(target.with_name(_TEMPORARY + target.name))
                if handle is not None and not self._make_room(size):
                    _drop(target.with_name(_TEMPORARY + target.name), handle)
                    return None
                if handle is not None:
                    os.ftruncate(handle, size)
            if handle is not None:
                return self._download(store, path, target, handle)
            time.sleep(0.02)
        raise TimeoutError(
            f"cache {self.folder}: {path} was not there after {FETCH_SECONDS:.0f} s; another "
            "process is downloading it. Look at the network, or empty the folder."
        )

    def forget(self, store: Store, path: str) -> None:
        """Remove a file, as after its bytes proved damaged."""
        self._place(store, path).unlink(missing_ok=True)

    def used(self) -> int:
        """Return the bytes of all files, of those that are being downloaded too."""
        with self._locked():
            return sum(size for _, size, _ in self._files())

    def clean(self) -> int:
        """Remove what processes that died were downloading; returns how many files."""
        removed = 0
        with self._locked():
            for place in self.folder.glob(f"{_TEMPORARY}*"):
                removed += _remove_unused(place)
        return removed

    def _place(self, store: Store, path: str) -> Path:
        digest = sha256(f"{store.uri}\n{path}".encode()).hexdigest()[:40]
        return self.folder / f"{digest}.tar"

    def _download(self, store: Store, path: str, target: Path, handle: int) -> Cached:
        temporary = target.with_name(_TEMPORARY + target.name)
        try:
            size = os.fstat(handle).st_size
            for offset in range(0, size, _PIECE):
                piece = store.read_range(path, offset, min(_PIECE, size - offset))
                os.pwrite(handle, piece, offset)
            with self._locked():  # a file that moves while files are counted is missed, or twice
                os.rename(temporary, target)
        except BaseException:
            _drop(temporary, handle)
            raise
        fcntl.flock(handle, fcntl.LOCK_SH)
        return Cached(target, handle)

    def _make_room(self, size: int) -> bool:
        """Remove files until `size` more bytes fit; False where that cannot be."""
        files = sorted(self._files())
        used = sum(taken for _, taken, _ in files)
        for _, taken, place in files:
            if used + size <= self.limit:
                break
            if _remove_unused(place):
                used -= taken
        return used + size <= self.limit

    def _files(self) -> list[tuple[float, int, Path]]:
        found = []
        self.folder.mkdir(parents=True, exist_ok=True)
        for entry in os.scandir(self.folder):
            with suppress(FileNotFoundError):
                if entry.name != _LOCK:
                    status = entry.stat()
                    found.append((status.st_mtime, status.st_size, Path(entry.path)))
        return found

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)


def _opened(target: Path) -> Cached | None:
    """Return a file that is there, held so that nobody removes it."""
    try:
        handle = os.open(target, os.O_RDONLY)
    except FileNotFoundError:
        return None
    fcntl.flock(handle, fcntl.LOCK_SH)
    if not os.fstat(handle).st_nlink:  # removed between the two calls
        os.close(handle)
        return None
    with suppress(FileNotFoundError):
        os.utime(target)
    return Cached(target, handle)


def _claim(temporary: Path) -> int | None:
    """Return a locked temporary file to write into; None while another process writes it."""
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    with suppress(FileNotFoundError):
        if os.path.samestat(os.fstat(handle), os.stat(temporary)):
            os.ftruncate(handle, 0)  # what a process that died left there
            return handle
    os.close(handle)  # it got its name between the two calls: it is whole, and not ours to write
    return None


def _drop(place: Path, handle: int) -> None:
    place.unlink(missing_ok=True)
    os.close(handle)


def _remove_unused(place: Path) -> bool:
    """Remove a file that no process holds."""
    try:
        handle = os.open(place, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        place.unlink(missing_ok=True)
        return True
    finally:
        os.close(handle)


def cache_of_environment() -> ShardCache | None:
    """Return the cache that HEADRACE_CACHE (a folder) and HEADRACE_CACHE_BYTES ask for, if any."""
    folder, limit = (os.environ.get(name, "") for name in ENVIRONMENT)
    if not folder:
        return None
    return ShardCache(Path(folder), int(float(limit)) if limit else 10 << 30)


class Ahead:
    """Downloads the shards that come next, in a thread, while others are read."""

    def __init__(self, cache: ShardCache, shards: Iterator[tuple[Store, str]]) -> None:
        self._stop = Event()
        self._thread = Thread(target=self._run, args=(cache, shards), daemon=True)
        self._thread.start()

    def _run(self, cache: ShardCache, shards: Iterator[tuple[Store, str]]) -> None:
        for store, path in shards:
            if self._stop.is_set():
                return
            try:
                found = cache.fetch(store, path)
            except (OSError, RuntimeError):
                return  # whoever needs the shard meets the same error, and tells it
            if found is None:
                return
            found.close()

    def close(self) -> None:
        """Stop after the download that is under way."""
        self._stop.set()
