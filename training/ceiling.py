"""How fast the steps of a run are alone, on batches that are already there: no feed lifts a run
above this ceiling, so it tells what waiting less would be worth.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from training.loop import Batch, Trainer, on_device, take_step

SHARE = 0.01
"of a run's steps: as many are taken once more for the ceiling"
MOST = 20
"steps that are taken again for a dataset, however long the run"


@dataclass(slots=True)
class Cached:
    """Batches on their way to the loop; the first of each dataset of a mixture is kept."""

    batches: Iterable[Batch]
    first: dict[int, Batch] = field(default_factory=dict)
    counts: Counter[int] = field(default_factory=Counter)
    "batches that passed, by dataset"

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            stream = int(batch.get("stream", 0))
            self.first.setdefault(stream, batch)
            self.counts[stream] += 1
            yield batch
            del batch  # else its memory is in use until the next one has come


def measure_ceiling(trainer: Trainer, cached: Cached, steps: int) -> float | None:
    """Return how many samples a second one rank computes without waiting for any.

    The batches that were kept are trained on again, each dataset counted as often as its batches
    came. That changes the trainer, so it is for after the last checkpoint of a run; all ranks call
    it together.

    Args:
        steps: that the run took. A hundredth of them is repeated; the answer is None where that
            is fewer than two for each dataset, as the first of them warms up.
    """
    each = min(int(SHARE * steps) // max(len(cached.first), 1), MOST)
    if each < 2:
        return None
    trainer.model.train()
    samples = seconds = 0.0
    for stream, batch in cached.first.items():
        samples += cached.counts[stream] * len(batch["pixels"])
        seconds += cached.counts[stream] * _step_seconds(trainer, batch, each)
    return samples / seconds


def _step_seconds(trainer: Trainer, batch: Batch, count: int) -> float:
    """Return what the fastest of `count` steps on a batch took; others of the machine's work can
    only slow a step down. The first warms up.
    """
    batch = on_device(trainer, batch, 0)
    took = []
    for _ in range(count):
        began = time.perf_counter()
        take_step(trainer, batch)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        took.append(time.perf_counter() - began)
    return min(took[1:])
