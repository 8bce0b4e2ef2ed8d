"""Ingest on real files: books, byte identity, incremental parts, stock readers (G1, G2, G4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipelines.books import Books, BooksError, close_books
from pipelines.catalog import read_rejects, read_samples
from pipelines.executors import Executor
from pipelines.ingest import ingest, write_chunk
from pipelines.ingest_spec import IngestSpec
from pipelines.verify import verify
from preprocessing.payloads import decode_payload
from storage.fs import Store, open_store
from storage.snapshots import part_path, read_snapshot
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_tiles, make_videos

DIRECT = Executor()


def tree_hash(folder: Path) -> str:
    """One SHA-256 over names and bytes of all files of a store but the ledger, which holds times
    and lies beside what G3 promises."""
    digest = hashlib.sha256()
    files = (p for p in folder.rglob("*") if p.is_file())
    for path in sorted(p for p in files if p.relative_to(folder).parts[0] != "ledger"):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def spec(**values: object) -> IngestSpec:
    return IngestSpec(**{"modality": "image", "shard_size": 4096, "heldout": 0.1, **values})


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = make_images(tmp_path / "raw")
    (folder / "coarse" / "broken.jpg").write_bytes(b"not a picture")
    (folder / "coarse" / "empty.png").write_bytes(b"")
    whole = (folder / "fine" / "001.jpg").read_bytes()
    (folder / "fine" / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "fine" / "again.jpg").write_bytes(whole)
    return folder


def test_books_close_and_name_each_reject(images: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(images)], "photos", spec(labels="parent"), DIRECT)
    assert (report["inputs"], report["written"], report["duplicates"]) == (16, 12, 1)
    assert report["reasons"] == {"empty_file": 1, "truncated": 1, "unrecognised_format": 1}
    reasons = {Path(r["uri"]).name: r["reason_class"] for r in read_rejects(store, "photos")}
    assert reasons == {
        "broken.jpg": "unrecognised_format",
        "empty.png": "empty_file",
        "cut.jpg": "truncated",
    }
    assert verify(store, "photos")["damaged"] == []
    assert {row["label"] for row in read_samples(store, "photos", 99)} == {"fine", "coarse"}


@pytest.mark.ray
def test_bytes_do_not_depend_on_workers_or_ray(images: Path, tmp_path: Path) -> None:
    executors = [
        DIRECT,
        Executor(kind="processes", workers=3),
        Executor(workers=3),
        Executor(kind="ray", workers=2),
    ]
    hashes, processes = set(), []
    for number, executor in enumerate(executors):
        store = open_store(tmp_path / f"store{number}")
        report = ingest(store, [str(images)], "photos", spec(), executor)
        processes.append(report["workers"])
        hashes.add(tree_hash(tmp_path / f"store{number}"))
    assert len(hashes) == 1
    assert len(processes[1]) > 1


def test_ingest_again_takes_only_what_is_new(images: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    first = ingest(store, [str(images)], "photos", spec(), DIRECT)
    before = tree_hash(tmp_path / "store")
    again = ingest(store, [str(images)], "photos", spec(), DIRECT)
    assert again["skipped"] == first["inputs"] == 16
    assert (again["samples"], tree_hash(tmp_path / "store")) == (0, before)

    make_images(images / "more", count=3, edge=52)
    grown = ingest(store, [str(images)], "photos", spec(), DIRECT)
    assert (grown["written"], grown["skipped"], grown["snapshot"]) == (3, 16, 2)
    snapshot = read_snapshot(store, "photos")
    assert snapshot is not None
    assert [part.samples for part in snapshot.parts] == [12, 3]


def test_a_killed_ingest_ends_in_the_same_bytes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = open_store(tmp_path / "whole")
    ingest(whole, [str(images)], "photos", spec(), DIRECT)

    class Killed(BaseException):
        pass

    written = 0
    real_write = Store.write

    def write_three(self: Store, path: str, data: bytes) -> None:
        nonlocal written
        written += 1
        if written > 3:
            raise Killed
        real_write(self, path, data)

    torn = open_store(tmp_path / "torn")
    monkeypatch.setattr(Store, "write", write_three)
    with pytest.raises(Killed):
        ingest(torn, [str(images)], "photos", spec(), DIRECT)
    monkeypatch.undo()
    report = ingest(torn, [str(images)], "photos", spec(), DIRECT)
    assert report["reused"] == 1
    assert tree_hash(tmp_path / "torn") == tree_hash(tmp_path / "whole")


def test_stock_webdataset_reads_equal_samples(images: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(images)], "photos", spec(), DIRECT)
    shards = sorted(str(path) for path in (tmp_path / "store").rglob("shard-*.tar"))
    theirs = {
        sample["__key__"]: sample
        for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    }
    rows = read_samples(store, "photos", 99)
    assert len(theirs) == report["samples"] == len(rows)
    for row in rows:
        raw = Path(row["source"]).read_bytes()
        assert theirs[row["key"]][row["ext"]] == raw
        assert json.loads(theirs[row["key"]]["json"]) == json.loads(row["metadata"])


@pytest.mark.parametrize(
    ("modality", "make", "values", "shape"),
    [
        ("video", make_videos, {"frames": 8, "resize": 32}, (8, 32, 32, 3)),
        ("microscopy", make_fields, {"pattern": FIELD_PATTERN}, (3, 48, 48)),
        ("satellite", make_tiles, {}, (4, 32, 32)),
        ("satellite", make_tiles, {"tile": 16}, (4, 16, 16)),
    ],
)
def test_every_modality_has_samples(
    modality: str,
    make: Callable[[Path], Path],
    values: dict[str, object],
    shape: tuple[int, ...],
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "store")
    raw = make(tmp_path / "raw")
    report = ingest(store, [str(raw)], "set", spec(modality=modality, **values), DIRECT)
    assert report["written"] == report["inputs"] == len(list(raw.iterdir()))
    rows = read_samples(store, "set", 3)
    assert tuple(rows[0]["shape"]) == shape
    snapshot = read_snapshot(store, "set")
    assert snapshot is not None
    folder = part_path("set", snapshot.parts[0].part)
    payload = store.read_range(f"{folder}/shard-000000.tar", rows[0]["offset"], rows[0]["size"])
    assert decode_payload(rows[0]["ext"], payload).shape == shape
    assert verify(store, "set")["damaged"] == []


def test_a_field_without_a_channel_is_rejected(tmp_path: Path) -> None:
    raw = make_fields(tmp_path / "raw")
    (raw / "P1_B02_s1_w2_ER.tif").unlink()
    store = open_store(tmp_path / "store")
    report = ingest(
        store, [str(raw)], "cells", spec(modality="microscopy", pattern=FIELD_PATTERN), DIRECT
    )
    assert report["reasons"] == {"incomplete_channels": 2}
    assert report["samples"] == 5


def test_books_that_do_not_close_are_refused() -> None:
    with pytest.raises(BooksError, match=r"5 raw files went in, but .* = 3"):
        close_books(Books(inputs=5, skipped=3), "photos")


def test_a_dataset_has_one_modality(images: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    ingest(store, [str(images)], "photos", spec(), DIRECT)
    with pytest.raises(ValueError, match="holds image samples, --modality is video"):
        ingest(store, [str(images)], "photos", spec(modality="video"), DIRECT)


def test_a_list_names_files_and_labels(images: Path, tmp_path: Path) -> None:
    names = sorted(str(p.relative_to(images)) for p in images.rglob("0*.*"))
    rows = [f"{name},{number % 3}" for number, name in enumerate([*names, "gone.jpg"])]
    (images / "list.csv").write_text("\n".join(["path,dose", *rows]))
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(images / "list.csv")], "photos", spec(labels="dose"), DIRECT)
    assert (report["inputs"], report["written"], report["rejects"]) == (13, 12, 1)
    assert read_rejects(store, "photos")[0]["detail"] == "listed, but there is no such file"
    assert {row["label"] for row in read_samples(store, "photos", 99)} == {"0", "1", "2"}


def test_wells_are_never_split(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    raw = make_fields(tmp_path / "raw", wells=6)
    values = {"modality": "microscopy", "pattern": FIELD_PATTERN, "heldout": 0.4}
    ingest(store, [str(raw)], "cells", spec(**values), DIRECT)
    splits: dict[str, set[str]] = {}
    for row in read_samples(store, "cells", 99):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert len(splits) == 6
    assert all(len(found) == 1 for found in splits.values())
    assert {"train", "heldout"} == set.union(*splits.values())


def test_damage_is_named_by_sample(images: Path, tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    ingest(store, [str(images)], "photos", spec(), DIRECT)
    row = read_samples(store, "photos", 1)[0]
    shard = next((tmp_path / "store").rglob("shard-000000.tar"))
    data = bytearray(shard.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 4
    shard.write_bytes(data)
    damaged = verify(store, "photos")["damaged"]
    assert [entry["sample"] for entry in damaged] == [row["key"]]


def test_a_worker_that_finds_its_record_writes_nothing(images: Path, tmp_path: Path) -> None:
    from pipelines.ingest import ShardJob
    from pipelines.plan import plan_ingest

    store = open_store(tmp_path / "store")
    plan = plan_ingest(store, [str(images)], "photos", spec(), DIRECT)
    job = ShardJob(store.uri, "datasets/photos/parts/x", 0, plan.chunk(0), plan.spec, 0, 4096)
    first = write_chunk(job)
    assert not first["reused"]
    assert write_chunk(job) == {**first, "reused": True}


def test_statistics_are_exact(tmp_path: Path) -> None:
    from preprocessing.statistics import Moments

    raw = make_fields(tmp_path / "raw")
    store = open_store(tmp_path / "store")
    ingest(store, [str(raw)], "cells", spec(modality="microscopy", pattern=FIELD_PATTERN), DIRECT)
    snapshot = read_snapshot(store, "cells")
    assert snapshot is not None
    moments = Moments.from_json(snapshot.parts[0].stats["moments"]["3"])
    import tifffile

    dna = np.stack([tifffile.imread(p) for p in sorted(raw.glob("*DNA.tif"))]).astype(float)
    assert moments.mean()[0] == pytest.approx(dna.mean(), rel=1e-12)
    assert moments.variance()[0] == pytest.approx(dna.var(), rel=1e-9)


def test_an_ome_zarr_among_pictures_is_refused(tmp_path: Path) -> None:
    raw = make_images(tmp_path / "raw", count=2)
    (raw / "field.ome.zarr" / "0").mkdir(parents=True)
    (raw / "field.ome.zarr" / "0" / "0.0").write_bytes(b"1234")
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(raw)], "photos", spec(), DIRECT)
    assert (report["inputs"], report["reasons"]) == (3, {"unrecognised_format": 1})


def test_fields_of_different_channel_counts_are_measured_apart(tmp_path: Path) -> None:
    import tifffile

    from preprocessing.statistics import apart_from_json, most_common

    (tmp_path / "raw").mkdir()
    rng = np.random.default_rng(0)
    for number, channels in enumerate((2, 3, 3)):
        field = rng.integers(0, 4096, (channels, 24, 24)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "raw" / f"{number}.tif", field, photometric="minisblack")
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(tmp_path / "raw")], "cells", spec(modality="microscopy"), DIRECT)
    assert (report["written"], report["rejects"]) == (3, 0)
    snapshot = read_snapshot(store, "cells")
    assert snapshot is not None
    moments = apart_from_json(snapshot.parts[0].stats["moments"])
    assert [each.count for each in moments.values()] == [(576, 576), (1152, 1152, 1152)]
    assert len(most_common(moments).count) == 3
