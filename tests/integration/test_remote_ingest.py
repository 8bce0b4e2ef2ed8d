"""Ingest, verify and reading where source and store are remote: S3, and a store that renames."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipelines.catalog import open_snapshot, read_rejects, read_samples
from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from pipelines.verify import verify
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.raw import make_images
from tests.s3_server import s3_server, s3_uri
from tests.unit.storage.renaming import RenamesOntoNothing, use_for_hdfs

SPEC = IngestSpec(modality="image", shard_size=8192, heldout=0.2)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server("lab") as address:
        yield address


@pytest.fixture(params=["s3", "hdfs"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A URI with room for what follows a `%s`."""
    name = request.node.name.replace("[", "-").rstrip("]")
    if request.param == "hdfs":
        use_for_hdfs(monkeypatch, RenamesOntoNothing(tmp_path))
        yield f"hdfs://cluster/{name}/%s"
    else:
        endpoint = request.getfixturevalue("endpoint")
        yield s3_uri(endpoint, f"lab/{name}/PLACE").replace("PLACE", "%s")


def upload(folder: Path, target: Store) -> None:
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        target.write(str(path.relative_to(folder)), path.read_bytes())


def contents(store: Store) -> dict[str, str]:
    """The SHA-256 of every file of a store."""
    return {e.path: hashlib.sha256(store.read(e.path)).hexdigest() for e in store.list()}


@pytest.fixture
def raw(root: str, tmp_path: Path) -> str:
    """A folder of pictures on the store, two of them broken, and a tar of others."""
    folder = make_images(tmp_path / "made")
    (folder / "coarse" / "empty.png").write_bytes(b"")
    (folder / "coarse" / "broken.jpg").write_bytes(b"not a picture")
    upload(folder, Store(root % "raw"))
    others = make_images(tmp_path / "others", count=5, edge=50)
    for ending, mode in (("tar", "w"), ("tar.gz", "w:gz")):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=mode) as tar:
            tar.add(others, arcname="others")
        Store(root % "packed").write(f"others.{ending}", buffer.getvalue())
    return root % "raw"


def test_ingest_verify_and_read(root: str, raw: str, tmp_path: Path) -> None:
    store = open_store(root % "store")
    report = ingest(store, [raw], "photos", SPEC, Executor())
    assert (report["inputs"], report["written"], report["rejects"]) == (14, 12, 2)
    assert {r["reason_class"] for r in read_rejects(store, "photos")} == {
        "empty_file",
        "unrecognised_format",
    }
    checked = verify(store, "photos")
    assert (checked["samples"], checked["damaged"]) == (12, [])

    again = ingest(store, [raw], "photos", SPEC, Executor())
    assert (again["skipped"], again["written"], again["snapshot"]) == (14, 0, report["snapshot"])

    at_home = open_store(tmp_path / "store")
    ingest(at_home, [raw], "photos", SPEC, Executor())
    assert contents(at_home) == contents(store)


def test_packed_sources(root: str, raw: str) -> None:
    store = open_store(root % "store")
    plain = ingest(store, [root % "packed/others.tar"], "plain", SPEC, Executor())
    packed = ingest(store, [root % "packed/others.tar.gz"], "packed", SPEC, Executor())
    assert plain["written"] == packed["written"] == 5
    both = [
        [sample["key"] for sample in read_samples(store, name, 9)] for name in ("plain", "packed")
    ]
    assert both[0] == both[1]


def test_a_feed_reads_what_was_written(root: str, raw: str) -> None:
    store = open_store(root % "store")
    ingest(store, [raw], "photos", SPEC, Executor())
    stream = StreamConfig(
        dataset="photos",
        view=ViewConfig(size=32),
        mask=MaskConfig(),
        targets=(TargetConfig(kind="pixels"),),
        patch=16,
        batch=4,
        seed=5,
        lanes=4,
    )
    feed = open_feed(store, stream)
    batch = next(iter(feed))
    assert np.isfinite(batch["pixels"].numpy()).all()


def test_two_ingests_at_the_same_time(root: str, raw: str) -> None:
    """Acceptance: both end, both parts are in the last snapshot, and verify is clean."""
    store = open_store(root % "store")
    sources = [raw, root % "packed/others.tar"]
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda s: ingest(store, [s], "both", SPEC, Executor()), sources))
    assert sorted(report["written"] for report in reports) == [5, 12]
    assert len(open_snapshot(store, "both").parts) == 2
    assert verify(store, "both")["damaged"] == []


def test_damage_is_found(root: str, raw: str) -> None:
    store = open_store(root % "store")
    ingest(store, [raw], "photos", SPEC, Executor())
    shard = next(e.path for e in store.list() if e.path.endswith(".tar"))
    data = bytearray(store.read(shard))
    data[700] ^= 1
    store.write(shard, bytes(data))
    assert verify(store, "photos")["damaged"]


@pytest.mark.slow
def test_workers_open_the_store_themselves(endpoint: str, tmp_path: Path) -> None:
    folder = make_images(tmp_path / "made", count=40)
    upload(folder, Store(s3_uri(endpoint, "lab/many/raw")))
    store = open_store(s3_uri(endpoint, "lab/many/store"))
    source = s3_uri(endpoint, "lab/many/raw")
    report = ingest(store, [source], "photos", SPEC, Executor(workers=2))
    assert report["written"] == 40
    assert verify(store, "photos", Executor(workers=2))["damaged"] == []
