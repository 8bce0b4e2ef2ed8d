"""The order of an epoch, computed from numbers alone: the same for any ranks, workers and machines.

Nothing here knows a file. A *line* is all samples of the shards in shuffled order, end to end; a
*lane* is an equal cut of the line; a global batch takes the next samples of every lane. Memory
grows with shards, never with samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.shuffle import keys_of, permuted

Numbers = NDArray[np.int64]
Places = list[tuple[int, int]]
"(shard, row) of each sample of a batch"

_TOGETHER = 1024
"Samples whose places are computed at once: numpy takes as long for a batch as for many."
# Spawn keys of the two draws, so that neither can meet the streams of views and masks.
_SHARDS, _BLOCK = 11, 13


def default_lanes(batch: int) -> int:
    """Return the largest of 8, 4, 2, 1 that divides the global batch."""
    return next(lanes for lanes in (8, 4, 2, 1) if batch % lanes == 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class OrderConfig:
    """What fixes the sequence of samples, besides the shards themselves."""

    batch: int
    "samples of a global batch, over all ranks"
    seed: int
    lanes: int
    "equal cuts of the line; the number of ranks divides it, it divides the batch"
    block: int = 8
    "shards whose samples are shuffled together"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.lanes < 1 or self.batch % self.lanes:
            raise ValueError(
                f"order: batch is {self.batch}, lanes is {self.lanes}. Lanes must divide the "
                f"global batch. Use lanes={default_lanes(max(self.batch, 1))}."
            )
        if self.block < 1:
            raise ValueError(
                f"order: block is {self.block}; it must be at least 1 shard. 8 is usual."
            )


class EpochOrder:
    """The order of one epoch over `sizes` (samples of each shard)."""

    def __init__(self, sizes: NDArray[np.int64], config: OrderConfig, epoch: int) -> None:
        self.config, self.epoch = config, epoch
        entropy = [config.seed, epoch, _SHARDS]
        self.shards = np.random.default_rng(entropy).permutation(len(sizes))
        self.bounds = np.concatenate([[0], np.cumsum(sizes[self.shards])])
        "where each shard begins on the line; the last is the line's end"

    @property
    def lane_length(self) -> int:
        """Samples of a lane; what does not fill `lanes` equal lanes is left out of this epoch."""
        return int(self.bounds[-1]) // self.config.lanes

    def locate(self, lanes: Numbers, places: Numbers) -> tuple[Numbers, Numbers]:
        """Return (shards, rows) of the samples at `places` of `lanes`, arrays of one length.

        A lane's shards are taken in blocks of `block`; inside a block all samples are shuffled.
        """
        start = lanes * self.lane_length
        first = self._position(start)
        block = (self._position(start + places) - first) // self.config.block
        opening = first + block * self.config.block
        closing = np.minimum(opening + self.config.block, len(self.shards))
        begin = np.maximum(self.bounds[opening], start)
        end = np.minimum(self.bounds[closing], start + self.lane_length)
        named = (lanes.astype(np.uint64), block.astype(np.uint64))
        keys = keys_of(self.config.seed, self.epoch, _BLOCK, numbers=named)
        moved = permuted(start + places - begin, end - begin, keys)
        line = begin + moved.astype(np.int64)
        position = self._position(line)
        return self.shards[position], line - self.bounds[position]

    def left_out(self, begin: int) -> tuple[Numbers, Numbers]:
        """Return (shards, rows) of what this epoch leaves out, when lanes end at place `begin`."""
        lanes, length = self.config.lanes, self.lane_length
        lane, place = np.divmod(np.arange(lanes * (length - begin)), max(length - begin, 1))
        shards, rows = self.locate(lane, begin + place)
        tail = np.arange(lanes * length, int(self.bounds[-1]))
        position = self._position(tail)
        return (
            np.concatenate([shards, self.shards[position]]),
            np.concatenate([rows, tail - self.bounds[position]]),
        )

    def _position(self, line: Numbers) -> Numbers:
        """Return the places, in the shuffled order of shards, of the shards that hold these."""
        return np.searchsorted(self.bounds[1:], line, side="right")


def batches_per_epoch(samples: int, config: OrderConfig) -> int:
    """Return how many global batches an epoch has.

    Raises:
        ValueError: the data do not fill one batch.
    """
    batches = samples // config.lanes // (config.batch // config.lanes)
    if batches == 0:
        raise ValueError(
            f"order: {samples} samples cannot fill a global batch of {config.batch}. "
            f"Use a batch of at most {samples} or ingest more data."
        )
    return batches


def remainder(samples: int, config: OrderConfig) -> int:
    """Return how many samples an epoch leaves out: always fewer than one global batch."""
    return samples - batches_per_epoch(samples, config) * config.batch


class Order:
    """Places of any global batch of a run, for any rank."""

    def __init__(self, sizes: Sequence[int] | NDArray[np.int64], config: OrderConfig) -> None:
        self.sizes = np.asarray(sizes, dtype=np.int64)
        self.config = config
        self.samples = int(self.sizes.sum())
        self.batches_per_epoch = batches_per_epoch(self.samples, config)
        self._epoch: EpochOrder | None = None
        self._runs: tuple[tuple[tuple[int, int, int, int], list[Places]], ...] = ()
        "the places of two runs of batches: of those that are read, and of those that are audited"

    def epoch_of(self, batch: int) -> int:
        """Return the epoch in which global batch `batch` (counted from the run's start) falls."""
        return batch // self.batches_per_epoch

    def batch(self, batch: int, *, rank: int = 0, ranks: int = 1) -> Places:
        """Return the (shard, row) of each sample of this rank's share of global batch `batch`.

        Ranks own whole lanes: rank r has lanes [r*L/W, (r+1)*L/W), so the shares of all ranks, one
        after another, are the global batch, whatever W is.

        Raises:
            ValueError: the number of ranks does not divide the lanes.
        """
        lanes = self.config.lanes
        if ranks < 1 or lanes % ranks or not 0 <= rank < ranks:
            raise ValueError(
                f"order: rank {rank} of {ranks} cannot own whole lanes of {lanes}. "
                f"The number of ranks must divide lanes; set lanes to a multiple of {ranks}."
            )
        length = max(1, _TOGETHER * ranks // self.config.batch)
        epoch, number = divmod(batch, self.batches_per_epoch)
        run, place = divmod(number, length)
        for named, batches in self._runs:
            if named == (epoch, run, rank, ranks):
                return list(batches[place])
        numbers = range(run * length, min((run + 1) * length, self.batches_per_epoch))
        batches = self._places(epoch, numbers, rank, ranks)
        self._runs = (*self._runs[-1:], ((epoch, run, rank, ranks), batches))
        return list(batches[place])

    def _places(self, epoch: int, numbers: range, rank: int, ranks: int) -> list[Places]:
        """Return the places of a rank's share of batches, given by their number in the epoch."""
        lanes, share = self.config.lanes, self.config.batch // self.config.lanes
        mine = np.arange(rank * lanes // ranks, (rank + 1) * lanes // ranks)
        each = np.arange(numbers.start * share, numbers.stop * share).reshape(-1, 1, share)
        lane, place = np.broadcast_arrays(mine[None, :, None], each)
        shards, rows = self.at(epoch).locate(lane.ravel(), place.ravel())
        pairs = list(zip(shards.tolist(), rows.tolist(), strict=True))
        size = len(mine) * share
        return [pairs[begin : begin + size] for begin in range(0, len(pairs), size)]

    def left_out(self, epoch: int) -> Places:
        """Return the (shard, row) of each sample that an epoch does not show: the remainder."""
        begin = self.batches_per_epoch * (self.config.batch // self.config.lanes)
        shards, rows = self.at(epoch).left_out(begin)
        return list(zip(shards.tolist(), rows.tolist(), strict=True))

    def at(self, epoch: int) -> EpochOrder:
        """Return the order of an epoch; the last one asked for is kept."""
        order = self._epoch
        if order is None or order.epoch != epoch:
            self._epoch = order = EpochOrder(self.sizes, self.config, epoch)
        return order
