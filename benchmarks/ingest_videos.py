"""Videos to shards of clips: headrace in two processes, beside the physical limits of the work.

    python benchmarks/ingest_videos.py [FOLDER] [--rounds 5] [--quick]

Clips of 16 frames at stride 2, short side 256. The limits, each in two processes without headrace's
pipeline: decode alone (probe and decode), encode alone (frames that were decoded before), and both
in a row. headrace also lists and hashes every file, refuses what is broken, decodes each stored
clip again (for its statistics, its motion score, and to know that it can be read), checksums, and
writes shards and manifest, flushed to disk. Its start-up (processes, imports) is counted too, and
shown apart: an ingest of two tiny videos. The payloads of the limits are checked to be those
in the shards. Without a folder, the shared videos are taken, or ten made ones.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
import webdataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.rounds import Turn, run_rounds, table
from pipelines.executors import Executor
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from preprocessing.errors import DecodeError
from preprocessing.videos import decode_clips, encode_clip, plan_clips, probe_video
from storage.fs import Store
from tests.unit.preprocessing.video_media import write_long_video

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "videos"
SUFFIXES = (".mp4", ".mkv", ".mov", ".webm")
WORKERS = 2
SPEC = IngestSpec(modality="video", resize=256, frames=16, stride=2)


def make_videos(folder: Path, count: int = 10) -> list[Path]:
    """Write videos of 20 to 30 seconds, no two of one length."""
    for n in range(count):
        write_long_video(str(folder / f"{n}.mp4"), 20 + n, width=640, height=360)
    return sorted(folder.iterdir())


def clips_of(path: Path) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the decoded clips of a video and their rate; nothing for one that headrace refuses."""
    data = path.read_bytes()
    try:
        index = probe_video(data)
        clips = plan_clips(index, frames=SPEC.frames, stride=SPEC.stride)
    except DecodeError:
        return
    for _, frames in decode_clips(data, index, clips, short_side=SPEC.resize):
        yield frames, index.fps / SPEC.stride


def decode(path: Path) -> int:
    """Decode only."""
    return sum(1 for _ in clips_of(path))


def decode_and_encode(path: Path) -> int:
    """Decode, and encode what was decoded."""
    return sum(bool(encode_clip(frames, rate)) for frames, rate in clips_of(path))


def encode(path: Path) -> int:
    """Encode the clips of an `.npz` that `keep_decoded` wrote."""
    with np.load(path) as kept:
        rate = float(kept["rate"])
        names = [name for name in kept.files if name != "rate"]
        return sum(bool(encode_clip(kept[name], rate)) for name in names)


def keep_decoded(path: Path, folder: Path) -> Path:
    """Write the decoded clips of a video, uncompressed."""
    clips = list(clips_of(path))
    target = folder / f"{path.name}.npz"
    np.savez(target, *(frames for frames, _ in clips), rate=clips[0][1] if clips else 0.0)
    return target


def in_processes(work: Callable[[Path], int], paths: list[Path]) -> int:
    """Do one job a file; the largest come first, so that no process waits long at the end."""
    ordered = sorted(paths, key=lambda path: -path.stat().st_size)
    with ProcessPoolExecutor(WORKERS, mp_context=get_context("fork")) as pool:
        return sum(pool.map(work, ordered))


def by_headrace(folder: Path, target: str) -> int:
    """Ingest the folder into an empty store."""
    shutil.rmtree(target, ignore_errors=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    spec = replace(SPEC, shard_size=size // 16)  # so that both processes end about together
    report = ingest(Store(target), [str(folder)], "clips", spec, Executor(workers=WORKERS))
    return int(str(report["samples"]))


def check_equal(paths: list[Path], folder: Path, target: str) -> int:
    """Return how many clips there are, once the shards hold the payloads of the limits."""
    count = by_headrace(folder, target)
    shards = sorted(str(path) for path in Path(target).rglob("shard-*.tar"))
    stored = webdataset.WebDataset(shards, shardshuffle=False, empty_check=False)
    found = sorted(hashlib.sha256(sample["mp4"]).hexdigest() for sample in stored)
    plain = [encode_clip(frames, rate) for path in paths for frames, rate in clips_of(path)]
    expected = sorted(hashlib.sha256(payload).hexdigest() for payload in plain)
    if found != expected or len(found) != count:
        raise SystemExit(f"{len(found)} clips in the shards, {len(expected)} expected: not equal")
    return count


def start_up(scratch: Path, rounds: int) -> str:
    """Return what headrace needs for two tiny videos, each a chunk of its own."""
    folder = scratch / "small"
    folder.mkdir()
    for n in range(2):
        write_long_video(str(folder / f"{n}.mp4"), 2 + n, width=64, height=48)
    ingest_both = partial(by_headrace, folder, str(scratch / "small-store"))
    turns = run_rounds({"headrace": ingest_both}, rounds)["headrace"]
    wall, cpu = (median(getattr(turn, name) for turn in turns) for name in ("wall", "cpu"))
    return f"headrace's start-up in the above: {wall:.2f} s wall, {cpu:.2f} CPU-s"


def in_megabytes(turns: dict[str, list[Turn]], size: int) -> dict[str, list[Turn]]:
    """Count the source's MB in place of clips."""
    items = max(1, round(size / 1e6))
    return {name: [replace(t, items=items) for t in found] for name, found in turns.items()}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="six files, one round")
    options = parser.parse_args()
    rounds = 1 if options.quick else options.rounds
    with tempfile.TemporaryDirectory() as scratch:
        folder, kept, target = (Path(scratch) / name for name in ("videos", "decoded", "store"))
        folder.mkdir(), kept.mkdir()
        found = [p for p in sorted(options.folder.rglob("*")) if p.suffix in SUFFIXES]
        for path in (found or make_videos(kept))[: 6 if options.quick else None]:
            shutil.copy(path, folder / f"{path.parent.name}-{path.name}")
        paths = sorted(folder.iterdir())
        count = check_equal(paths, folder, str(target))
        size = sum(path.stat().st_size for path in paths)
        print(f"{len(paths)} videos, {size / 1e6:.1f} MB, {count} clips: equal payloads\n")
        decoded = [keep_decoded(path, kept) for path in paths]
        turns = run_rounds(
            {
                "headrace": lambda: by_headrace(folder, str(target)),
                "limit: decode": partial(in_processes, decode, paths),
                "limit: encode": partial(in_processes, encode, decoded),
                "limit: decode + encode": partial(in_processes, decode_and_encode, paths),
            },
            rounds,
        )
        starting = start_up(Path(scratch), rounds)
    if {turn.items for found in turns.values() for turn in found} != {count}:
        raise SystemExit("a contender finished another number of clips")
    print(table(turns, "headrace", "clips"))
    print(table(in_megabytes(turns, size), "headrace", "source MB"))
    print(starting)


if __name__ == "__main__":
    main()
