"""One huge scene and one long video through the real command: peak memory of each worker.

    python benchmarks/memory_ingest.py [--scene-mib 1024] [--video-minutes 120]

The scene is a tiled GeoTIFF of four bands, 16 bits, zstd, written tile by tile; the video H.264 of
320x240 px with a keyframe every 10 s. Both are ingested by `headrace ingest --direct` with two
workers. The limit of DESIGN.md is 1.5 GB a worker.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import tifffile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.process_memory import Watched, headrace, watch

LIMIT_MIB = 1500
_TILE, _BANDS = 512, 4
_GEO_TAGS = [
    (33550, "d", 3, (10.0, 10.0, 0.0), True),  # pixel scale in metres
    (33922, "d", 6, (0.0, 0.0, 0.0, 500_000.0, 5_000_000.0, 0.0), True),  # where (0, 0) lies
    (34735, "H", 16, (1, 1, 0, 3, 1024, 0, 1, 1, 1025, 0, 1, 1, 3072, 0, 1, 32632), True),
]
"UTM zone 32 north"


def make_scene(path: Path, mib: int) -> None:
    """Write a square GeoTIFF of about so many MiB before compression, tile by tile."""
    tiles = max(1, round((mib * 2**20 / (2 * _BANDS)) ** 0.5 / _TILE))
    edge = tiles * _TILE

    def blocks() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(_BANDS * tiles * tiles):
            yield rng.integers(1, 4096, (_TILE, _TILE), np.uint16)

    tifffile.imwrite(
        path,
        blocks(),
        shape=(_BANDS, edge, edge),
        dtype=np.uint16,
        tile=(_TILE, _TILE),
        compression="zstd",
        planarconfig="separate",
        photometric="minisblack",
        extratags=_GEO_TAGS,
        bigtiff=mib > 3000,
    )


def make_video(path: Path, minutes: float, fps: int = 10) -> None:
    """Write a video with a moving square, frame by frame."""
    with av.open(str(path), "w") as container:
        options = {"preset": "ultrafast", "crf": "30"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        stream.codec_context.gop_size = 10 * fps
        ground = np.random.default_rng(0).integers(0, 255, (240, 320, 3), np.uint8)
        for i in range(max(1, round(minutes * 60 * fps))):
            frame = ground.copy()
            frame[80:140, i % 260 : i % 260 + 60] = i % 251
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def ingest(raw: Path, store: Path, modality: str, *options: str) -> tuple[Watched, int]:
    """Run the command; returns what it took and how many samples it wrote."""
    run = watch(
        headrace(
            "ingest",
            *(str(raw), "--modality", modality, "--dataset", modality, "--store", str(store)),
            *("--direct", "--workers", "2", "--json", *options),
        )
    )
    report = json.loads(run.output[run.output.index("{") :])
    return run, int(report["samples"])


def main() -> None:
    """Print the table; fail where a worker held more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene-mib", type=int, default=1024)
    parser.add_argument("--video-minutes", type=float, default=120.0)
    parser.add_argument("--scratch", type=Path, help="where to make the files")
    options = parser.parse_args()
    print("| raw file | on disk | samples | s | driver, peak MiB | largest worker, peak MiB |")
    print("| --- | --- | --- | --- | --- | --- |")
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        scene, video = Path(scratch) / "scene.tif", Path(scratch) / "video.mp4"
        make_scene(scene, options.scene_mib)
        make_video(video, options.video_minutes)
        runs = {
            f"scene, {options.scene_mib} MiB of pixels": (scene, "satellite", ("--tile", "256")),
            f"video, {options.video_minutes:g} minutes": (video, "video", ()),
        }
        for name, (raw, modality, more) in runs.items():
            run, samples = ingest(raw, Path(scratch) / "store", modality, *more)
            worst = max(worst, run.driver, run.worker)
            print(
                f"| {name} | {raw.stat().st_size / 2**20:.0f} MiB | {samples:,} | {run.wall:.1f} "
                f"| {run.driver:.0f} | {run.worker:.0f} |",
                flush=True,
            )
    if worst > LIMIT_MIB:
        raise SystemExit(f"a process held {worst:.0f} MiB; the limit is {LIMIT_MIB} MiB.")


if __name__ == "__main__":
    main()
