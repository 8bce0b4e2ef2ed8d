"""Real raw files of all four modalities, where they lie beside the checkout: books and bytes."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
import webdataset

from pipelines.catalog import read_samples
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.verify import verify
from storage.fingerprint import checksum
from storage.fs import open_store

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
HYDRO = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
FIELDS = r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>\w+?)_001\.tif$"
BANDS = r"(?P<scene>[^/]+)_(?P<band>B\w\w)\.tif$"
SETS = {
    "photos": ("images/imagenet-sample", {"modality": "image"}, 450),
    "cifar": ("images/cifar10/train.tar.gz", {"modality": "image", "labels": "parent"}, 50_000),
    "videos": ("videos", {"modality": "video", "resize": 128}, 41),
    "fields": ("microscopy/nf1_plate2", {"modality": "microscopy", "pattern": FIELDS}, 12),
    "tiles": ("satellite/hydro_s2", {"modality": "satellite", "channels": HYDRO}, 5),
    "bands": (
        "satellite/bigearthnet_v2/BigEarthNet-S2",
        {"modality": "satellite", "pattern": BANDS},
        12,
    ),
}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
@pytest.mark.parametrize("name", SETS)
def test_real_files_become_shards_that_anyone_reads(name: str, tmp_path: Path) -> None:
    source, values, files = SETS[name]
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(DATA / source)], name, IngestSpec(**values), Executor(workers=2))
    assert report["inputs"] == files == report["written"] + report["duplicates"] + report["rejects"]
    assert verify(store, name) == {"samples": report["samples"], "damaged": [], "repaired": []}
    rows = {row["key"]: row for row in read_samples(store, name, report["samples"])}
    shards = sorted(str(path) for path in tmp_path.rglob("parts/*/shard-*.tar"))
    seen = 0
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        row = rows[sample["__key__"]]
        seen += 1
        assert checksum(sample[row["ext"]]) == row["checksum"]
        if name == "photos":
            assert sample[row["ext"]] == Path(row["source"]).read_bytes()
    assert seen == report["samples"] == len(rows)


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there")
def test_members_of_a_tar_pass_through_untouched(tmp_path: Path) -> None:
    store = open_store(tmp_path / "store")
    source = DATA / "images/cifar10/test.tar.gz"
    ingest(store, [str(source)], "cifar", IngestSpec(modality="image"), Executor(workers=2))
    rows = {row["key"]: row for row in read_samples(store, "cifar", 10_000)}
    with tarfile.open(source) as tar:
        raw = {
            str(Path(info.name)): stream.read()
            for info in tar
            if (stream := tar.extractfile(info)) is not None
        }
    shards = sorted(str(path) for path in tmp_path.rglob("parts/*/shard-*.tar"))
    for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        row = rows[sample["__key__"]]
        assert sample[row["ext"]] == raw[row["source"].split("!")[1]]
