"""gc removes what nothing names and nothing else, also beside a living writer (G2)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import gc as garbage
from pipelines.derive import derive
from pipelines.executors import Executor
from pipelines.gc import collect
from pipelines.ingest import ingest
from pipelines.repair import repair
from pipelines.verify import verify
from storage.fs import Store, open_store
from storage.snapshots import SnapshotError, read_snapshot, snapshot_path
from storage.writers import writing
from tests.integration.raw import make_images
from tests.integration.test_ingest import spec, tree_hash

DIRECT = Executor()


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with a dataset of one part and one column."""
    store = open_store(tmp_path / "store")
    ingest(store, [str(make_images(tmp_path / "raw"))], "photos", spec(), DIRECT)
    derive(store, "photos", {"hog": {}}, DIRECT)
    return tmp_path / "store"


def part_of(store: Store) -> str:
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    return f"datasets/photos/parts/{snapshot.parts[0].part}"


def leave_garbage(place: Path, store: Store) -> dict[str, bytes]:
    """Write what killed ingests and derives leave behind; returns it by path."""
    part = part_of(store)
    column = next(e.path for e in store.list("datasets/photos/columns") if "column.json" in e.path)
    column = column.rpartition("/")[0]
    left = {
        "datasets/photos/parts/0123456789abcdef/shard-000000.tar": b"whole",
        "datasets/photos/parts/0123456789abcdef/records/shard-000000.json": b"{}",
        "datasets/photos/parts/0123456789abcdef/manifest.parquet": b"PAR1",
        "datasets/never/parts/0123456789abcdef/shard-000000.tar": b"no snapshot",
        f"{part}/shard-000999.tar": b"not in the snapshot",
        f"{part}/notes.txt": b"",
        f"{column}/0123456789abcdef/shard-000000.tar": b"of no part",
        f"{column}/{part.rpartition('/')[2]}/shard-000999.tar": b"not in the part",
        "datasets/photos/columns/hog-0123456789abcdef/x/shard-000000.tar": b"no column.json",
    }
    for path, data in left.items():
        store.write(path, data)
    temporary = f"{part}/.tmp-0123"
    (place / temporary).write_bytes(b"cut")
    return {**left, temporary: b"cut"}


def test_everything_that_nothing_names_goes_and_the_rest_stays(place: Path) -> None:
    store, before = open_store(place), tree_hash(place)
    left = leave_garbage(place, store)
    littered = tree_hash(place)
    told = collect(store, dry_run=True)
    assert tree_hash(place) == littered
    assert sorted(told["paths"]) == sorted(left)
    assert (told["removed"], told["bytes"]) == (len(left), sum(map(len, left.values())))
    assert collect(store) == told
    assert tree_hash(place) == before
    assert not (place / "datasets/photos/parts/0123456789abcdef").exists()
    assert collect(store)["removed"] == 0
    assert verify(store, "photos")["damaged"] == []


def test_records_go_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(place)
    leave_garbage(place, store)
    order: list[str] = []
    delete = Store.delete

    def watched(self: Store, path: str) -> None:
        order.append(path)
        delete(self, path)

    monkeypatch.setattr(Store, "delete", watched)
    collect(store)
    mine = [path for path in order if "parts/0123456789abcdef" in path and "photos" in path]
    assert "/records/" in mine[0]
    assert len(mine) == 3


def test_a_living_writer_keeps_what_is_not_named_yet(place: Path) -> None:
    store = open_store(place)
    folder = "datasets/photos/parts/0123456789abcdef"
    with writing(store, folder):
        store.write(f"{folder}/shard-000000.tar", b"being written")
        result = collect(store)
        assert (result["removed"], result["kept"]) == (0, [folder])
        assert store.exists(f"{folder}/shard-000000.tar")
    assert collect(store)["removed"] == 1


