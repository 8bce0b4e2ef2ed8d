"""One contender of `ingest_images.py`, as a process of its own: pictures to shards of one format.

    python benchmarks/image_writers.py write headrace FOLDER TARGET
    python benchmarks/image_writers.py digests headrace TARGET

Each is written as its own documentation advises, with two processes. `digests` prints the SHA-256
of every stored picture, so that speeds are compared only between equal outputs. Libraries are
imported where they are used: a contender pays for its own alone, and the two that pin an older
NumPy can run in another environment.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
SHORT_SIDE, QUALITY, PROCESSES, SHARDS = 256, 90, 2, 8
RECIPE = "HEADRACE_BENCH_RECIPE"
"environment: `headrace` or `area`"
_REDUCED = {1: 0, 2: 16, 4: 32, 8: 64}
"OpenCV's flags for a JPEG that is decoded at 1/n; with IMREAD_COLOR's bit they are the colour ones"


def resized(path: str) -> bytes:
    """Return what is stored of a picture, made by plain OpenCV.

    With the recipe `headrace` these are the bytes that headrace stores; with `area` the resize is
    the one call that OpenCV's documentation and img2dataset use for making smaller.
    """
    data = Path(path).read_bytes()
    with Image.open(io.BytesIO(data)) as image:
        (width, height), gray = image.size, image.mode == "L"
    times = min(width, height) / SHORT_SIDE
    flags = cv2.IMREAD_GRAYSCALE if gray else cv2.IMREAD_COLOR
    if times > 1:
        flags |= _REDUCED[max(factor for factor in _REDUCED if factor <= times)]
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ValueError(f"{path}: OpenCV cannot decode it.")
    if times <= 1:
        return data
    small = _scaled(pixels, os.environ.get(RECIPE, "headrace"))
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def _scaled(pixels: Any, recipe: str) -> Any:
    """Return a picture whose shorter edge is `SHORT_SIDE`."""
    height, width = pixels.shape[:2]
    scale = SHORT_SIDE / min(height, width)
    size = round(width * scale), round(height * scale)
    nearly = size[0] * 2 > width > size[0] and size[1] * 2 > height > size[1]
    if recipe == "headrace" and nearly:
        twice = size[0] * 2, size[1] * 2
        pixels = cv2.resize(pixels, twice, interpolation=cv2.INTER_LINEAR)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _parts(paths: list[str], target: str) -> list[tuple[str, list[str]]]:
    cuts = np.array_split(np.arange(len(paths)), SHARDS)
    return [(f"{target}/{n:05d}", [paths[i] for i in cut]) for n, cut in enumerate(cuts)]


def _in_processes(function: Any, paths: list[str], target: str) -> None:
    """Run over the parts in two processes; forked ones, which start at once."""
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("fork")) as pool:
        list(pool.map(function, _parts(paths, target)))


# -- headrace


def write_headrace(paths: list[str], target: str) -> None:
    """Ingest the folder, with every check."""
    sys.path.insert(0, str(ROOT))
    from pipelines.executors import Executor
    from pipelines.ingest import ingest
    from pipelines.ingest_spec import IngestSpec
    from storage.fs import open_store

    spec = IngestSpec(modality="image", resize=SHORT_SIDE)
    folder = str(Path(paths[0]).parent)
    report = ingest(open_store(target), [folder], "photos", spec, Executor(workers=PROCESSES))
    if report["samples"] != len(paths):
        raise RuntimeError(f"headrace wrote {report['samples']} of {len(paths)} samples: {report}")


# -- webdataset


def _write_tar(part: tuple[str, list[str]]) -> None:
    import webdataset

    cv2.setNumThreads(1)
    with webdataset.TarWriter(f"{part[0]}.tar", mtime=0) as writer:
        for path in part[1]:
            about = {"source": Path(path).name}
            writer.write({"__key__": Path(path).stem, "jpg": resized(path), "json": about})


def write_webdataset(paths: list[str], target: str) -> None:
    """Write tars with webdataset's writer."""
    import webdataset  # noqa: F401  # once, before the workers are forked

    _in_processes(_write_tar, paths, target)


