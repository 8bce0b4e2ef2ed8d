"""A chunk and its record: payloads that overflow, units that fail late, sources that change."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import tifffile

from pipelines.chunks import ShardJob, read_record, write_chunk
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.plan import plan_ingest
from pipelines.verify import verify
from storage.fs import Store, open_store
from storage.snapshots import part_path, read_snapshot

SPEC = IngestSpec(modality="satellite", tile=32, heldout=0.0, min_valid=0.0)


def scene(path: Path, seed: int, edge: int = 256) -> Path:
    """Write a striped TIFF whose tiles of noise do not compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 60_000, (edge, edge)).astype(np.uint16)
    tifffile.imwrite(path, pixels, rowsperstrip=16, compression="zlib")
    return path


def job(store: Store, raw: Path, spec: IngestSpec, shard_bytes: int) -> ShardJob:
    plan = plan_ingest(store, [str(raw)], "scenes", spec, Executor())
    folder = part_path("scenes", plan.part)
    return ShardJob(store.uri, folder, 0, plan.chunk(0), spec, 0, shard_bytes)


def test_samples_overflow_to_more_shards_of_the_chunk(tmp_path: Path) -> None:
    scene(tmp_path / "raw" / "a.tif", 1)
    store = open_store(tmp_path / "store")
    work = job(store, tmp_path / "raw", SPEC, 40_000)
    assert write_chunk(work)["samples"] == 64
    record = read_record(store, work.part, 0)
    names = [shard["name"] for shard in record["shards"]]
    assert names[:2] == ["shard-000000.tar", "shard-000000-001.tar"] and len(names) >= 3
    assert [store.size(f"{work.part}/{s['name']}") for s in record["shards"]] == [
        shard["bytes"] for shard in record["shards"]
    ]


def test_a_dataset_of_overflowing_scenes_is_whole(tmp_path: Path) -> None:
    for number in range(3):
        scene(tmp_path / "raw" / f"{number}.tif", number, 128 + 32 * number)
    store = open_store(tmp_path / "store")
    spec = IngestSpec(modality="satellite", tile=32, heldout=0.0, shard_size=20_000)
    report = ingest(store, [str(tmp_path / "raw")], "scenes", spec, Executor())
    assert report["samples"] == 16 + 25 + 36
    snapshot = read_snapshot(store, "scenes")
    assert snapshot is not None
    names = [shard["name"] for shard in snapshot.parts[0].shards]
    assert any(name.count("-") == 2 for name in names)
    assert verify(store, "scenes")["damaged"] == []


def test_a_unit_that_fails_late_leaves_no_sample(tmp_path: Path) -> None:
    scene(tmp_path / "raw" / "a.tif", 1, 64)
    path = scene(tmp_path / "raw" / "b.tif", 2)
    scene(tmp_path / "raw" / "c.tif", 3, 64)
    with tifffile.TiffFile(path) as tiff:
        place, size = tiff.pages[0].dataoffsets[-1], tiff.pages[0].databytecounts[-1]
    data = bytearray(path.read_bytes())
    data[place : place + size] = bytes(size)  # its last strip does not decode
    path.write_bytes(data)
    store = open_store(tmp_path / "store")
    work = job(store, tmp_path / "raw", SPEC, 40_000)
    result = write_chunk(work)
    record = read_record(store, work.part, 0)
    assert (result["samples"], result["rejects"]) == (8, 1)
    assert record["rejects"][0]["uri"] == str(path)
    assert {row["source"] for shard in record["shards"] for row in shard["rows"]} == {
        str(tmp_path / "raw" / "a.tif"),
        str(tmp_path / "raw" / "c.tif"),
    }
    there = {entry.path.rpartition("/")[2] for entry in store.list(work.part)}
    assert there == {"shard-000000.tar", "shard-000000.json"}


def test_a_source_that_changes_meanwhile_stops_the_ingest(tmp_path: Path) -> None:
    path = scene(tmp_path / "raw" / "a.tif", 1)
    store = open_store(tmp_path / "store")
    work = job(store, tmp_path / "raw", SPEC, 40_000)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RuntimeError, match=r"a\.tif: changed while the ingest ran"):
        write_chunk(work)
    os.unlink(path)
    with pytest.raises(RuntimeError, match=r"a\.tif: changed while the ingest ran"):
        write_chunk(work)
    assert store.list(work.part) == []
