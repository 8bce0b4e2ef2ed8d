"""The order of an epoch, computed from numbers alone: the same for any ranks, workers and machines.

Nothing here knows a file. A *line* is all samples of the shards in shuffled order, end to end; a
*lane* is an
equal cut of the line; a global batch takes the next samples of every lane. Memory grows with
shards, never
with samples.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

# Spawn keys of the two draws, so that neither can meet the streams of views and masks.
_SHARDS, _BLOCK = 11, 13


def _permutation(size: int, *entropy: int) -> NDArray[np.int64]:
    return np.random.default_rng(list(entropy)).permutation(size)


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
                "global batch. "
                f"Use lanes={default_lanes(max(self.batch, 1))}."
            )
        if self.block < 1:
            raise ValueError(
                f"order: block is {self.block}; it must be at least 1 shard. 8 is usual."
            )


@dataclass(slots=True)
class EpochOrder:
    """The order of one epoch over `sizes` (samples of each shard).

    `locate` answers for single places of a lane; consecutive places cost a dictionary look-up each.
    """

    sizes: NDArray[np.int64]
    config: OrderConfig
    epoch: int
    shards: NDArray[np.int64] = field(init=False)
    ends: NDArray[np.int64] = field(init=False)
    _blocks: OrderedDict[tuple[int, int], tuple[int, NDArray[np.int64]]] = field(
        init=False, default_factory=OrderedDict
    )

    def __post_init__(self) -> None:
        self.shards = _permutation(len(self.sizes), self.config.seed, self.epoch, _SHARDS)
        self.ends = np.cumsum(self.sizes[self.shards])

    @property
    def lane_length(self) -> int:
        """Samples of a lane; what does not fill `lanes` equal lanes is left out of this epoch."""
        return int(self.ends[-1]) // self.config.lanes if len(self.ends) else 0

    def locate(self, lane: int, place: int) -> tuple[int, int]:
        """Return (shard, row) of the sample at `place` of `lane`.

        A lane's shards are taken in blocks of `block`; inside a block all samples are shuffled.
        Blocks are
        remembered for the last few lanes in use, so that memory stays bounded by blocks, not
        samples.
        """
        start = lane * self.lane_length
        first = int(np.searchsorted(self.ends, start, side="right"))
        shard = int(np.searchsorted(self.ends, start + place, side="right"))
        block = (shard - first) // self.config.block
        begin, permutation = self._block(lane, block, first)
        line = begin + int(permutation[start + place - begin])
        position = int(np.searchsorted(self.ends, line, side="right"))
        return int(self.shards[position]), line - (int(self.ends[position - 1]) if position else 0)

    def _block(self, lane: int, block: int, first: int) -> tuple[int, NDArray[np.int64]]:
        """Return the first place on the line of a lane's block and the permutation of its
        samples."""
        found = self._blocks.get((lane, block))
        if found is not None:
            self._blocks.move_to_end((lane, block))
            return found
        opening = first + block * self.config.block
        closing = min(opening + self.config.block, len(self.ends))
        begin = max(int(self.ends[opening - 1]) if opening else 0, lane * self.lane_length)
        end = min(int(self.ends[closing - 1]), (lane + 1) * self.lane_length)
        found = begin, _permutation(end - begin, self.config.seed, self.epoch, _BLOCK, lane, block)
        self._blocks[lane, block] = found
        while len(self._blocks) > 2 * self.config.lanes:
            self._blocks.popitem(last=False)
        return found


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

    def epoch_of(self, batch: int) -> int:
        """Return the epoch in which global batch `batch` (counted from the run's start) falls."""
        return batch // self.batches_per_epoch

    def batch(self, batch: int, *, rank: int = 0, ranks: int = 1) -> list[tuple[int, int]]:
        """Return the (shard, row) of each sample of this rank's share of global batch `batch`.

        Ranks own whole lanes: rank r has lanes [r*L/W, (r+1)*L/W), so the shares of all ranks, one
        after
        another, are the global batch, whatever W is.

        Raises:
            ValueError: the number of ranks does not divide the lanes.
        """
        lanes = self.config.lanes
        if ranks < 1 or lanes % ranks or not 0 <= rank < ranks:
            raise ValueError(
                f"order: rank {rank} of {ranks} cannot own whole lanes of {lanes}. "
                f"The number of ranks must divide lanes; set lanes to a multiple of {ranks}."
            )
        epoch = self._at(self.epoch_of(batch))
        share = self.config.batch // lanes
        begin = (batch % self.batches_per_epoch) * share
        return [
            epoch.locate(lane, place)
            for lane in range(rank * lanes // ranks, (rank + 1) * lanes // ranks)
            for place in range(begin, begin + share)
        ]

    def _at(self, epoch: int) -> EpochOrder:
        if self._epoch is None or self._epoch.epoch != epoch:
            self._epoch = EpochOrder(self.sizes, self.config, epoch)
        return self._epoch
