"""The store on S3, against moto's server on the loopback interface: a real protocol, no network."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from storage import remote
from storage.fs import Store, StoreError, open_store
from storage.snapshots import PartEntry, commit_part, read_snapshot
from tests.s3_server import s3_server, s3_uri
from tests.unit.storage.contract import (  # noqa: F401 (collected here, for this store)
    test_files,
    test_names_say_nothing_of_the_bytes,
    test_one_of_several_writers_wins,
    test_shards_and_tables,
)
from tests.unit.storage.http_answers import BUSY, FORBIDDEN, Answers


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("bucket") as address:
        yield address


@pytest.fixture
def store(endpoint: str, request: pytest.FixtureRequest) -> Store:
    return open_store(s3_uri(endpoint, f"bucket/{request.node.name}"))


def test_large_files_are_one_object(store: Store) -> None:
    data = bytes(range(256)) * 60_000
    store.write("large", data)
    assert store.read("large") == data
    assert store.read_range("large", 10_000_000, 300) == data[10_000_000:10_000_300]


def test_a_lost_answer_to_a_put_still_wins(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes arrived, the answer did not, and the request is made again (T2)."""
    client, error, transport = remote._s3_client(remote.s3_place(store.uri), remote.os.getpid())

    class Twice:
        def __getattr__(self, name: str) -> Any:
            return getattr(client, name)

        def put_object(self, **options: Any) -> Any:
            client.put_object(**options)
            return client.put_object(**options)

    monkeypatch.setattr(remote, "_s3_client", lambda *_: (Twice(), error, transport))
    assert store.put_if_absent("x", b"1")
    monkeypatch.undo()
    assert not store.put_if_absent("x", b"1")


def entry(name: str) -> PartEntry:
    numbers = dict.fromkeys(("samples", "bytes", "inputs", "written", "duplicates", "rejects"), 0)
    hashes = dict.fromkeys(("manifest_sha256", "rejects_sha256", "inputs_sha256"), "")
    return PartEntry(part=name, shards=[], records={}, spec={}, stats={}, **numbers, **hashes)


def test_no_commit_is_lost(store: Store) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda i: commit_part(store, "d", entry(f"p{i}"), {}), range(6)))
    last = read_snapshot(store, "d")
    assert last is not None
    assert last.number == 6
    assert sorted(part.part for part in last.parts) == [f"p{i}" for i in range(6)]


def test_a_missing_bucket_is_named(endpoint: str) -> None:
    with pytest.raises(StoreError, match="there is no bucket 'elsewhere'"):
        open_store(s3_uri(endpoint, "elsewhere/x"))
    with pytest.raises(StoreError, match="could not write a"):
        Store(s3_uri(endpoint, "elsewhere/x")).write("a", b"")
    with pytest.raises(StoreError, match="could not write a"):
        Store(s3_uri(endpoint, "elsewhere/x")).put_if_absent("a", b"")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(remote, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(remote, "ATTEMPTS", 1)


SILENT_USES: dict[str, tuple[Callable[[str], object], str]] = {
    "open": (open_store, "cannot be reached"),
    "read": (lambda place: Store(place).read("a"), "could not read a"),
    "list": (lambda place: Store(place).list("a"), "could not list a"),
    "commit": (lambda place: Store(place).put_if_absent("a", b""), "could not write a"),
    "write": (lambda place: Store(place).write("a", b"1"), "could not write a"),
}


@pytest.mark.parametrize(
    "use", ["open", *(pytest.param(n, marks=pytest.mark.slow) for n in list(SILENT_USES)[1:])]
)
def test_a_silent_server_is_given_up(quick: None, use: str) -> None:
    """G10: it accepts connections and never answers. An upload is given 6 s more by curl."""
    function, message = SILENT_USES[use]
    with socket.create_server(("127.0.0.1", 0), backlog=50) as server:
        began = time.monotonic()
        with pytest.raises(StoreError, match=message):
            function(s3_uri(f"127.0.0.1:{server.getsockname()[1]}", "bucket/x"))
        assert time.monotonic() - began < 15


def test_nobody_at_the_address(quick: None) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = s3_uri(f"127.0.0.1:{taken.getsockname()[1]}", "bucket/x")
    with pytest.raises(StoreError, match=r"cannot be reached.*Check the address"):
        open_store(place)
    with pytest.raises(StoreError, match="could not write a"):
        Store(place).put_if_absent("a", b"")


def test_waiting_is_bounded_by_default() -> None:
    """The longest silence: every attempt of one request waits its full time."""
    assert remote.ATTEMPTS * (remote.CONNECT_SECONDS + remote.REQUEST_SECONDS + 6) <= 180


def test_a_refused_key_is_named(quick: None) -> None:
    with Answers(lambda _: FORBIDDEN) as server:
        place = s3_uri(server.address, "bucket/x")
        with pytest.raises(StoreError, match=r"refused the key .*ACCESS_DENIED.*credentials"):
            open_store(place)
        with pytest.raises(StoreError, match=r"could not write a .*403"):
            Store(place).put_if_absent("a", b"")
    assert server.requests <= 8


def test_a_busy_server_is_asked_again(endpoint: str) -> None:
    """Every second request is answered with 503, as S3 does when it is asked too often."""
    with Answers(lambda number: BUSY if number % 2 == 0 else None, endpoint) as server:
        store = open_store(s3_uri(server.address, "bucket/busy"))
        store.write("a", b"1" * 100_000)
        assert store.read("a") == b"1" * 100_000
        assert store.put_if_absent("b", b"2")
        assert server.refused >= 3


def test_a_server_that_stays_busy_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    with Answers(lambda _: BUSY) as server:
        place = s3_uri(server.address, "bucket/stays")
        for use in (lambda: open_store(place), lambda: Store(place).put_if_absent("a", b"")):
            server.requests = 0
            with pytest.raises(StoreError, match=r"cannot be reached|could not write a"):
                use()
            assert 2 <= server.requests <= 4
