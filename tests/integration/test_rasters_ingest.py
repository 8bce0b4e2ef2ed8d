"""Scenes and fields through the whole ingest: payloads equal what independent readers say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import webdataset
import zarr
from numpy.typing import NDArray
from rasterio.transform import from_origin
from rasterio.windows import Window

from pipelines.catalog import read_rejects, read_samples
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from preprocessing.payloads import fill_not_finite
from preprocessing.raster_codec import decode_raster
from storage.fs import open_store

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")
DIRECT = Executor()
BANDS = r"(?P<scene>T\w+)_(?P<date>\d{8})_(?P<band>\w+)\.tif$"


def write_scene(path: Path, array: NDArray[np.generic], pixel: float = 10, **options: Any) -> Path:
    """Write a GeoTIFF of (C, H, W) whose corner is at (500000, 5000000)."""
    count, height, width = array.shape
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    place = {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, pixel, pixel)}
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **profile, dtype=array.dtype, **place, **options) as file:
        file.write(array)
    return path


def stored(tmp_path: Path, source: Path, **values: Any) -> tuple[dict[str, Any], list[Any]]:
    """Ingest a source; return the report, and (array, metadata) of each sample in its order."""
    store = open_store(tmp_path / "store")
    report = ingest(store, [str(source)], "set", IngestSpec(heldout=0, **values), DIRECT)
    samples = []
    for shard in sorted(str(path) for path in (tmp_path / "store").rglob("parts/*/shard-*.tar")):
        for sample in webdataset.WebDataset(shard, shardshuffle=False, empty_check=False):
            samples.append((decode_raster(sample["tif"]), json.loads(sample["json"])))
    assert len(samples) == report["samples"]
    return report, samples


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(1, 4000, shape, np.uint16)


def test_tiles_are_windows_of_the_scene_and_know_their_place(tmp_path: Path) -> None:
    array = noise(3, 150, 170)
    array[:, :60, :64] = 0
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 48, "compress": "deflate"}
    scene = write_scene(tmp_path / "raw" / "scene.tif", array, nodata=0, **blocks)
    report, samples = stored(tmp_path, scene.parent, modality="satellite", tile=64, overlap=8)
    assert (report["inputs"], report["rejects"], report["samples"]) == (1, 0, 9)
    with rasterio.open(scene) as theirs:
        for tile, metadata in samples:
            top, left = metadata["tile"]
            window = Window(left, top, 64, 64)
            assert np.array_equal(tile, theirs.read(window=window))
            assert metadata["transform"] == list(theirs.window_transform(window))[:6]
            assert metadata["bounds"] == list(theirs.window_bounds(window))
            valid = (theirs.read_masks(window=window) > 0).all(0).mean()
            assert metadata["valid_share"] == pytest.approx(valid, abs=1e-6)
            assert metadata["crs"] == "EPSG:32633"


def make_series(folder: Path) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Write a scene of three resolutions on two dates; return the 10 m band and the classes."""
    fine, coarse, classes = noise(1, 120, 120), noise(1, 60, 60, seed=1), np.full((1, 60, 60), 4)
    classes[0, :20] = 9
    classes[0, 30:, 40:] = 3
    for date in ("20200817", "20200901"):
        write_scene(folder / f"T33_{date}_B02.tif", fine + int(date[-1]), nodata=0)
        write_scene(folder / f"T33_{date}_B05.tif", coarse, 20, nodata=0)
        write_scene(folder / f"T33_{date}_B01.tif", noise(1, 20, 20, seed=2), 60, nodata=0)
        write_scene(folder / f"T33_{date}_SCL.tif", classes.astype(np.uint8), 20, nodata=0)
    return fine[0] + 7, np.kron(classes[0], np.ones((2, 2))).astype(np.uint8)


