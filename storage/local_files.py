"""Files on a disk: written whole or not at all, by a temporary file, fsync and one rename or link.

A writer holds a lock on its temporary file until the file has its name. A temporary file that
nobody locks belongs to a writer that died, so another process can tell it from one that is being
written, on any machine that shares the disk.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from mmap import mmap
from pathlib import Path

TEMPORARY = ".tmp-"
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_ATTEMPTS = 5


def write_file(target: Path, data: bytes | mmap) -> None:
    """Write or replace a file; after a crash at any point it is the old one or the new one."""
    for attempt in range(_ATTEMPTS):
        try:
            with _temporary(target, data) as temporary:
                os.replace(temporary, target)
                sync_folder(target.parent)
            return
        except FileNotFoundError:  # the folder, or the file before its lock, was cleaned away
            if attempt == _ATTEMPTS - 1:
                raise


def write_if_absent(target: Path, data: bytes) -> bool:
    """Write a file unless its name is taken; exactly one of several writers returns True."""
    for attempt in range(_ATTEMPTS):
        if os.path.lexists(target):
            return False
        try:
            with _temporary(target, data) as temporary:
                won = _link(temporary, target)
                sync_folder(target.parent)
            return won
        except FileNotFoundError:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError("write_if_absent: every attempt returns or raises")


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Return up to `size` bytes from `offset`; fewer where the file ends."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return pread_all(handle, size, offset)
    finally:
        os.close(handle)


def pread_all(handle: int, size: int, offset: int) -> bytes:
    """Return up to `size` bytes from `offset`, asking again where the system gives too few."""
    pieces = []
    while size > 0:
        piece = os.pread(handle, size, offset)
        if not piece:
            break
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def list_files(folder: Path, *, temporary: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (path below the folder, size) of every file, in no order; none where it is missing.

    Links to folders are followed, except round in a circle. Files that vanish meanwhile are left
    out.

    Args:
        temporary: yield only temporary files, which are hidden otherwise.
    """
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while waiting:
        below, above = waiting.pop()
        try:
            status = os.stat(folder / below)
            entries = list(os.scandir(folder / below))
        except FileNotFoundError:
            continue
        place = (status.st_dev, status.st_ino)
        if place in above:
            continue
        for entry in entries:
            path = f"{below}/{entry.name}" if below else entry.name
            if entry.is_dir():
                waiting.append((path, above | {place}))
            elif entry.name.startswith(TEMPORARY) == temporary and entry.is_file():
                with suppress(FileNotFoundError):
                    yield path, entry.stat().st_size


def walk_files(
    folder: Path, below: str = "", above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[tuple[str, int]]:
    """Yield what `list_files` does in the order of the paths, holding one folder of each level.

    A link that leads nowhere is yielded with size -1: somebody meant a file to be there.
    """
    try:
        status = os.stat(folder / below)
        with os.scandir(folder / below) as entries:  # names alone: entries take ten times as much
            names = sorted(e.name + "/" if e.is_dir() else e.name for e in entries)
    except (FileNotFoundError, NotADirectoryError):
        return
    place = (status.st_dev, status.st_ino)
    if place in above:
        return
    for name in names:
        path = f"{below}/{name}" if below else name
        if name.endswith("/"):
            yield from walk_files(folder, path[:-1], above | {place})
        elif not name.startswith(TEMPORARY):
            whole = os.path.join(folder, path)
            try:
                found = os.stat(whole)
            except FileNotFoundError:
                if os.path.islink(whole):
                    yield path, -1
                continue
            if stat.S_ISREG(found.st_mode):
                yield path, found.st_size


def list_folders(folder: Path) -> list[str]:
    """Return the names of the folders directly below a folder; none where it is missing."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_dir()]
    except FileNotFoundError:
        return []


def delete_file(path: Path) -> None:
    """Remove a file; one that is not there is no error."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def delete_folder(path: Path) -> None:
    """Remove a folder with all that is below it; links are removed, not followed."""
    if path.is_dir():
        shutil.rmtree(path, onerror=_unless_missing)


def delete_abandoned(folder: Path) -> int:
    """Remove the temporary files of writers that died; returns how many."""
    removed = 0
    for name, _ in list_files(folder, temporary=True):
        with suppress(FileNotFoundError):
            removed += _delete_unlocked(folder / name)
    return removed


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they last through a power cut."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    with suppress(FileExistsError):
        os.mkdir(folder)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if (
            error.errno != errno.EINVAL
        ):  # network file systems that sync names by themselves say so like this
            raise
    finally:
        os.close(handle)


@contextmanager
def _temporary(target: Path, data: bytes | mmap) -> Iterator[Path]:
    """Give a complete, synced and locked temporary file beside its target; gone afterwards."""
    make_folder(target.parent)
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with suppress(
            OSError
        ):  # a file system without locks: an abandoned file then stays until it is removed by hand
            fcntl.flock(handle, fcntl.LOCK_EX)
        _write_all(handle, data)
        os.fsync(handle)
        yield temporary
    finally:
        os.close(handle)
        delete_file(temporary)


def _write_all(handle: int, data: bytes | mmap) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _link(temporary: Path, target: Path) -> bool:
    """Give the file its name unless it is taken."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        # Over NFS the answer to a link that was made can get lost: asked again, it exists.
        return os.stat(temporary).st_nlink > 1
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename_if_absent(temporary, target)
    return True


def _rename_if_absent(temporary: Path, target: Path) -> bool:
    """Rename without replacing, for file systems without hard links (exFAT, some shares)."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    current_folder, no_replace = -100, 1  # AT_FDCWD and RENAME_NOREPLACE of linux/fs.h
    names = os.fsencode(temporary), os.fsencode(target)
    code = errno.ENOSYS
    if rename is not None:
        if rename(current_folder, names[0], current_folder, names[1], no_replace) == 0:
            return True
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    raise OSError(
        code,
        f"{target}: this file system has neither hard links nor exclusive renames "
        f"({os.strerror(code)}), so two writers cannot be told apart. Put the store on another",
    )


def _delete_unlocked(path: Path) -> bool:
    """Remove a file unless its writer lives."""
    handle = os.open(path, os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
            return False
        raise
    finally:
        os.close(handle)
    return True


def _unless_missing(
    _: object, __: str, failure: tuple[type[BaseException], BaseException, object]
) -> None:
    if not isinstance(failure[1], FileNotFoundError):
        raise failure[1]
