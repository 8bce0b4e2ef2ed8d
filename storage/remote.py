"""Remote file systems: opened by pyarrow, with deadlines and bounded retries.

One thing pyarrow cannot do is a conditional PUT, by which exactly one of two writers wins. S3 has
it (`If-None-Match: *`) and boto3 can say it, so that call alone goes through boto3.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import dataclass
from functools import lru_cache
from mmap import mmap
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from storage.local_files import TEMPORARY

CONNECT_SECONDS = 5.0
REQUEST_SECONDS = 30.0
"without a byte of an answer, then the request is given up"
ATTEMPTS = 4
GCS_SECONDS = 30.0
"of retries of one call to Google's storage"
SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "mock")
"`mock` is pyarrow's file system in memory."
OBJECT_STORES = {"s3", "gcs"}
"File systems in which an object appears whole when its upload ends."
_OPENING = {
    "s3": "Use s3://bucket/path, and give the region by AWS_REGION.",
    "gs": "Use gs://bucket/path.",
    "gcs": "Use gs://bucket/path.",
    "hdfs": "HDFS needs Java and Hadoop's libhdfs: set JAVA_HOME, HADOOP_HOME and CLASSPATH.",
    "viewfs": "HDFS needs Java and Hadoop's libhdfs: set JAVA_HOME, HADOOP_HOME and CLASSPATH.",
}
_S3_QUERY = {"endpoint_override", "scheme", "region", "anonymous"}


class StoreError(OSError):
    """A store that cannot be opened, read or written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Place:
    """What an s3:// URI says, completed from the environment."""

    bucket: str
    prefix: str
    endpoint: str | None
    "scheme://host:port, or None for AWS itself"
    region: str | None
    anonymous: bool


