"""A store: a folder or a bucket, opened by its URI. What is written is there whole or not at all.

Paths are relative to the store and "/"-separated. Temporary files begin with `.tmp-`; a listing
hides them. A missing file is a FileNotFoundError; anything else that goes wrong is a StoreError
that names store and path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from storage import local_files, remote
from storage.local_files import TEMPORARY
from storage.remote import StoreError

__all__ = ["Entry", "Store", "StoreError", "open_store", "plain_uri", "split_uri"]


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store."""

    path: str
    size: int


def _local_root(uri: str) -> Path | None:
    """Return the folder that a URI names, from where the process is; None for a remote one."""
    if "://" in uri or uri.startswith("/"):
        return _absolute_root(uri)
    return Path(os.path.abspath(os.path.expanduser(uri)))


@lru_cache(maxsize=256)
def _absolute_root(uri: str) -> Path | None:
    if uri.startswith("file://"):
        return Path(unquote(urlsplit(uri).path))
    return None if "://" in uri else Path(os.path.abspath(uri))


@dataclass(frozen=True, slots=True)
class Store:
    """A place for files, known by its URI alone, so that it can travel to any worker."""

    uri: str

    def local_path(self, path: str = "") -> Path | None:
        """Return the place of a file on this machine; None for a remote store."""
        root = _local_root(self.uri)
        return None if root is None else root / _checked(path)

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        local = self.local_path(path)
        with self._doing("read", path):
            if local is not None:
                return local.read_bytes()
            filesystem, place = self._place(path)
            with filesystem.open_input_stream(place, compression=None) as stream:
                return bytes(stream.read())

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer where the file ends."""
        local = self.local_path(path)
        with self._doing("read", path):
            if local is not None:
                return local_files.read_range(local, offset, size)
            with self.open_remote_file(path) as file:
                return bytes(file.read_at(size, offset))

    def open_remote_file(self, path: str) -> Any:
        """Return an open file of a remote store; threads may share its `read_at(size, offset)`."""
        filesystem, place = self._place(path)
        return filesystem.open_input_file(place)

    def size(self, path: str) -> int:
        """Return a file's size in bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        size = self._size(path)
        if size is None:
            raise FileNotFoundError(f"{self.uri}: holds no file {path!r}.")
        return size

    def exists(self, path: str) -> bool:
        """Say whether there is such a file (a folder is none)."""
        return self._size(path) is not None

    def _size(self, path: str) -> int | None:
        local = self.local_path(path)
        with self._doing("look at", path):
            if local is not None:
                return local.stat().st_size if local.is_file() else None
            filesystem, place = self._place(path)
            info = filesystem.get_file_info(place)
            return int(info.size) if info.type == pafs.FileType.File else None

    def write(self, path: str, data: bytes | mmap) -> None:
        """Write a file whole or not at all, replacing one that is there. Makes folders.

        On a disk: temporary file, fsync, rename, fsync of the folder. In an object store: one
        upload, which shows when it is complete. Elsewhere (HDFS): temporary file and rename.
        """
        local = self.local_path(_file(path))
        with self._doing("write", path):
            if local is not None:
                local_files.write_file(local, data)
            else:
                remote.write_file(*self._place(path), data)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether this call wrote it.

        On a disk a hard link decides, on S3 a conditional PUT and on HDFS a rename, so exactly one
        of several writers wins. On gs (pyarrow has no conditional write there) the store is asked
        first and written then: two writers within that moment can both win, so let one process at
        a time commit there.
        """
        local = self.local_path(_file(path))
        with self._doing("write", path):
            if local is not None:
                return local_files.write_if_absent(local, data)
            if self.uri.startswith("s3://"):
                return remote.s3_put_if_absent(self.uri, path, data)
            filesystem, place = self._place(path)
            if filesystem.type_name not in remote.OBJECT_STORES:
                return remote.rename_if_absent(filesystem, place, data)
        if self.exists(path):
            return False
        self.write(path, data)
        return True

    def list(self, prefix: str = "") -> list[Entry]:
        """Return the files below a folder, sorted by path; none where the folder is missing."""
        local = self.local_path(prefix)
        above = f"{prefix}/" if prefix else ""
        with self._doing("list", prefix):
            if local is not None:
                found = [Entry(above + path, size) for path, size in local_files.list_files(local)]
            else:
                found = [
                    Entry(above + path, int(info.size))
                    for path, info in self._infos(prefix, recursive=True)
                    if info.type == pafs.FileType.File and not info.base_name.startswith(TEMPORARY)
                ]
        return sorted(found, key=lambda entry: entry.path)

    def walk(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the files below a folder in the order of their paths, as they are found.

        On a disk memory goes by the largest folder, not by all files.
        """
        local = self.local_path(prefix)
        if local is None:
            yield from self.list(prefix)
            return
        above = f"{prefix}/" if prefix else ""
        with self._doing("list", prefix):
            for path, size in local_files.walk_files(local):
                yield Entry(above + path, size)

    def folders(self, prefix: str = "") -> tuple[str, ...]:
        """Return the names of the folders directly below one, sorted; none where it is missing."""
        local = self.local_path(prefix)
        with self._doing("list", prefix):
            if local is not None:
                names = local_files.list_folders(local)
            else:
                found = self._infos(prefix, recursive=False)
                names = [path for path, info in found if info.type == pafs.FileType.Directory]
        return tuple(sorted(names))

    def _infos(self, prefix: str, *, recursive: bool) -> Iterator[tuple[str, Any]]:
        """Yield (path below the prefix, what pyarrow says of it)."""
        filesystem, place = self._place(prefix)
        for info in filesystem.get_file_info(
            pafs.FileSelector(place, recursive=recursive, allow_not_found=True)
        ):
            yield info.path[len(place) :].lstrip("/"), info

    def settle(self, *folders: str) -> None:
        """Make the names in folders last through a power cut, whoever gave them. Folders that are
        missing, and stores that are no disk, need it not."""
        for folder in folders:
            local = self.local_path(folder)
            if local is not None and local.is_dir():
                with self._doing("sync", folder):
                    local_files.sync_folder(local)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        local = self.local_path(_file(path))
        with self._doing("remove", path):
            if local is not None:
                local_files.delete_file(local)
            elif self.exists(path):
                filesystem, place = self._place(path)
                filesystem.delete_file(place)

    def delete_tree(self, path: str) -> None:
        """Remove a folder with all that is below it; one that is not there is no error."""
        local = self.local_path(_file(path))
        with self._doing("remove", path):
            if local is not None:
                local_files.delete_folder(local)
                return
            filesystem, place = self._place(path)
            if filesystem.get_file_info(place).type == pafs.FileType.Directory:
                filesystem.delete_dir(place)

    def delete_abandoned(self, prefix: str = "") -> int:
        """Remove temporary files whose writers died, below a folder; returns how many.

        Files that are being written stay: their writers hold a lock. Object stores have no
        temporary files.
        """
        local = self.local_path(prefix)
        with self._doing("clean", prefix):
            return local_files.delete_abandoned(local) if local is not None else 0

    def _place(self, path: str) -> tuple[pafs.FileSystem, str]:
        filesystem, root = remote.open_remote(self.uri)
        return filesystem, f"{root}/{_checked(path)}" if path else root

    @contextmanager
    def _doing(self, what: str, path: str) -> Iterator[None]:
        """Turn an error into one that names store and path; a missing file stays what it is."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except (OSError, pa.ArrowException) as error:
            failure = StoreError(
                f"{self.uri}: could not {what} {path or 'it'} ({error}). "
                "Check free space, permissions and connection, then run the command again."
            )
            failure.errno = getattr(error, "errno", None)
            raise failure from error


def open_store(uri: str | Path, *, writable: bool = True) -> Store:
    """Open a store and check that it can be used.

    Args:
        uri: a folder, which is made when it is missing, or s3://bucket/path, gs://bucket/path,
            hdfs://host/path.
        writable: False for a command that only reads; then the folder must exist and may be
            read-only.

    Raises:
        StoreError: not reachable, no such bucket, wrong key, or not writable.
    """
    local = _local_root(str(uri))
    if local is None:
        _check_remote(str(uri))
        return Store(str(uri))
    if local.exists() and not local.is_dir():
        raise StoreError(
            f"{local}: is a file. Give --store the folder that holds the datasets, or a new one."
        )
    if not writable and not local.is_dir():
        raise StoreError(
            f"{local}: there is no store. Correct --store, or make one with 'headrace ingest'."
        )
    try:
        local_files.make_folder(local)
    except OSError as error:
        raise StoreError(f"{local}: cannot be made ({error}). Use another --store.") from error
    if writable and not os.access(local, os.W_OK | os.X_OK):
        raise StoreError(
            f"{local}: this folder cannot be written. Change its owner or mode, or use "
            "another --store."
        )
    return Store(str(local))


def split_uri(uri: str) -> tuple[str, str]:
    """Return the folder above a path or URI, and its name there; options stay with the folder."""
    place, mark, options = uri.partition("?") if "://" in uri else (uri, "", "")
    above, _, name = place.rstrip("/").rpartition("/")
    if not above:
        above = "/" if place.startswith("/") else "."
    return above + mark + options, name


def plain_uri(uri: str) -> str:
    """Return a path or URI without options, such as a file's address can begin with.

    ./photos, photos/ and photos are one folder, so that its files are not taken for others.
    """
    if "://" in uri:
        return uri.partition("?")[0].rstrip("/")
    return os.path.normpath(uri).rstrip("/") if uri else uri


def _check_remote(uri: str) -> None:
    """Ask for the bucket, or for the root where there are no buckets.

    Raises:
        StoreError: not there, not reachable, or the key was refused.
    """
    filesystem, root = remote.open_remote(uri)
    bucket = root.split("/")[0] if filesystem.type_name in remote.OBJECT_STORES else root
    try:
        found = filesystem.get_file_info(bucket).type
    except OSError as error:
        raise StoreError(
            f"{uri}: cannot be reached, or refused the key ({error}). Check the address, the "
            "bucket's name and region, and the credentials (for s3:// AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY)."
        ) from error
    if found == pafs.FileType.NotFound and filesystem.type_name in remote.OBJECT_STORES:
        raise StoreError(f"{uri}: there is no bucket {bucket!r}. Make it, or correct --store.")


def _checked(path: str) -> str:
    """Return a relative path that stays in the store; empty for the store itself.

    Raises:
        ValueError: absolute, or with an empty part, `.` or `..`.
    """
    if path and ("\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/"))):
        raise ValueError(
            f"path {path!r} names no place in a store. Use parts joined by '/', without '..'."
        )
    return path


def _file(path: str) -> str:
    """Return a path that is not empty.

    Raises:
        ValueError: it is empty, which would be the store itself.
    """
    if not path:
        raise ValueError("path '' is the store itself. Name a file or folder in it.")
    return path
