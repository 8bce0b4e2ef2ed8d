"""Whose turn it is: several streams taken batch by batch, in a given proportion.

The turns come in cycles of `sum(weights)` batches, in which every stream has exactly its weight,
shuffled by (seed, cycle). So the turn of any batch is computed from its number, and the state of a
mixture is one integer, as that of a stream.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.audit import Audit
from pipelines.batch import BatchBuilder, Place, Told
from pipelines.order import Order
from storage.fs import Store

_REMEMBERED = 10_000
"How many shards are remembered as fetched already."
_TURNS = 17
"Spawn key of the draw, apart from those of the order."


@dataclass(frozen=True, slots=True)
class Turns:
    """The turns of streams with integer weights."""

    weights: tuple[int, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.weights or min(self.weights) < 1:
            raise ValueError(
                f"mixture: weights are {self.weights}; each stream needs a whole weight of at "
                "least 1, such as (3, 1)."
            )

    def locate(self, batch: int) -> tuple[int, int]:
        """Return (stream, number of the batch within that stream) of a batch of the mixture."""
        if len(self.weights) == 1:
            return 0, batch
        cycle, place = divmod(batch, sum(self.weights))
        turns = self._cycle(cycle)
        stream = int(turns[place])
        earlier = int((turns[:place] == stream).sum())
        return stream, cycle * self.weights[stream] + earlier

    def taken(self, batch: int) -> list[int]:
        """Return how many batches of each stream come before a batch of the mixture."""
        if len(self.weights) == 1:
            return [batch]
        cycle, place = divmod(batch, sum(self.weights))
        turns = self._cycle(cycle)[:place]
        return [cycle * w + int((turns == i).sum()) for i, w in enumerate(self.weights)]

    def _cycle(self, cycle: int) -> NDArray[np.int64]:
        turns = np.repeat(np.arange(len(self.weights)), self.weights)
        return np.random.default_rng([self.seed, cycle, _TURNS]).permutation(turns)


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be built for one batch."""

    stream: int
    places: list[Place]
    epoch: int


@dataclass(frozen=True, slots=True)
class Course:
    """One rank's share of every batch of one stream, or of several in turns."""

    builders: Sequence[BatchBuilder]
    orders: Sequence[Order]
    turns: Turns
    rank: int = 0
    ranks: int = 1

    def task(self, batch: int) -> Task:
        """Return what is to be built for a batch.

        Raises:
            ValueError: the number of ranks does not divide the lanes.
        """
        stream, number = self.turns.locate(batch)
        order = self.orders[stream]
        places = order.batch(number, rank=self.rank, ranks=self.ranks)
        return Task(stream, places, order.epoch_of(number))

    def members(self, batch: int) -> list[dict[str, str]]:
        """Return dataset, shard and key of each sample of a batch, over all ranks."""
        stream, number = self.turns.locate(batch)
        builder = self.builders[stream]
        return [
            {
                "dataset": builder.stream.dataset,
                "shard": builder.rows[shard].shard,
                "key": builder.rows[shard].row(row)["key"],
            }
            for shard, row in self.orders[stream].batch(number)
        ]

    def build(self, task: Task) -> Told:
        """Build a batch."""
        return self.builders[task.stream].build_told(task.places, task.epoch)

    def shards(self, batches: range) -> Iterator[tuple[Store, str]]:
        """Yield the remote shards of batches in the order of their use, each once in a row."""
        lately: dict[tuple[str, str], None] = {}
        for batch in batches:
            task = self.task(batch)
            builder = self.builders[task.stream]
            store = Store(builder.store_uri)
            for number in dict.fromkeys(shard for shard, _ in task.places):
                rows = builder.rows[number]
                path = f"{rows.folder}/{rows.shard}"
                if (store.uri, path) not in lately and store.local_path(path) is None:
                    yield store, path
                lately[store.uri, path] = None
            while len(lately) > _REMEMBERED:
                lately.pop(next(iter(lately)))

    def audits(self, start: int) -> list[Audit]:
        """Return an audit for each stream of a feed that begins at a batch."""
        return [
            Audit(order, builder.rows, number, (self.rank, self.ranks))
            for order, builder, number in zip(
                self.orders, self.builders, self.turns.taken(start), strict=True
            )
        ]
