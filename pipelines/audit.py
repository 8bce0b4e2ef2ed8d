"""The audit of an epoch: what a feed delivered, held against the order that it promised (G8).

Every batch is compared with the ids that the order names, and every sample is ticked off in a bit
of its own; an epoch that ends without a sample twice, lost or shifted has its proof.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.order import Order
from pipelines.rows import ShardRows, sample_ids


class OrderBroken(RuntimeError):
    """A batch that is not the one whose turn it was; a fault of headrace or of the machine."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What an epoch was, on one rank."""

    epoch: int
    batches: int
    samples: int
    "delivered, each at its place in the order, none of them twice"
    replaced: int
    "of these, substitutes of samples that failed"
    repeated: int
    "of these, series with a picture more than once: their place has fewer dates than asked for"
    remainder: int
    "samples of the dataset that this epoch left out on all ranks: fewer than one global batch"
    whole: bool
    "False where the feed began inside the epoch"

    def __str__(self) -> str:
        """Return the sentence that is printed at the end of an epoch."""
        part = "" if self.whole else " (from where the run was resumed)"
        again = f"; {self.repeated} show a date twice, their place has too few" * bool(
            self.repeated
        )
        return (
            f"epoch {self.epoch}: {self.samples} samples in {self.batches} batches{part}, each "
            f"once and in order; {self.replaced} replaced{again}; {self.remainder} left out, "
            "fewer than a batch."
        )


class Audit:
    """Holds the batches of one rank, in turn, against the order."""

    def __init__(
        self, order: Order, rows: Sequence[ShardRows], start: int, place: tuple[int, int]
    ) -> None:
        self.order, self.rows, self.number, self.place = order, rows, start, place
        self.proofs: list[Proof] = []
        self._begins = np.concatenate([[0], np.cumsum(order.sizes)])
        self._begin_epoch()

    def _begin_epoch(self) -> None:
        self._first = self.number
        self._samples = self._replaced = self._repeated = 0
        self._ticked = np.zeros(-(-self.order.samples // 8), np.uint8)

    def add(self, ids: NDArray[np.int64], replaced: int, repeated: int) -> None:
        """Count the next batch.

        Args:
            ids: of its samples.
            replaced: how many of them are substitutes.
            repeated: how many of them show a picture more than once.

        Raises:
            OrderBroken: these are other samples, or one of them came before in this epoch.
        """
        rank, ranks = self.place
        places = self.order.batch(self.number, rank=rank, ranks=ranks)
        wanted = sample_ids(self.rows, places)
        others = int((ids != wanted).sum()) if len(ids) == len(wanted) else len(wanted)
        if others > replaced or len(ids) != len(wanted):
            raise OrderBroken(
                f"batch {self.number} of rank {rank}: {others} of {len(wanted)} samples are not "
                "those of the order. Resume from the last checkpoint, and report this."
            )
        self._tick(np.array([self._begins[shard] + row for shard, row in places]))
        self._samples += len(places)
        self._replaced += replaced
        self._repeated += repeated
        self.number += 1
        if self.number % self.order.batches_per_epoch == 0:
            self._end_epoch()

    def _tick(self, line: NDArray[np.int64]) -> None:
        bits = np.left_shift(1, line & 7).astype(np.uint8)
        twice = (np.diff(np.sort(line)) == 0).any()  # `np.unique` would import masked arrays
        if twice or (self._ticked[line >> 3] & bits).any():
            raise OrderBroken(f"batch {self.number}: has a sample that this epoch had before.")
        np.bitwise_or.at(self._ticked, line >> 3, bits)

    def _end_epoch(self) -> None:
        steps = self.order.batches_per_epoch
        self.proofs.append(
            Proof(
                epoch=(self.number - 1) // steps,
                batches=self.number - self._first,
                samples=self._samples,
                replaced=self._replaced,
                repeated=self._repeated,
                remainder=self.order.samples - steps * self.order.config.batch,
                whole=self._first % steps == 0,
            )
        )
        self._begin_epoch()
