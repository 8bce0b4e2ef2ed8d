"""Who is writing a folder: so that `headrace gc` removes what dead writers left, and only that.

On a disk a writer holds a shared lock (flock) on the folder itself, gc an exclusive one. The lock
is no file and ends with its process, so nothing has to be cleaned up after a kill. In an object
store, and on a file system without locks, age decides: a folder in which anything was written
within the last hours belongs to a living writer. There a writer leaves a file `.tmp-writing` while
it works, so that an old folder is young again before its old shards are relied on, and gc leaves
`.tmp-gc` while it removes, so that of two that come at the same moment one sees the other.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs as pafs

from storage import local_files, remote
from storage.fs import Entry, Store, StoreError

WRITING = f"{local_files.TEMPORARY}writing"
REMOVING = f"{local_files.TEMPORARY}gc"
YOUNG_HOURS = 24.0
"Age from which a folder is taken for abandoned where no lock can tell."
WAIT_SECONDS = 600.0
"How long a writer waits for a gc that is removing its folder."
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL, errno.EISDIR}


@contextmanager
def writing(store: Store, folder: str) -> Iterator[None]:
    """Keep gc away from a folder, which is made if need be, until the block ends.

    Any number of writers may hold one folder.

    Raises:
        StoreError: gc has been removing the folder for ten minutes.
    """
    local = store.local_path(folder)
    if local is None:
        with _writing_remote(store, folder):
            yield
        return
    handle = _hold_shared(local)
    try:
        yield
    finally:
        os.close(handle)


@contextmanager
def removing(
    store: Store, folder: str, hours: float | None, *, dry: bool = False
) -> Iterator[bool]:
    """Hold a folder that nobody writes, so that it can be removed; False where somebody does.

    Args:
        hours: how long ago the newest file must have been written; None asks no age where locks
            tell, and a day elsewhere.
        dry: only look.
    """
    local = store.local_path(folder)
    if local is None:
        with _removing_remote(store, folder, YOUNG_HOURS if hours is None else hours, dry) as free:
            yield free
        return
    try:
        handle = os.open(local, os.O_RDONLY | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        yield False
        return
    try:
        yield _is_free(local, handle, hours)
    finally:
        os.close(handle)


def abandoned_files(store: Store) -> list[Entry]:
    """Return the temporary files whose writers died, sorted by path; object stores have none."""
    root = store.local_path()
    if root is None:
        return []
    found = []
    for name, size in local_files.list_files(root, temporary=True):
        with suppress(FileNotFoundError):
            if not _is_locked(root / name):
                found.append(Entry(name, size))
    return sorted(found, key=lambda entry: entry.path)


def remove_empty_folder(store: Store, folder: str) -> None:
    """Remove a folder unless something is in it; object stores have no folders."""
    local = store.local_path(folder)
    if local is not None:
        with suppress(OSError):  # not empty, or gone
            os.rmdir(local)


def _hold_shared(folder: Path) -> int:
    """Return a handle that holds the folder; gc may remove it before, then it is made again."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        local_files.make_folder(folder)
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            if _lock(handle, fcntl.LOCK_SH) and _is_there(handle, folder):
                return handle
            os.close(handle)
        if time.monotonic() > deadline:
            raise StoreError(
                f"{folder}: 'headrace gc' has been removing it for {WAIT_SECONDS:.0f} s. "
                "Wait for it or stop it, then run the command again."
            )
        time.sleep(0.02)


def _lock(handle: int, kind: int) -> bool:
    """Take a lock without waiting; where there are no locks, say that it was taken."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _is_there(handle: int, path: Path) -> bool:
    """Say whether a handle still is what has the path."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _is_free(folder: Path, handle: int, hours: float | None) -> bool:
    """Take the exclusive lock of a folder and ask its age; without locks age alone decides."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        hours = YOUNG_HOURS if hours is None else hours
    if not hours:
        return _is_there(handle, folder)
    times = [os.fstat(handle).st_mtime]
    for name, _ in local_files.list_files(folder):
        with suppress(FileNotFoundError):
            times.append(os.stat(folder / name).st_mtime)
    return max(times) < time.time() - 3600 * hours and _is_there(handle, folder)


def _is_locked(path: Path) -> bool:
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True  # or no file system for locks: then the file may be somebody's
    finally:
        os.close(handle)
    return False


@contextmanager
def _writing_remote(store: Store, folder: str) -> Iterator[None]:
    """Leave a fresh file, then look for a gc: of two that start at once, one sees the other."""
    deadline = time.monotonic() + WAIT_SECONDS
    store.write(f"{folder}/{WRITING}", b"")
    while store.exists(f"{folder}/{REMOVING}"):
        if _age(store, f"{folder}/{REMOVING}") > WAIT_SECONDS:
            store.delete(f"{folder}/{REMOVING}")  # its gc died
        elif time.monotonic() > deadline:
            raise StoreError(
                f"{store.uri}: 'headrace gc' has been removing {folder} for {WAIT_SECONDS:.0f} s. "
                "Wait for it or stop it, then run the command again."
            )
        else:
            time.sleep(1.0)
    store.write(f"{folder}/{WRITING}", b"")  # gc may have removed the first one
    try:
        yield
    finally:
        with suppress(StoreError):  # what stays grows old; the error that ended the block counts
            store.delete(f"{folder}/{WRITING}")


@contextmanager
def _removing_remote(store: Store, folder: str, hours: float, dry: bool) -> Iterator[bool]:
    if _youngest(store, folder) < 3600 * hours:
        yield False
        return
    if dry:
        yield True
        return
    store.write(f"{folder}/{REMOVING}", b"")
    try:
        yield (
            not store.exists(f"{folder}/{WRITING}")
            or _age(store, f"{folder}/{WRITING}") >= 3600 * hours
        )
    finally:
        store.delete(f"{folder}/{REMOVING}")


def _youngest(store: Store, folder: str) -> float:
    """Return the age in seconds of the newest object below a folder, gc's own not counted."""
    filesystem, root = remote.open_remote(store.uri)
    chosen = pafs.FileSelector(f"{root}/{folder}", recursive=True, allow_not_found=True)
    times = [
        info.mtime.timestamp()
        for info in filesystem.get_file_info(chosen)
        if info.mtime is not None and info.base_name != REMOVING
    ]
    return time.time() - max(times) if times else float("inf")


def _age(store: Store, path: str) -> float:
    filesystem, root = remote.open_remote(store.uri)
    written = filesystem.get_file_info(f"{root}/{path}").mtime
    return time.time() - written.timestamp() if written is not None else float("inf")
