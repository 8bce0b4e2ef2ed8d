"""A program: the Ray feed, whose actors are killed as it runs, against the local feed (T7).

Ends with 0 when all batches are equal and at least as many actors died as it was told to kill.
"""

from __future__ import annotations

import random
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import torch

from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import open_store
from tests.integration.raw import make_images

BATCHES = 80
STREAM = StreamConfig(
    dataset="image",
    view=ViewConfig(size=32),
    mask=MaskConfig(),
    targets=(TargetConfig(kind="hog", cell=8),),
    patch=16,
    batch=4,
    seed=5,
    lanes=4,
)


class Killer(threading.Thread):
    """Kills actors of this process's Ray, one after the other."""

    def __init__(self, kills: int) -> None:
        super().__init__(daemon=True)
        self.left, self.killed, self.rng = kills, 0, random.Random(0)

    def run(self) -> None:
        while self.left:
            time.sleep(self.rng.uniform(0.1, 0.5))
            with suppress(psutil.Error):
                if actors := _actors():
                    self.rng.choice(actors).kill()
                    self.left, self.killed = self.left - 1, self.killed + 1


def _actors() -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process().children(recursive=True)
        if (child.cmdline() or [""])[0].startswith("ray::_Builder")
    ]


def same(got: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Compare two batches, bit for bit."""
    return got.keys() == wanted.keys() and all(torch.equal(got[k], wanted[k]) for k in wanted)


def main(folder: Path, kills: int) -> None:
    """Compare the feeds."""
    store = open_store(folder / "store")
    raw = make_images(folder / "raw", 14)
    spec = IngestSpec(modality="image", shard_size=8192, heldout=0.2)
    ingest(store, [str(raw)], "image", spec, Executor())
    local = list(open_feed(store, STREAM, stop=BATCHES))
    killer = Killer(kills)
    count = 0
    for number, batch in enumerate(open_feed(store, STREAM, stop=BATCHES, kind="ray")):
        if not number:
            killer.start()
        assert same(batch, local[number]), number
        time.sleep(0.03)
        count += 1
    assert count == BATCHES
    assert killer.killed, "no actor was killed"
    print(f"killed {killer.killed}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
