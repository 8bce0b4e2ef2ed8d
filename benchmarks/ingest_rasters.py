"""Fields and scenes to shards: headrace in two processes, beside the physical limits of the work.

    python benchmarks/ingest_rasters.py [--rounds 5] [--quick] [--only fields scenes]

Four sets: fields of three 16-bit channels, a file each; scenes of 12 bands in tiled, deflated
GeoTIFFs, cut into tiles of 256; both made, and the shared fields and scenes where they are. The
limits, each in two processes without headrace's pipeline: decode alone (tifffile or rasterio, the
whole file), encode alone (arrays that were decoded before), and both in a row. headrace also lists
and hashes every file, checks its structure, masks nodata, measures exact statistics, checksums, and
writes shards and manifest, flushed to disk. Its start-up (processes, imports) is counted; a last
table leaves it out: an ingest of two tiny files. The payloads of the limits are checked to be those
in the shards.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import rasterio
import tifffile
import webdataset
from numpy.typing import NDArray
from rasterio.transform import from_origin

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import Rounds, Turn, run_rounds, table, without
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from preprocessing.rasters import encode_raster, tile_boxes
from storage.fs import Store

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
WORKERS = 2
CHANNELS = r"(?P<well>[A-P]\d+)_s(?P<site>\d+)_(?P<channel>\w+)\.tif$"
PLATE = r"(?P<well>[A-P]\d+)_01_\d_(?P<site>\d)_(?P<channel>\w+?)_001\.tif$"
Unit = tuple[Path, ...]
"the files of one field, in the order of their channels, or of one scene"


@dataclass(frozen=True, slots=True)
class Set:
    """One folder of raw files, and how it is ingested."""

    folder: Path
    spec: IngestSpec

    def units(self) -> list[Unit]:
        """Return the files that belong together."""
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        if not self.spec.pattern:
            return [(path,) for path in paths]
        found: dict[tuple[str, str], dict[str, Path]] = defaultdict(dict)
        for path in paths:
            match = re.search(self.spec.pattern, path.name)
            if match:
                found[match["well"], match["site"]][match["channel"]] = path
        return [tuple(unit[name] for name in sorted(unit)) for unit in found.values()]


def texture(height: int, width: int, seed: int) -> NDArray[np.uint16]:
    """Return 16-bit values with structure at several scales, and a camera's noise."""
    rng = np.random.default_rng(seed)
    plane = rng.normal(0, 6, (height, width)).astype(np.float32)
    for scale in (4, 16, 64):
        small = rng.normal(0, 40, (height // scale + 2, width // scale + 2)).astype(np.float32)
        plane += cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(plane + 800, 1, 65535).astype(np.uint16)


def make_fields(folder: Path, count: int, edge: int = 1080) -> None:
    """Write fields of three channels, a TIFF each."""
    for number in range(count):
        for channel in range(3):
            name = f"A{number:02d}_s1_C{channel}.tif"
            tifffile.imwrite(folder / name, texture(edge, edge, 3 * number + channel))


def make_scenes(folder: Path, count: int, edge: int = 2048) -> None:
    """Write scenes of 12 bands, one corner nodata, as COGs have them."""
    profile = {
        "driver": "GTiff",
        "count": 12,
        "height": edge,
        "width": edge,
        "dtype": "uint16",
        "nodata": 0,
        "crs": "EPSG:32633",
        "transform": from_origin(500000, 5000000, 10, 10),
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "compress": "deflate",
        "predictor": 2,
        "interleave": "band",
    }
    for number in range(count):
        with rasterio.open(folder / f"scene_{number}.tif", "w", **profile) as file:
            for band in range(12):
                plane = texture(edge, edge, 12 * number + band)
                plane[: edge // 8, : edge // 8] = 0
                file.write(plane, band + 1)


def read(unit: Unit, spec: IngestSpec) -> NDArray[np.generic]:
    """Return (C, H, W) with a reader that is not ours."""
    if spec.modality == "microscopy":
        return np.stack([tifffile.imread(path, maxworkers=1) for path in unit])
    with rasterio.open(unit[0]) as file:
        return np.asarray(file.read())


def tiles(array: NDArray[np.generic], spec: IngestSpec) -> Iterator[NDArray[np.generic]]:
    """Yield the tiles that hold enough data."""
    _, height, width = array.shape
    for top, left, bottom, right in tile_boxes(height, width, spec.tile or max(height, width)):
        tile = array[:, top:bottom, left:right]
        if spec.modality == "microscopy" or (tile != 0).all(0).mean() >= spec.min_valid:
            yield tile


def decode(unit: Unit, spec: IngestSpec) -> int:
    """Decode only."""
    return sum(1 for _ in tiles(read(unit, spec), spec))


def decode_and_encode(unit: Unit, spec: IngestSpec) -> int:
    """Decode, and encode what was decoded."""
    return sum(bool(encode_raster(tile)) for tile in tiles(read(unit, spec), spec))


def encode(unit: Unit, spec: IngestSpec) -> int:
    """Encode the tiles of an `.npy`."""
    return sum(bool(encode_raster(tile)) for tile in tiles(np.load(unit[0]), spec))


def in_processes(work: Callable[[Unit], int], units: Sequence[Unit]) -> int:
    """Do one job a unit."""
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("fork")) as pool:
        return sum(pool.map(work, units))


def by_headrace(chosen: Set, target: str) -> int:
    """Ingest the folder into an empty store."""
    shutil.rmtree(target, ignore_errors=True)
    size = sum(path.stat().st_size for path in chosen.folder.rglob("*") if path.is_file())
    spec = replace(chosen.spec, shard_size=size // 8)  # so that both processes end about together
    report = ingest(Store(target), [str(chosen.folder)], "set", spec, Executor(workers=WORKERS))
    return int(str(report["samples"]))


def check_equal(chosen: Set, target: str) -> int:
    """Return how many samples there are, once the shards hold the payloads of the limits."""
    count = by_headrace(chosen, target)
    shards = sorted(str(path) for path in Path(target).rglob("shard-*.tar"))
    stored = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    found = sorted(hashlib.sha256(sample["tif"]).hexdigest() for sample in stored)
    expected = sorted(
        hashlib.sha256(encode_raster(tile)).hexdigest()
        for unit in chosen.units()
        for tile in tiles(read(unit, chosen.spec), chosen.spec)
    )
    if found != expected or len(found) != count:
        raise SystemExit(f"{len(found)} samples in the shards, {len(expected)} expected: not equal")
    return count


def keep_decoded(units: Sequence[Unit], spec: IngestSpec, folder: Path) -> list[Unit]:
    """Write the array of each unit, uncompressed."""
    kept = []
    for number, unit in enumerate(units):
        np.save(folder / f"{number}.npy", read(unit, spec))
        kept.append((folder / f"{number}.npy",))
    return kept


def in_megabytes(turns: Rounds, size: int) -> Rounds:
    """Count the MB of decoded values in place of samples."""
    items = max(1, round(size / 1e6))
    return {name: [replace(t, items=items) for t in found] for name, found in turns.items()}


def measure(name: str, chosen: Set, scratch: Path, rounds: int, starting: Turn) -> str:
    """Return the tables of one set: whole, in MB, and less headrace's start-up."""
    target, folder = str(scratch / "store"), scratch / f"decoded-{name}"
    folder.mkdir()
    count, units = check_equal(chosen, target), chosen.units()
    kept = keep_decoded(units, chosen.spec, folder)
    size = sum(path.stat().st_size for (path,) in kept)
    work = {
        "headrace": partial(by_headrace, chosen, target),
        "limit: decode": partial(in_processes, partial(decode, spec=chosen.spec), units),
        "limit: encode": partial(in_processes, partial(encode, spec=chosen.spec), kept),
        "limit: decode + encode": partial(
            in_processes, partial(decode_and_encode, spec=chosen.spec), units
        ),
    }
    turns = run_rounds(work, rounds)
    if {turn.items for found in turns.values() for turn in found} != {count}:
        raise SystemExit("a contender finished another number of samples")
    shutil.rmtree(folder)
    nothing = Turn(0, 0, 0)
    start = {name: [starting if name == "headrace" else nothing] for name in turns}
    warm = ""
    if median(turn.wall for turn in turns["headrace"]) > 2 * starting.wall:  # else it is all noise
        rates = table(in_megabytes(without(turns, start), size), "headrace", "MB")
        warm = f"Less headrace's start-up:\n\n{rates}"
    return (
        f"## {name}: {len(units)} units, {count} samples, {size / 1e6:.0f} MB of values\n\n"
        f"{table(turns, 'headrace', 'samples')}\n"
        f"{table(in_megabytes(turns, size), 'headrace', 'MB')}\n"
        f"{warm}"
    )


def start_up(scratch: Path, rounds: int) -> Turn:
    """Return what headrace needs for two tiny fields, each a chunk of its own."""
    folder = scratch / "small"
    folder.mkdir()
    for number in range(2):
        tifffile.imwrite(folder / f"{number}.tif", texture(32, 32, number))
    chosen = Set(folder, IngestSpec(modality="microscopy"))
    work = {"headrace": partial(by_headrace, chosen, str(scratch / "small-store"))}
    turns = run_rounds(work, rounds)["headrace"]
    return Turn(median(turn.wall for turn in turns), median(turn.cpu for turn in turns), 0)


def make_sets(scratch: Path, quick: bool) -> dict[str, Set]:
    """Return the sets to measure; the shared ones where they are."""
    folders = {name: scratch / name for name in ("fields", "scenes")}
    for folder in folders.values():
        folder.mkdir()
    make_fields(folders["fields"], 4 if quick else 48)
    make_scenes(folders["scenes"], 2 if quick else 8, 1024 if quick else 2048)
    sets = {
        "fields": Set(folders["fields"], IngestSpec(modality="microscopy", pattern=CHANNELS)),
        "scenes": Set(folders["scenes"], IngestSpec(modality="satellite", tile=256)),
    }
    plate, hydro = SHARED / "microscopy" / "nf1_plate2", SHARED / "satellite" / "hydro_s2"
    if plate.is_dir() and hydro.is_dir():
        spec = IngestSpec(modality="microscopy", pattern=PLATE)
        sets |= {"shared fields": Set(plate, spec)}
        sets |= {"shared scenes": Set(hydro, IngestSpec(modality="satellite", tile=128))}
    return sets


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few files, one round")
    parser.add_argument("--only", nargs="*", help="names of the sets to measure")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        starting = start_up(scratch, rounds)
        print(f"headrace's start-up: {starting.wall:.2f} s wall, {starting.cpu:.2f} CPU-s\n")
        for name, chosen in make_sets(scratch, options.quick).items():
            if not options.only or name in options.only:
                print(measure(name, chosen, scratch, rounds, starting), flush=True)


if __name__ == "__main__":
    main()
