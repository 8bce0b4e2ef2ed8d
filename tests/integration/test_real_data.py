"""Every readable file of the shared sets of all modalities: books, bytes, independent readers."""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import webdataset

from pipelines.catalog import read_rejects, read_samples
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.verify import verify
from preprocessing.payloads import decode_payload
from storage.fingerprint import checksum
from storage.fs import Store, open_store
from tests.integration import independent
from tests.integration.shared_sets import DATA, SETS, SharedSet, channel_files, is_raw

SAMPLES = 100
MODALITIES = ("images", "videos", "microscopy", "satellite")
Samples = dict[str, list[tuple[dict[str, Any], bytes]]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not there"),
]


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, dict[str, Any]]]:
    """One store with a dataset of each set, and what each ingest reported."""
    store = open_store(tmp_path_factory.mktemp("real") / "store")
    found = {}
    for name, one in SETS.items():
        spec = IngestSpec(modality=one.modality, **one.values)
        sources = [str(DATA / source) for source in one.sources]
        found[name] = ingest(store, sources, name, spec, Executor(workers=2))
    yield store, found


@pytest.fixture(scope="module")
def samples(reports: tuple[Store, dict[str, Any]]) -> Samples:
    """Every sample of every set, as stock webdataset reads it: manifest row and payload."""
    store, found = reports
    read: Samples = {}
    for name, report in found.items():
        rows = {row["key"]: row for row in read_samples(store, name, report["samples"])}
        shards = sorted(map(str, Path(store.uri).glob(f"datasets/{name}/parts/*/shard-*.tar")))
        read[name] = [
            (rows[sample["__key__"]], sample[rows[sample["__key__"]]["ext"]])
            for sample in (webdataset.WebDataset(shards, shardshuffle=False) if shards else ())
        ]
        assert len(read[name]) == report["samples"] == len(rows)
    return read


def test_every_file_is_in_a_set() -> None:
    every = {p for folder in MODALITIES for p in (DATA / folder).rglob("*") if is_raw(p)}
    assert every == {path for one in SETS.values() for path in one.files()}


def test_books_close_and_only_side_files_are_refused(
    reports: tuple[Store, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    store, found = reports
    lines = [f"{'set':10} {'inputs':>7} {'written':>7} {'dupl.':>6} {'rejects':>7} {'samples':>7}"]
    for name, one in SETS.items():
        report = found[name]
        counts = [report[word] for word in ("inputs", "written", "duplicates", "rejects")]
        lines.append(
            f"{name:10} {counts[0]:7} {counts[1]:7} {counts[2]:6} {counts[3]:7} "
            f"{report['samples']:7}"
        )
        assert counts[0] == sum(counts[1:])
        if name != "cifar":
            assert counts[0] == len(list(one.files()))
        refused = {row["uri"]: row["reason_class"] for row in read_rejects(store, name)}
        assert set(refused.values()) <= {"unrecognised_format"}, refused
        wanted = {str(p) for p in one.files() if re.search(one.refused, str(p))}
        assert set(refused) == wanted, f"{name}: {refused}"
        assert counts[1] + counts[2] == counts[0] - len(wanted)
    assert found["cifar"]["inputs"] == 60_000
    with capsys.disabled():
        print("", *lines, sep="\n")


@pytest.mark.parametrize("name", SETS)
def test_all_of_it_is_sound(
    name: str, reports: tuple[Store, dict[str, Any]], samples: Samples
) -> None:
    store, found = reports
    report = verify(store, name)
    assert report == {"samples": found[name]["samples"], "damaged": [], "repaired": []}
    for row, payload in samples[name]:
        assert checksum(payload) == row["checksum"]


@lru_cache(maxsize=2)
def members_of(path: Path) -> dict[str, bytes]:
    """The members of a packed tar, by Python's own reader."""
    with tarfile.open(path) as archive:
        return {
            str(Path(info.name)): stream.read()
            for info in archive
            if (stream := archive.extractfile(info)) is not None
        }


def raw_bytes(source: str) -> bytes:
    place, _, member = source.partition("!")
    return members_of(Path(place))[member] if member else Path(place).read_bytes()


def chosen(samples: Samples) -> list[tuple[str, dict[str, Any], bytes]]:
    """A hundred samples over all sets: two or so of each, the rest of photos and videos."""
    draw = random.Random(20)
    found = []
    for name, items in samples.items():
        found += [(name, *items[i]) for i in draw.sample(range(len(items)), min(2, len(items)))]
    more = [(name, *item) for name in ("photos", "cifar", "videos") for item in samples[name][:400]]
    taken = {row["key"] for _, row, _ in found}
    more = [one for one in more if one[1]["key"] not in taken]
    return found + draw.sample(more, SAMPLES - len(found))


def test_a_hundred_samples_equal_what_independent_readers_see(samples: Samples) -> None:
    compared = chosen(samples)
    assert len(compared) == SAMPLES and {name for name, _, _ in compared} == set(SETS)
    for name, row, payload in sorted(compared, key=lambda one: one[1]["source"]):
        decoded = decode_payload(row["ext"], payload)
        assert list(decoded.shape) == row["shape"], row["source"]
        if SETS[name].modality == "image":
            raw = raw_bytes(row["source"])
            assert payload == raw, row["source"]
            assert np.array_equal(decoded, independent.picture(raw)), row["source"]
        elif SETS[name].modality == "video":
            assert np.array_equal(decoded, independent.all_frames(payload)), row["source"]
            ids = json.loads(row["metadata"])["frames"]
            short_side = SETS[name].values["resize"]
            independent.assert_right_frames(Path(row["source"]), ids, decoded, short_side)
        else:
            compare_raster(SETS[name], row, payload, decoded)


def compare_raster(
    one: SharedSet, row: dict[str, Any], payload: bytes, decoded: np.ndarray
) -> None:
    """Every value is the file's; bands of another resolution keep their mean."""
    channels = json.loads(row["metadata"])["channels"]
    files = channel_files(one, Path(row["source"]), channels)
    stored = tifffile.imread(io.BytesIO(payload)).reshape(decoded.shape)
    parts = [independent.planes(file, one.modality == "satellite") for file in files]
    assert sum(map(len, parts)) == len(stored), row["source"]
    place = 0
    exact = 0
    for part in parts:
        for plane in part:
            where = f"{row['source']}, channel {place}"
            if plane.shape == stored.shape[1:]:
                exact += 1
                assert np.array_equal(stored[place], plane, equal_nan=plane.dtype.kind == "f"), (
                    where
                )
                finite = np.isfinite(plane)
                assert np.array_equal(decoded[place][finite], plane[finite]), where
            else:
                mean = plane.mean(dtype=np.float64)
                assert stored[place].mean(dtype=np.float64) == pytest.approx(mean, rel=0.01), where
            place += 1
    assert exact and np.isfinite(decoded).all()