# -- MosaicML streaming


def _write_mds(part: tuple[str, list[str]]) -> None:
    import streaming

    cv2.setNumThreads(1)
    columns = {"key": "str", "jpg": "bytes", "source": "str"}
    with streaming.MDSWriter(out=part[0], columns=columns, size_limit=1 << 26) as writer:
        for path in part[1]:
            writer.write({"key": Path(path).stem, "jpg": resized(path), "source": Path(path).name})


def write_mds(paths: list[str], target: str) -> None:
    """Write MDS shards in groups, and one index of all."""
    import streaming.base.util

    _in_processes(_write_mds, paths, target)
    streaming.base.util.merge_index(target)


# -- litdata


def _litdata_sample(path: str) -> dict[str, Any]:
    cv2.setNumThreads(1)
    return {"key": Path(path).stem, "jpg": resized(path), "source": Path(path).name}


def write_litdata(paths: list[str], target: str) -> None:
    """Write chunks with litdata.optimize."""
    os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = f"{target}-cache"
    os.environ["DATA_OPTIMIZER_DATA_CACHE_FOLDER"] = f"{target}-data"
    import litdata

    litdata.optimize(
        fn=_litdata_sample,
        inputs=paths,
        output_dir=target,
        num_workers=PROCESSES,
        chunk_bytes="64MB",
        verbose=False,
    )


# -- Ray Data


def _ray_sample(row: dict[str, Any]) -> dict[str, Any]:
    cv2.setNumThreads(1)
    return {"__key__": Path(row["path"]).stem, "jpg": resized(row["path"])}


def write_ray(paths: list[str], target: str) -> None:
    """Read, map and write with Ray Data on two cores."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray

    ray.init(num_cpus=PROCESSES, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=SHARDS)
    rows.map(_ray_sample).write_webdataset(target, encoder=None)
    ray.shutdown()


# -- the bound


def write_nothing(paths: list[str], _target: str) -> None:
    """Decode, scale and encode in one process, and keep nothing."""
    cv2.setNumThreads(1)
    for path in paths:
        resized(path)


# -- what was stored


def _tar_pictures(target: str) -> Iterator[bytes]:
    for place in sorted(Path(target).rglob("*.tar")):
        with tarfile.open(place) as tar:
            for member in tar:
                stream = tar.extractfile(member)
                if stream is not None and not member.name.endswith(".json"):
                    yield stream.read()


def _mds_pictures(target: str) -> Iterator[bytes]:
    import streaming

    dataset = streaming.LocalDataset(target)
    yield from (dataset[i]["jpg"] for i in range(len(dataset)))


def _litdata_pictures(target: str) -> Iterator[bytes]:
    import litdata

    dataset = litdata.StreamingDataset(target)
    yield from (dataset[i]["jpg"] for i in range(len(dataset)))


WRITERS = {
    "headrace": (write_headrace, _tar_pictures),
    "webdataset": (write_webdataset, _tar_pictures),
    "mds": (write_mds, _mds_pictures),
    "litdata": (write_litdata, _litdata_pictures),
    "ray": (write_ray, _tar_pictures),
    "bound": (write_nothing, _tar_pictures),
}


def main() -> None:
    """Do what the command line says."""
    what, name, *places = sys.argv[1:]
    write, pictures = WRITERS[name]
    if what == "write":
        folder, target = places
        Path(target).mkdir(parents=True, exist_ok=True)
        write(sorted(str(p) for p in Path(folder).iterdir() if p.is_file()), target)
    else:
        print("\n".join(sorted(hashlib.sha256(data).hexdigest() for data in pictures(places[0]))))


if __name__ == "__main__":
    main()
