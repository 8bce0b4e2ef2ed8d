"""Clips for training: headrace's feed of ingested clips, beside decord on the raw 720p files.

    python benchmarks/feed_videos.py [FOLDER] [--rounds 5] [--stride 4] [--quick]

Both give clips of 16 frames at the stride, seen under a random resized crop to 224 with mirror, as
uint8. headrace ingested them once (short side 256, GOPs of 16), reads them from its shards with
every checksum verified, and draws masks too. decord opens the raw file for each clip, as loaders
do, seeks a random start, and scales to the short side of 256 while it decodes; one thread each. The
limit is the bare decode of the stored clips by PyAV with the same crops: no feed, no check, no
batch, nothing kept. Figures are clips by CPU second of one process, rounds interleaved, after one
that is not counted. Raw files are those of FOLDER with a short side of 720 or more and enough
frames; without one, a made video.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import decord
import numpy as np
import torch
import webdataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.video_codec import decode_clip
from preprocessing.views import ViewConfig, apply_view, draw_view
from storage.fs import Store
from tests.unit.preprocessing.video_media import write_long_video

FRAMES, SHORT, SIZE, BATCH, RAW_SHORT = 16, 256, 224, 2, 720
VIEW = ViewConfig(size=SIZE)
Clips = Iterator[int]
"how many clips each step has made"


def raw_files(folder: Path, span: int) -> list[Path]:
    """Return the videos that are large and long enough."""
    found = []
    for path in sorted(folder.rglob("*.mp4")):
        reader = decord.VideoReader(str(path), num_threads=1)
        if min(reader[0].shape[:2]) >= RAW_SHORT and len(reader) >= span:
            found.append(path)
    return found


def by_headrace(target: str) -> Clips:
    """Yield batches of the local feed over ingested clips."""
    stream = StreamConfig(
        dataset="clips",
        view=VIEW,
        mask=MaskConfig(kind="tube", ratio=0.9),
        targets=(),
        patch=16,
        tubelet=2,
        batch=BATCH,
        seed=0,
        lanes=1,
    )
    for batch in open_feed(Store(target), stream):
        assert batch["pixels"].shape[1:] == (3, FRAMES, SIZE, SIZE)
        yield len(batch["pixels"])


def by_decord(paths: list[Path], stride: int) -> Clips:
    """Yield clips that are decoded from the raw files."""
    rng, sizes = np.random.default_rng(0), {}
    for path in paths:
        height, width = decord.VideoReader(str(path), num_threads=1)[0].shape[:2]
        scale = SHORT / min(height, width)
        sizes[path] = round(width * scale), round(height * scale)
    while True:
        for path in paths:
            width, height = sizes[path]
            reader = decord.VideoReader(str(path), width=width, height=height, num_threads=1)
            start = int(rng.integers(len(reader) - (FRAMES - 1) * stride))
            frames = reader.get_batch(range(start, start + FRAMES * stride, stride)).asnumpy()
            del reader  # an idle one goes on decoding, at the cost of whoever comes next
            yield seen(frames, rng)


def bare(target: str) -> Clips:
    """Yield the stored clips, decoded and cropped alone."""
    shards = sorted(str(path) for path in Path(target).rglob("shard-*.tar"))
    stored = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    payloads, rng = [sample["mp4"] for sample in stored], np.random.default_rng(0)
    shown = np.empty((SIZE, SIZE, 3), np.uint8)
    while True:
        for payload in payloads:
            frames = decode_clip(payload)
            view = draw_view(VIEW, *frames.shape[1:3], rng)
            for frame in frames:
                apply_view(frame, view, out=shown)
            yield 1


def seen(frames: np.ndarray, rng: np.random.Generator) -> int:
    """Crop a clip, mirror it half of the time, and lay it out as a batch has it."""
    view = draw_view(VIEW, *frames.shape[1:3], rng)
    clip = np.ascontiguousarray(apply_view(frames, view).transpose(3, 0, 1, 2))
    return len(clip[None])


def measure(contenders: dict[str, Clips], rounds: int, clips: int) -> dict[str, list[float]]:
    """Return clips by CPU second of each round."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, steps in contenders.items():
            began, made = time.process_time(), 0
            while made < clips:
                made += next(steps)
            if number:
                found[name].append(made / (time.process_time() - began))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Return a Markdown table of medians; the ratio is that of each round."""
    lines = ["| contender | clips/CPU-s | min-max | headrace |", "| --- | --- | --- | --- |"]
    for name, each in found.items():
        ratio = statistics.median(a / b for a, b in zip(found["headrace"], each, strict=True))
        spread = f"{min(each):.1f}-{max(each):.1f}"
        lines.append(f"| {name} | {statistics.median(each):.1f} | {spread} | {ratio:.2f}x |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clips", type=int, default=12, help="a round")
    parser.add_argument("--stride", type=int, default=4)
    parser.add_argument("--quick", action="store_true", help="one round, two clips")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.clips = 1, 2
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder, target = Path(scratch, "raw"), f"{scratch}/store"
        folder.mkdir()
        if given.folder is None:
            write_long_video(str(folder / "made.mp4"), 6, width=1280, height=720)
        else:
            for path in raw_files(given.folder, 2 * FRAMES * given.stride):
                shutil.copy(path, folder)
        paths = sorted(folder.iterdir())
        spec = IngestSpec(
            modality="video", resize=SHORT, frames=FRAMES, stride=given.stride, heldout=0.0
        )
        report = ingest(Store(target), [str(folder)], "clips", spec, Executor())
        print(
            f"{len(paths)} raw files, {report['samples']} clips of {FRAMES} frames, stride "
            f"{given.stride}; {given.rounds} rounds of {given.clips} clips\n"
        )
        contenders = {
            "headrace": by_headrace(target),
            "decord, raw 720p": by_decord(paths, given.stride),
            "limit: bare decode of the stored clips": bare(target),
        }
        print(table(measure(contenders, given.rounds, given.clips)))


if __name__ == "__main__":
    main()
