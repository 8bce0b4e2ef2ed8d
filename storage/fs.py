"""A store: a folder or a bucket, opened by its URI. Whatever is written is there whole or not at all.

Paths are relative to the store and "/"-separated. Temporary files begin with `.tmp-`; a listing hides them.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

TEMPORARY = ".tmp-"
CONNECT_SECONDS = 10.0
REQUEST_SECONDS = 60.0


class StoreError(OSError):
    """A store that cannot be opened, read or written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a store."""

    path: str
    size: int


@lru_cache(maxsize=32)
def _filesystem(uri: str) -> tuple[pafs.FileSystem, str]:
    """Open the filesystem of a URI once a process; returns it with the root path below it."""
    if "://" not in uri:
        return pafs.LocalFileSystem(), str(Path(uri).absolute())
    try:
        if uri.startswith("s3://"):
            return _s3(uri)
        filesystem, root = pafs.FileSystem.from_uri(uri)
        return filesystem, root.rstrip("/")
    except (pa.ArrowInvalid, OSError, NotImplementedError) as error:
        raise StoreError(f"{uri}: cannot be opened ({error}). Use a folder, s3://bucket/path or gs://bucket/path.") from error


def _s3(uri: str) -> tuple[pafs.FileSystem, str]:
    """Open S3 with deadlines; endpoint and scheme come from the URI's query or the usual environment variables."""
    parts = urlsplit(uri)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    endpoint = query.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL", "")
    scheme, _, host = endpoint.rpartition("://")
    options = {
        "endpoint_override": host or None,
        "scheme": query.get("scheme") or scheme or "https",
        "region": query.get("region") or os.environ.get("AWS_DEFAULT_REGION"),
        "connect_timeout": CONNECT_SECONDS,
        "request_timeout": REQUEST_SECONDS,
        "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=5),
    }
    filesystem = pafs.S3FileSystem(**{k: v for k, v in options.items() if v is not None})
    return filesystem, f"{parts.netloc}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Store:
    """A place for files, known by its URI alone, so that it can travel to any worker."""

    uri: str

    def local_path(self, path: str = "") -> Path | None:
        """Return the place of a file on this machine; None for a remote store."""
        filesystem, root = _filesystem(self.uri)
        return Path(root) / _checked(path) if isinstance(filesystem, pafs.LocalFileSystem) else None

    def _place(self, path: str) -> tuple[pafs.FileSystem, str]:
        filesystem, root = _filesystem(self.uri)
        return filesystem, f"{root.rstrip('/')}/{_checked(path)}" if path else root

    def read(self, path: str) -> bytes:
        """Return a file's bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        local = self.local_path(path)
        if local is not None:
            return local.read_bytes()
        filesystem, place = self._place(path)
        with filesystem.open_input_stream(place) as stream:
            return bytes(stream.read())

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer where the file ends."""
        filesystem, place = self._place(path)
        with filesystem.open_input_file(place) as file:
            file.seek(offset)
            return bytes(file.read(size))

    def size(self, path: str) -> int:
        """Return a file's size in bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        info = self._info(path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError(f"{self.uri}: holds no file {path!r}.")
        return int(info.size)

    def exists(self, path: str) -> bool:
        """Say whether there is such a file (a folder is none)."""
        return bool(self._info(path).type == pafs.FileType.File)

    def _info(self, path: str) -> pafs.FileInfo:
        filesystem, place = self._place(path)
        return filesystem.get_file_info(place)

    def write(self, path: str, data: bytes) -> None:
        """Write a file whole or not at all: on a disk temporary file, fsync, rename; remotely one PUT."""
        local = self.local_path(path)
        if local is None:
            filesystem, place = self._place(path)
            with filesystem.open_output_stream(place) as stream:
                stream.write(data)
            return
        temporary = _write_temporary(local, data)
        try:
            os.replace(temporary, local)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        _sync_folder(local.parent)

    def put_if_absent(self, path: str, data: bytes) -> bool:
        """Write a file unless it exists; returns whether this call wrote it.

        On a disk a hard link decides, so exactly one of several writers wins. S3 decides by a conditional PUT. Other
        remote stores are asked first and written then: two writers within that moment can both win.
        """
        local = self.local_path(path)
        if local is not None:
            return _link_if_absent(local, data)
        if self.uri.startswith("s3://"):
            return _s3_put_if_absent(self.uri, path, data)
        if self.exists(path):
            return False
        self.write(path, data)
        return True

    def list(self, prefix: str = "") -> list[Entry]:
        """Return the files below a folder, sorted by path; none where the folder is missing."""
        filesystem, root = _filesystem(self.uri)
        _, place = self._place(prefix)
        selector = pafs.FileSelector(place, recursive=True, allow_not_found=True)
        start = len(root.rstrip("/")) + 1
        found = [
            Entry(info.path[start:], int(info.size))
            for info in filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File and not info.base_name.startswith(TEMPORARY)
        ]
        return sorted(found, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        """Remove a file; one that is not there is no error."""
        if self.exists(path):
            filesystem, place = self._place(path)
            filesystem.delete_file(place)

    def delete_tree(self, path: str) -> None:
        """Remove a folder with all that is below it."""
        filesystem, place = self._place(path)
        if filesystem.get_file_info(place).type == pafs.FileType.Directory:
            filesystem.delete_dir(place)


def open_store(uri: str | Path) -> Store:
    """Open a store and check that it can be used; a local folder is made when it is missing.

    Raises:
        StoreError: not reachable, no such bucket, wrong key, or not writable.
    """
    store = Store(str(uri))
    local = store.local_path()
    try:
        if local is not None:
            local.mkdir(parents=True, exist_ok=True)
            if not os.access(local, os.W_OK):
                raise StoreError(f"{uri}: this folder cannot be written. Change its owner or mode, or use another --store.")
        else:
            filesystem, root = _filesystem(store.uri)
            bucket = root.split("/")[0]
            if filesystem.get_file_info(bucket).type == pafs.FileType.NotFound:
                raise StoreError(f"{uri}: there is no bucket {bucket!r}. Make it, or correct --store.")
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"{uri}: cannot be reached or refused the key ({error}). Check the address and the credentials.") from error
    return store


def _checked(path: str) -> str:
    """Return a relative path that stays in the store.

    Raises:
        ValueError: absolute, or with `..`.
    """
    if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
        raise ValueError(f"path {path!r} leaves the store. Use a path below it, without '..'.")
    return path


def _write_temporary(target: Path, data: bytes) -> Path:
    """Write and fsync a temporary file beside its target."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.parent / f"{TEMPORARY}{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _link_if_absent(target: Path, data: bytes) -> bool:
    temporary = _write_temporary(target, data)
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)
    return True


def _sync_folder(folder: Path) -> None:
    """Make a rename in a folder last through a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _s3_put_if_absent(uri: str, path: str, data: bytes) -> bool:
    """Put with `If-None-Match: *`, which pyarrow cannot say; boto3 can."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import ClientError
    except ImportError as error:
        raise StoreError(f"{uri}: committing to S3 needs boto3. Install it with 'pip install boto3'.") from error
    parts = urlsplit(uri)
    query = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if "endpoint_override" in query:
        endpoint = f"{query.get('scheme', 'https')}://{query['endpoint_override']}"
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=REQUEST_SECONDS, retries={"max_attempts": 5})
    client = boto3.client("s3", endpoint_url=endpoint, config=config)
    key = f"{parts.path.strip('/')}/{path}".lstrip("/")
    try:
        client.put_object(Bucket=parts.netloc, Key=key, Body=data, IfNoneMatch="*")
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in (409, 412):
            return False
        raise StoreError(f"{uri}: could not write {path} ({error}).") from error
    return True
