"""What it costs to know where the time of batches goes: batches built with the clocks and without.

    python benchmarks/stalls.py [FOLDER] [--batches 60] [--size 224]

Pictures of FOLDER (without one they are made up), stored with short side 256, are read, verified,
decoded to random crops and masked, 64 a batch, in this process. Each batch is built twice in turn,
once with clocks that do nothing; the figure is the median of the ratios of CPU seconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402 (the path comes first)
import torch  # noqa: E402

from benchmarks.feed_readers import photos  # noqa: E402
from benchmarks.feeds import BATCH, store_pictures  # noqa: E402
from benchmarks.ingest_images import make_files  # noqa: E402
from pipelines import batch as batches  # noqa: E402
from pipelines.executors import Executor  # noqa: E402
from pipelines.feed import Feed, open_feed  # noqa: E402
from pipelines.ingest import ingest  # noqa: E402
from pipelines.ingest_spec import IngestSpec  # noqa: E402
from pipelines.stalls import Clock, Stalls  # noqa: E402
from storage.fs import open_store  # noqa: E402


class Silent(Clock):
    """A clock that does not look."""

    def lap(self, stage: str) -> None:
        """Look at nothing."""

    def move(self, seconds: float, source: str, target: str) -> None:
        """Move nothing."""


def opened(place: Path, source: Path, size: int) -> Feed:
    """Ingest the pictures of a folder and open their feed."""
    store_pictures(source, place / "pictures", 4 * BATCH)
    store = open_store(place / "store")
    spec = IngestSpec(modality="image", heldout=0.0)
    ingest(store, [str(place / "pictures")], "photos", spec, Executor())
    return open_feed(store, photos(size))


def seconds_of(course: Any, number: int, clock: type[Clock], stalls: Stalls | None) -> float:
    """Return the CPU seconds of a batch, and of adding it to what is told about stalls."""
    batches.Clock = clock
    asked, began = time.perf_counter(), time.process_time()
    _, about = course.build(course.task(number))
    if stalls is not None:
        stalls.add(asked, time.perf_counter(), about.done, about.seconds)
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--size", type=int, default=224)
    given = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        place, source = Path(scratch), given.folder
        if source is None:
            source = place / "raw"
            source.mkdir()
            make_files(source, 2 * BATCH)
        course, stalls = opened(place, source, given.size).course, Stalls(0)
        ratios = []
        for number in range(given.batches + 2):
            ways: list[tuple[type[Clock], Stalls | None]] = [(Clock, stalls), (Silent, None)]
            order = ways if number % 2 else ways[::-1]
            took = {clock: seconds_of(course, number, clock, told) for clock, told in order}
            if number >= 2:  # imports and first memory
                ratios.append(took[Clock] / took[Silent])
    middle = statistics.median(ratios)
    spread = statistics.quantiles(ratios, n=4)
    print("| batches | with clocks / without | quartiles |\n| --- | --- | --- |")
    print(f"| {len(ratios)} | {middle:.4f} | {spread[0]:.4f}-{spread[2]:.4f} |")


if __name__ == "__main__":
    main()
