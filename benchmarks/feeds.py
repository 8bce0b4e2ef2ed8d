"""Batches out of stored pictures: headrace's local feed against five peers and the bare work.

    python benchmarks/feeds.py [FOLDER] [--rounds 5] [--passes 4] [--workers 0 2] [--modes augment]
                               [--only files webdataset] [--peers-python PYTHON] [--quick]

Stored pictures: JPEGs of short side 256, quality 90, made from those of FOLDER (without one they
are made up), as many as fill whole batches of 64. Three regimes: `bytes` (headrace verifies every
checksum, peers none; its workers are threads then, and no pipe is crossed), `decode`, and `augment`
(random resized crop to 224, mirror, uint8 batches; headrace draws masks too). Figures are of whole
epochs after a first one, page cache warm, in samples by CPU second of the whole process tree;
rounds are interleaved, and each contender must show every sample once an epoch. First batch: from
the call until it is there, without imports. `resume` is headrace begun in the middle of an epoch;
peers replay, or have no such state. Two limits stand beside them, in one process without loader,
order, masks or check: `bound` is the peers' work (whole decode by OpenCV's libjpeg-turbo; pictures
of this size are never decoded smaller; of bytes, positional reads of open files), `box` is
headrace's (the box alone). Memory is the peak of the process tree, shared pages counted once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.ingest_images import has_package, make_files  # noqa: E402 (the path comes first)

READERS = Path(__file__).with_name("feed_readers.py")
BATCH, SHORT_SIDE, QUALITY = 64, 256, 90
PACKAGES = {"webdataset": "webdataset", "litdata": "litdata", "mds": "mosaicml-streaming"}
PACKAGES |= {"ray": "ray"}
PEERS = ("files", "webdataset", "litdata", "mds", "ray")
LIMITS = ("bound", "box")
Turns = dict[str, list[dict[str, Any]]]


def store_pictures(source: Path, target: Path, most: int) -> int:
    """Write pictures as ingest would; returns how many: whole batches."""
    target.mkdir()
    paths = sorted(path for path in source.rglob("*") if path.is_file())[:most]
    count = len(paths) // BATCH * BATCH
    for number, path in enumerate(paths[:count]):
        pixels = cv2.imread(str(path))
        scale = SHORT_SIDE / min(pixels.shape[:2])
        if scale < 1:
            size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
        cv2.imwrite(str(target / f"{number:05d}.jpg"), pixels, quality)
    return count


def pythons(only: list[str], peers_python: str) -> dict[str, str]:
    """Return the interpreter of each contender that can run; says which cannot."""
    found = {name: sys.executable for name in ("headrace", "resume", "files", *LIMITS)}
    for name in set(only) - set(found):
        for python in (sys.executable, peers_python):
            if name not in found and has_package(python, PACKAGES[name]):
                found[name] = python
        if name not in found:
            print(f"{PACKAGES[name]} is not installed: not measured", file=sys.stderr)
    order = ("headrace", "resume", *only, *LIMITS)
    return {name: found[name] for name in order if name in found}


def run(python: str, *arguments: str) -> str:
    """Run one contender; returns the last line that it printed."""
    done = subprocess.run(
        [python, str(READERS), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    return done.stdout.strip().rpartition("\n")[2]


def take_rounds(
    found: dict[str, str], place: Path, mode: str, workers: int, given: argparse.Namespace
) -> Turns:
    """Run every contender once a round, in turn."""
    turns: Turns = {name: [] for name in found}
    for _ in range(given.rounds):
        for name, python in found.items():
            asked = (str(place / name), mode, str(workers), str(given.passes))
            told = json.loads(run(python, "read", name, *asked))
            if not told["right"]:
                raise RuntimeError(f"{name}: an epoch lacked samples, or had some twice.")
            turns[name].append(told)
    return turns


def table(turns: Turns, mode: str, workers: int) -> str:
    """Return a Markdown table of medians."""

    def middle(name: str, value: Any) -> float:
        return statistics.median(value(turn) for turn in turns[name])

    def speed(name: str) -> float:
        return middle(name, lambda turn: turn["samples"] / max(turn["cpu"], 1e-9))

    lines = [
        f"## {mode}, {workers} workers, warm",
        "",
        "| contender | samples/CPU-s | min-max | samples/s | first batch s | MB (own) | headrace |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name in turns:
        each = [turn["samples"] / max(turn["cpu"], 1e-9) for turn in turns[name]]
        wall = middle(name, lambda turn: turn["samples"] / turn["wall"])
        first = middle(name, lambda turn: turn["first"])
        memory, own = (middle(name, lambda turn, k=k: turn[k]) / 1e6 for k in ("memory", "own"))
        lines.append(
            f"| {name} | {speed(name):,.0f} | {min(each):,.0f}-{max(each):,.0f} | {wall:,.0f} "
            f"| {first:.3f} | {memory:,.0f} ({own:,.0f}) | {speed('headrace') / speed(name):.2f}x |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--most", type=int, default=512)
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
    parser.add_argument("--modes", nargs="*", default=["bytes", "decode", "augment"])
    parser.add_argument("--only", nargs="*", default=list(PEERS))
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--quick", action="store_true", help="one round, one pass, few pictures")
    given = parser.parse_args()
    if given.quick:
        given.rounds, given.passes, given.most = 1, 1, 2 * BATCH
    with tempfile.TemporaryDirectory() as scratch:
        place, source = Path(scratch), given.folder
        if source is None:
            source = place / "raw"
            source.mkdir()
            make_files(source, given.most)
        count = store_pictures(source, place / "pictures", given.most)
        found = pythons(given.only, given.peers_python)
        for name, python in found.items():
            run(python, "prepare", name, str(place / "pictures"), str(place / name))
        print(f"{count} pictures, {given.rounds} rounds of {given.passes} epochs\n")
        for mode in given.modes:
            for workers in given.workers:
                those = {n: python for n, python in found.items() if (n, mode) != ("box", "bytes")}
                print(table(take_rounds(those, place, mode, workers, given), mode, workers))


if __name__ == "__main__":
    main()
