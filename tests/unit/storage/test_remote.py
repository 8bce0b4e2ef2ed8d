"""Stores that are neither a disk nor S3: HDFS's rules of renaming, Google's errors, no others."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from storage import remote
from storage.fs import Store, StoreError, open_store
from tests.unit.storage import contract
from tests.unit.storage.contract import (  # noqa: F401 (collected here, for these stores)
    test_files,
    test_names_say_nothing_of_the_bytes,
    test_shards_and_tables,
)
from tests.unit.storage.renaming import RenamesOntoNothing, use_for_hdfs

HDFS = "renames as HDFS does"


@pytest.fixture(params=["in memory", HDFS])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "in memory":
        return open_store(f"mock:///{tmp_path.name}")
    use_for_hdfs(monkeypatch, RenamesOntoNothing(tmp_path))
    return open_store("hdfs://cluster/store")


@pytest.mark.parametrize("store", [HDFS], indirect=True)  # in memory, a rename replaces
def test_one_of_several_writers_wins(store: Store) -> None:
    contract.test_one_of_several_writers_wins(store)


def test_a_file_stays_readable_when_it_is_replaced(store: Store) -> None:
    store.write("f", b"old")
    filesystem, root = remote.open_remote(store.uri)
    with filesystem.open_output_stream(f"{root}/.tmp-half") as stream:
        stream.write(b"ha")
    assert [entry.path for entry in store.list()] == ["f"]
    store.write("f", b"new")
    assert store.read("f") == b"new"
    assert filesystem.get_file_info(f"{root}/.tmp-half").type == pafs.FileType.File


@pytest.mark.parametrize("uri", ["abfs://box@account.dfs.core.windows.net/x", "ftp://host/x"])
def test_other_schemes_are_refused(uri: str) -> None:
    with pytest.raises(StoreError, match=r"are not supported. Use a folder, s3://"):
        open_store(uri)


def test_hdfs_without_its_library_says_what_is_needed() -> None:
    with pytest.raises(StoreError, match=r"JAVA_HOME|cannot be reached"):
        open_store("hdfs://127.0.0.1:1/x")


def test_a_google_store_that_refuses_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "GCS_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(StoreError, match=r"gs://.* cannot be reached"):
        open_store(f"gs://anonymous@bucket/x?endpoint_override=127.0.0.1:{port}&scheme=http")
    assert time.monotonic() - began < 20
