"""JPEG files to shards at short side 256, quality 90: headrace against webdataset's own writer.

    python benchmarks/ingest_images.py [FOLDER]

Without a folder 300 JPEGs of 500x375 px are made from noise and gradients. Both sides decode with
OpenCV, average areas,
encode JPEG and write tars of the same sizes in two processes; headrace also hashes every input,
refuses what is truncated,
measures statistics and writes manifest and checksums. The bound is decode + resize + encode alone,
in one process.
"""

from __future__ import annotations

import sys
import tarfile
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np
import webdataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import run_rounds, table
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from storage.fs import open_store

SHORT_SIDE, QUALITY = 256, 90


def make_files(folder: Path, count: int = 300) -> list[Path]:
    """Write JPEGs with about the detail of photographs."""
    rng = np.random.default_rng(0)
    for i in range(count):
        noise = rng.integers(0, 255, (375, 500, 3), np.uint8)
        smooth = cv2.GaussianBlur(noise, (0, 0), 4).astype(np.float32)
        pixels = np.clip((smooth - 127) * 6 + 127 + rng.normal(0, 6, smooth.shape), 0, 255)
        cv2.imwrite(str(folder / f"{i:05d}.jpg"), pixels.astype(np.uint8))
    return sorted(folder.glob("*.jpg"))


def resized(path: Path) -> bytes:
    """Return a file scaled and encoded, as both contenders do it."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    height, width = pixels.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    if scale < 1:
        size = (max(round(width * scale), SHORT_SIDE), max(round(height * scale), SHORT_SIDE))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def write_tar(job: tuple[str, list[Path]]) -> int:
    """Write one tar with webdataset's writer."""
    target, paths = job
    cv2.setNumThreads(1)
    with webdataset.TarWriter(target, mtime=0) as writer:
        for path in paths:
            writer.write(
                {"__key__": path.stem, "jpg": resized(path), "json": {"source": path.name}}
            )
    return len(paths)


def by_webdataset(paths: list[Path]) -> int:
    """Write all files with two processes."""
    with tempfile.TemporaryDirectory() as folder:
        cuts = np.array_split(np.arange(len(paths)), 8)
        jobs = [(f"{folder}/{n}.tar", [paths[i] for i in cut]) for n, cut in enumerate(cuts)]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            done = sum(pool.map(write_tar, jobs))
        members = sum(count_members(path) for path, _ in jobs)
    assert members == 2 * len(paths)
    return done


def count_members(path: str) -> int:
    """Return how many members a tar has."""
    with tarfile.open(path) as tar:
        return len(tar.getnames())


def by_headrace(folder: Path, count: int) -> int:
    """Ingest the folder with two processes."""
    with tempfile.TemporaryDirectory() as store:
        spec = IngestSpec(modality="image", resize=SHORT_SIDE)
        report = ingest(open_store(store), [str(folder)], "photos", spec, Executor(workers=2))
    assert report["samples"] + report["duplicates"] == count
    return int(report["samples"])


def bound(paths: list[Path]) -> int:
    """Decode, scale and encode only."""
    cv2.setNumThreads(1)
    return sum(bool(resized(path)) for path in paths)


def main() -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(made)
        paths = sorted(p for p in folder.iterdir() if p.is_file()) or make_files(folder)
        contenders = {
            "headrace": lambda: by_headrace(folder, len(paths)),
            f"webdataset {webdataset.__version__}": lambda: by_webdataset(paths),
            "bound: decode + resize + encode": lambda: bound(paths),
        }
        print(table(run_rounds(contenders), "headrace", "images"))


if __name__ == "__main__":
    main()