def test_bands_of_three_resolutions_become_dated_tiles_without_clouds(tmp_path: Path) -> None:
    fine, classes = make_series(tmp_path / "raw")
    values = {"modality": "satellite", "pattern": BANDS, "tile": 40, "cloud_band": "SCL"}
    report, samples = stored(tmp_path, tmp_path / "raw", max_cloud=0.4, **values)
    cloudy = np.isin(classes, (3, 9)).reshape(3, 40, 3, 40).mean((1, 3))
    kept = [(40 * y, 40 * x) for y, x in np.ndindex(3, 3) if cloudy[y, x] <= 0.4]
    assert len(kept) < 9 and report["samples"] == 2 * len(kept) and report["inputs"] == 8
    assert {metadata["time"] for _, metadata in samples} == {"2020-08-17", "2020-09-01"}
    for tile, metadata in samples:
        assert metadata["channels"] == metadata["descriptions"] == ["B01", "B02", "B05"]
        top, left = metadata["tile"]
        assert metadata["cloud_share"] == pytest.approx(cloudy[top // 40, left // 40], abs=1e-6)
        assert (top, left) in kept and tile.shape == (3, 40, 40)
        if metadata["date"] == "20200817":
            assert np.array_equal(tile[1], fine[top : top + 40, left : left + 40])


def test_tiles_and_dates_of_one_scene_share_a_group(tmp_path: Path) -> None:
    make_series(tmp_path / "raw")
    store = open_store(tmp_path / "store")
    spec = IngestSpec(modality="satellite", pattern=BANDS, tile=40, heldout=0.5)
    ingest(store, [str(tmp_path / "raw")], "set", spec, DIRECT)
    splits: dict[str, set[str]] = {}
    for row in read_samples(store, "set", 99):
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert sum(1 for _ in read_samples(store, "set", 99)) == 18 and len(splits) <= 2


def test_damage_in_the_last_strip_rejects_the_whole_scene(tmp_path: Path) -> None:
    blocks = {"blockysize": 16, "compress": "deflate", "interleave": "pixel"}
    scene = write_scene(tmp_path / "raw" / "bad.tif", noise(2, 160, 64), **blocks)
    data = bytearray(scene.read_bytes())
    with tifffile.TiffFile(scene) as file:
        offset = file.pages[0].dataoffsets[-1]
    data[offset : offset + 64] = bytes(range(64))
    scene.write_bytes(data)
    write_scene(tmp_path / "raw" / "good.tif", noise(2, 160, 64, seed=1), **blocks)
    report, samples = stored(tmp_path, scene.parent, modality="satellite", tile=32)
    assert (report["rejects"], report["samples"], len(samples)) == (1, 10, 10)
    rejected = read_rejects(open_store(tmp_path / "store"), "set")[0]
    assert rejected["reason_class"] == "decode_error" and rejected["uri"].endswith("bad.tif")


def test_a_big_field_becomes_tiles(tmp_path: Path) -> None:
    array = noise(2, 200, 300)
    (tmp_path / "raw").mkdir()
    metadata = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER"]}, "PhysicalSizeX": 0.65}
    tifffile.imwrite(
        tmp_path / "raw" / "field.ome.tif", array, ome=True, tile=(64, 64), compression="zlib",
        metadata={**metadata, "PhysicalSizeY": 0.65},
    )  # fmt: skip
    _, samples = stored(tmp_path, tmp_path / "raw", modality="microscopy", tile=100)
    assert [metadata["tile"] for _, metadata in samples] == [
        [y, x] for y in (0, 100) for x in (0, 100, 200)
    ]
    for tile, metadata in samples:
        top, left = metadata["tile"]
        assert np.array_equal(tile, array[:, top : top + 100, left : left + 100])
        assert (metadata["channels"], metadata["pixel_size"]) == (["DNA", "ER"], [0.65, 0.65])


def test_a_zarr_folder_is_one_input(tmp_path: Path) -> None:
    array = noise(2, 90, 110)
    for name in ("a.ome.zarr", "b.zarr"):
        group = zarr.open_group(tmp_path / "raw" / name, mode="w", zarr_format=2)
        axes = [{"name": axis} for axis in "cyx"]
        group.attrs["multiscales"] = [{"axes": axes, "datasets": [{"path": "0"}]}]
        level = group.create_array("0", shape=array.shape, dtype="u2", chunks=(1, 32, 32))
        level[:] = array + len(name)
    report, samples = stored(tmp_path, tmp_path / "raw", modality="microscopy", tile=50)
    assert (report["inputs"], report["rejects"], len(samples)) == (2, 0, 12)
    for number, (tile, metadata) in enumerate(samples):
        top, left = metadata["tile"]
        expected = array[:, top : top + 50, left : left + 50] + (10 if number < 6 else 6)
        assert np.array_equal(tile, expected)


FIELDS = r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>\w+?)_001\.tif$"
SETS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "nf1": ("microscopy/nf1_plate2", "microscopy", {"pattern": FIELDS}),
    "plate": ("microscopy/cellprofiler_plate_AS09047", "microscopy", {}),
    "ome": ("microscopy/ome_tiff_samples/multi-channel.ome.tif", "microscopy", {}),
    "derived": ("microscopy/derived_ome_tiff", "microscopy", {"tile": 200}),
    "zarr": ("microscopy/derived_ome_zarr", "microscopy", {"tile": 300}),
    "hydro": ("satellite/hydro_s2", "satellite", {"tile": 100, "overlap": 10}),
    "bigearth": (
        "satellite/bigearthnet_v2/BigEarthNet-S2",
        "satellite",
        {"pattern": r"(?P<scene>[^/]+)_(?P<band>B0[248])\.tif$", "channels": ("B02", "B04", "B08")},
    ),
}