def test_a_part_that_is_named_while_gc_looks_stays(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit comes after gc has read the snapshots and before it holds the folder."""
    store = open_store(place)
    real = garbage.removing

    def commit_first(*arguments: object, **more: object) -> object:
        monkeypatch.setattr(garbage, "removing", real)
        ingest(store, [str(more_images)], "photos", spec(), DIRECT)
        return real(*arguments, **more)  # type: ignore[arg-type]

    more_images = make_images(tmp_path / "more", count=3, edge=52)
    other = open_store(tmp_path / "other")
    ingest(other, [str(tmp_path / "raw")], "photos", spec(), DIRECT)
    ingest(other, [str(more_images)], "photos", spec(), DIRECT)
    snapshot = read_snapshot(other, "photos")
    assert snapshot is not None
    coming = f"datasets/photos/parts/{snapshot.parts[1].part}"
    store.write(f"{coming}/leftover", b"of an ingest that was killed")
    monkeypatch.setattr(garbage, "removing", commit_first)
    assert collect(store)["paths"] == [f"{coming}/leftover"]
    assert verify(store, "photos") == {"samples": 15, "damaged": [], "repaired": []}


def test_an_interrupted_ingest_ends_in_the_same_bytes_after_gc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = str(make_images(tmp_path / "raw"))
    whole, torn = open_store(tmp_path / "whole"), open_store(tmp_path / "torn")
    ingest(whole, [raw], "photos", spec(), DIRECT)

    class Killed(BaseException):
        pass

    calls = 0
    write, delete = Store.write, Store.delete

    def write_five(self: Store, path: str, data: bytes) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise Killed
        write(self, path, data)

    def delete_one(self: Store, path: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise Killed
        delete(self, path)

    monkeypatch.setattr(Store, "write", write_five)
    with pytest.raises(Killed):
        ingest(torn, [raw], "photos", spec(), DIRECT)
    calls = 0
    monkeypatch.setattr(Store, "delete", delete_one)
    with pytest.raises(Killed):
        collect(torn)
    monkeypatch.undo()
    ingest(torn, [raw], "photos", spec(), DIRECT)
    assert tree_hash(tmp_path / "torn") == tree_hash(tmp_path / "whole")


def test_a_damaged_snapshot_stops_gc_before_it_removes_anything(place: Path) -> None:
    store = open_store(place)
    leave_garbage(place, store)
    store.write(snapshot_path("photos", 1), b"{}")
    before = tree_hash(place)
    with pytest.raises(SnapshotError):
        collect(store)
    assert tree_hash(place) == before


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield f"s3://bucket/store?endpoint_override={host}:{port}&scheme=http"
        server.stop()


def test_in_a_bucket_age_decides(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(bucket)
    folder = "datasets/photos/parts/0123456789abcdef"
    store.write(f"{folder}/shard-000000.tar", b"killed yesterday, or being written")
    store.write(f"{folder}/records/shard-000000.json", b"{}")
    assert collect(store) == {"removed": 0, "bytes": 0, "paths": [], "kept": [folder]}
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    told = collect(store, dry_run=True)
    assert told["removed"] == 2
    assert len(store.list()) == 2
    monkeypatch.undo()
    with writing(store, folder):  # an ingest goes on with it: all of it is young again
        assert collect(store, older_than=0.001)["removed"] == 0
    monkeypatch.setattr(time, "time", lambda: now + 25 * 3600)
    assert collect(store)["removed"] == 2
    assert store.list() == []


def test_in_a_bucket_a_dataset_is_kept_checked_and_repaired(bucket: str, tmp_path: Path) -> None:
    store = open_store(bucket.replace("/store?", "/whole?"))
    ingest(store, [str(make_images(tmp_path / "raw"))], "photos", spec(), DIRECT)
    derive(store, "photos", {"hog": {}}, DIRECT)
    before = {entry.path: store.read(entry.path) for entry in store.list()}
    assert collect(store, older_than=0.0)["removed"] == 0
    assert verify(store, "photos")["damaged"] == []
    lost = [f"{part_of(store)}/{name}" for name in ("shard-000000.tar", "manifest.parquet")]
    lost += [path for path in before if "/columns/" in path and path.endswith("0001.tar")]
    for path in lost:
        store.delete(path)
    result = repair(store, "photos", DIRECT)
    assert (result["damaged"], result["repaired"]) == ([], sorted(lost))
    assert {entry.path: store.read(entry.path) for entry in store.list()} == before