def open_remote(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI, opened once a process, and the root of the store in it.

    Raises:
        StoreError: not a URI that can be opened.
    """
    return _open_once(uri, os.getpid())


@lru_cache(maxsize=64)
def _open_once(uri: str, _process: int) -> tuple[pafs.FileSystem, str]:
    scheme = uri.partition("://")[0]
    if scheme not in SCHEMES:
        # Others are not asked: pyarrow ends the process at an abfs:// without credentials.
        raise StoreError(
            f"{uri}: stores on {scheme}:// are not supported. "
            "Use a folder, s3://bucket/path, gs://bucket/path or hdfs://host/path."
        )
    try:
        if uri.startswith("s3://"):
            place = s3_place(uri)
            return _open_s3(place), f"{place.bucket}/{place.prefix}".rstrip("/")
        if uri.startswith(("gs://", "gcs://")) and "retry_limit_seconds" not in uri:
            uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GCS_SECONDS:.0f}"
        filesystem, root = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowException, NotImplementedError, OSError) as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"{uri}: cannot be opened ({error}). {_OPENING.get(scheme, '')}"
        ) from error
    return filesystem, root.rstrip("/")


def write_file(filesystem: pafs.FileSystem, place: str, data: bytes | mmap) -> None:
    """Write a file whole or not at all, replacing one that is there."""
    if filesystem.type_name in OBJECT_STORES:
        with filesystem.open_output_stream(place, compression=None) as stream:
            stream.write(data)
        return
    temporary = _write_beside(filesystem, place, data)
    try:
        filesystem.move(temporary, place)
    except OSError:  # HDFS renames onto no file that is there
        if filesystem.get_file_info(place).type != pafs.FileType.File:
            raise
        filesystem.delete_file(place)
        filesystem.move(temporary, place)


def rename_if_absent(filesystem: pafs.FileSystem, place: str, data: bytes) -> bool:
    """Write a file unless it exists, where a rename refuses to replace: exactly one writer wins."""
    if filesystem.get_file_info(place).type != pafs.FileType.NotFound:
        return False
    temporary = _write_beside(filesystem, place, data)
    try:
        filesystem.move(temporary, place)
    except OSError:
        filesystem.delete_file(temporary)
        if filesystem.get_file_info(place).type == pafs.FileType.NotFound:
            raise
        return False
    return True


def _write_beside(filesystem: pafs.FileSystem, place: str, data: bytes | mmap) -> str:
    """Write a temporary file into the folder of a place, and return where it is."""
    folder = place.rpartition("/")[0]
    temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
    filesystem.create_dir(folder, recursive=True)
    with filesystem.open_output_stream(temporary, compression=None) as stream:
        stream.write(data)
    return temporary


@lru_cache(maxsize=64)
def s3_place(uri: str) -> S3Place:
    """Return what an s3:// URI and the environment say.

    Raises:
        StoreError: no bucket, a key in the URI, or an option that is not known.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc:
        raise StoreError(
            f"s3://…@{parts.netloc.rpartition('@')[2]}: holds a key, which logs would show. "
            "Give it by AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or in ~/.aws/credentials."
        )
    query = dict(parse_qsl(parts.query))
    unknown = sorted(query.keys() - _S3_QUERY)
    if not parts.netloc or unknown:
        seen = f"knows no option {', '.join(unknown)}" if unknown else "names no bucket"
        raise StoreError(
            f"{uri}: {seen}. Use s3://bucket/path, options: {', '.join(sorted(_S3_QUERY))}."
        )
    endpoint = query.get("endpoint_override") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint and "://" not in endpoint:
        endpoint = f"{query.get('scheme', 'https')}://{endpoint}"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return S3Place(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=endpoint,
        region=query.get("region") or region or ("us-east-1" if endpoint else None),
        anonymous=query.get("anonymous", "").lower() in ("1", "true"),
    )


def _open_s3(place: S3Place) -> pafs.FileSystem:
    scheme, _, host = (place.endpoint or "").rpartition("://")
    return pafs.S3FileSystem(
        endpoint_override=host or None,
        scheme=scheme or "https",
        region=place.region or pafs.resolve_s3_region(place.bucket),
        anonymous=place.anonymous,
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
        allow_delayed_open=True,  # a small file is one PUT, not an upload of three requests
    )


def s3_put_if_absent(uri: str, path: str, data: bytes) -> bool:
    """Put an object unless its name is taken; exactly one of several writers returns True.

    The object carries who wrote it: when an answer gets lost and the repeated request finds the
    name taken, its writer is asked for, so a winner always learns that it won.

    Raises:
        StoreError: refused, not reachable, or boto3 is not installed.
    """
    place = s3_place(uri)
    client, client_error, transport_error = _s3_client(place, os.getpid())
    where = {"Bucket": place.bucket, "Key": f"{place.prefix}/{path}".lstrip("/")}
    writer = uuid.uuid4().hex
    try:
        for attempt in range(ATTEMPTS):
            try:
                client.put_object(**where, Body=data, IfNoneMatch="*", Metadata={"writer": writer})
                return True
            except client_error as error:
                status = error.response["ResponseMetadata"]["HTTPStatusCode"]
                if status == 412:
                    return bool(client.head_object(**where)["Metadata"].get("writer") == writer)
                if (
                    status != 409 or attempt == ATTEMPTS - 1
                ):  # 409: another request at this moment, ask again
                    raise
                time.sleep(0.1 * 2**attempt)
    except (client_error, transport_error) as error:
        raise StoreError(
            f"{uri}: could not write {path} ({error}). Check the address, bucket and key."
        ) from error
    raise AssertionError("s3_put_if_absent: every attempt returns or raises")


@lru_cache(maxsize=8)
def _s3_client(place: S3Place, _process: int) -> tuple[Any, type[Any], type[Any]]:
    """Return a boto3 client, made once a process, and the errors that it raises."""
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise StoreError(
            f"s3://{place.bucket}: committing to S3 needs boto3, as pyarrow has no conditional "
            "PUT. Install it with 'pip install boto3'."
        ) from error
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=REQUEST_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    session = boto3.session.Session()
    client = session.client(
        "s3", endpoint_url=place.endpoint, region_name=place.region, config=config
    )
    return client, ClientError, BotoCoreError