def independent(path: Path, modality: str) -> NDArray[np.generic]:
    """Return (C, H, W) as another reader has it."""
    if path.suffix == ".zarr":
        return np.asarray(zarr.open_array(path / "0", mode="r")[0, :, 0])
    if modality == "satellite":
        with rasterio.open(path) as file:
            return np.asarray(file.read())
    with tifffile.TiffFile(path, _multifile=False) as file:
        return np.stack([page.asarray() for page in file.pages])


def _sibling(path: Path, pattern: str, channel: str) -> Path:
    """Return the file of a channel beside another channel's file."""

    def fields(other: Path) -> dict[str, str]:
        match = re.search(pattern, other.name)
        return match.groupdict() if match else {}

    name = "band" if "band" in fields(path) else "channel"
    wanted = {**fields(path), name: channel}
    return next(other for other in path.parent.iterdir() if fields(other) == wanted)


def expected_samples(
    folder: Path, modality: str, values: dict[str, Any], rows: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], NDArray[np.generic]]]:
    """Yield each row with the array that an independent reader finds at its place."""
    for row in rows:
        metadata = json.loads(row["metadata"])
        files = [Path(row["source"])]
        if "pattern" in values:
            files = [_sibling(files[0], values["pattern"], c) for c in metadata["channels"]]
        array = np.concatenate([independent(file, modality) for file in files])
        top, left = metadata.get("tile", (0, 0))
        edge = values.get("tile") or max(array.shape)
        yield row, array[:, top : top + edge, left : left + edge]


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_shared_sets_equal_an_independent_reader(name: str, tmp_path: Path) -> None:
    place, modality, values = SETS[name]
    store = open_store(tmp_path / "store")
    spec = IngestSpec(modality=modality, heldout=0, min_valid=0, **values)
    report = ingest(store, [str(SHARED / place)], "set", spec, Executor(workers=2))
    rows = read_samples(store, "set", report["samples"])
    payloads = {}
    for shard in sorted(str(path) for path in (tmp_path / "store").rglob("parts/*/shard-*.tar")):
        for sample in webdataset.WebDataset(shard, shardshuffle=False, empty_check=False):
            payloads[sample["__key__"]] = sample["tif"]
    assert rows and len(payloads) == len(rows)
    compared = 0
    for row, array in expected_samples(SHARED / place, modality, values, rows):
        found = decode_raster(payloads[row["key"]])
        assert found.dtype == array.dtype and np.array_equal(found, array), row["source"]
        assert np.isfinite(fill_not_finite(found)).all()
        compared += 1
    assert compared == report["samples"]


INGEST_UNDER_WATCH = """
import json, sys
from pathlib import Path
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store
source, store, modality, tile = sys.argv[1:]
spec = IngestSpec(modality=modality, tile=int(tile))
report = ingest(open_store(store), [source], "set", spec, Executor())
status = Path("/proc/self/status").read_text()  # ru_maxrss would begin with the parent's
peak = int(status.split("VmHWM:")[1].split()[0]) // 1024
print(json.dumps({"samples": report["samples"], "rejects": report["rejects"], "peak": peak}))
"""


def write_huge_scene(path: Path) -> None:
    """Write 1 GB of values: 12 bands of 2100 rows of 20,000 pixels, in tiles."""
    rows = noise(12, 512, 20_000) // 64
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512, "compress": "zstd"}
    blocks["zstd_level"] = 1
    profile = {"driver": "GTiff", "count": 12, "height": 2100, "width": 20_000, "dtype": "uint16"}
    with rasterio.open(path, "w", **profile, nodata=0, interleave="band", **blocks) as file:
        for top in range(0, 2100, 512):
            height = min(512, 2100 - top)
            part = rows[:, :height] + np.uint16(1 + top // 512)
            file.write(part, window=Window(0, top, 20_000, height))


def write_huge_field(path: Path) -> None:
    """Write 1 GB of values: 5 channels of 10,000 x 10,000, in tiles, page after page."""
    page = np.tile(noise(2000, 2000) // 64, (5, 5))
    options = {"tile": (512, 512), "compression": "zstd", "photometric": "minisblack"}
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        for channel in range(5):
            writer.write(page + np.uint16(channel), metadata=None, contiguous=False, **options)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("write", "modality", "tiles"),
    [(write_huge_scene, "satellite", 5 * 40), (write_huge_field, "microscopy", 400)],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_gigabyte_is_read_in_bounded_memory(
    write: Callable[[Path], None], modality: str, tiles: int, tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    write(raw / "huge.tif")
    command = [sys.executable, "-c", INGEST_UNDER_WATCH, raw, tmp_path / "store", modality, "512"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["samples"], found["rejects"]) == (tiles, 0)
    assert found["peak"] < 1000, found
