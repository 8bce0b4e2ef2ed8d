"""T5: every small order there is, compared with its laws (G8).

All (samples <= 40) x (ways to cut them into shards) x (ranks <= 6) x (workers <= 3) x (batch of a
rank <= 5) x resume points. The default run takes a part of the cases; `-m slow` takes all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest

from pipelines.order import Order, OrderConfig

SAMPLES, RANKS, WORKERS, BATCH = 40, 6, 3, 5
Case = tuple[tuple[int, ...], int, int]
Place = tuple[int, int]


def cuts(samples: int) -> Iterator[tuple[int, ...]]:
    """Yield ways to cut samples into shards: one, even, uneven, of one sample each, with gaps."""
    yield (samples,)
    for shards in (2, 3, 7, 12):
        yield tuple(samples // shards + (i < samples % shards) for i in range(shards))
    yield (1,) * samples
    yield (samples // 4, 0, samples - samples // 4, 0)
    rng = np.random.default_rng(samples)
    yield tuple(rng.multinomial(samples, rng.dirichlet(np.ones(5))).tolist())


def cases() -> list[Case]:
    """Return (sizes, ranks, batch of a rank) of all orders whose data fill a batch."""
    grid = itertools.product(range(1, SAMPLES + 1), range(1, RANKS + 1), range(1, BATCH + 1))
    return [
        (sizes, ranks, batch)
        for samples, ranks, batch in grid
        if samples // ranks >= batch
        for sizes in cuts(samples)
    ]


def in_turn(order: Order, place: tuple[int, int], workers: int, numbers: range) -> list[list]:
    """Return batches as workers compute them: worker w takes every `workers`-th, knows no other."""
    rank, ranks = place
    fresh = [Order(order.sizes, order.config) for _ in range(max(workers, 1))]
    return [
        fresh[i % len(fresh)].batch(number, rank=rank, ranks=ranks)
        for i, number in enumerate(numbers)
    ]


def check(case: Case, number: int) -> None:
    sizes, ranks, share = case
    config = OrderConfig(batch=ranks * share, seed=number, lanes=ranks, block=1 + number % 3)
    order = Order(sizes, config)
    epochs, steps = 2, order.batches_per_epoch
    whole = [order.batch(b) for b in range(epochs * steps)]
    for epoch in range(epochs):
        seen = [p for batch in whole[epoch * steps : (epoch + 1) * steps] for p in batch]
        check_multiset(order, seen, order.left_out(epoch))
    for workers in range(WORKERS + 1):
        shares = [in_turn(order, (r, ranks), workers, range(len(whole))) for r in range(ranks)]
        assert {len(mine) for mine in shares} == {epochs * steps}
        assert all(len(batch) == share for mine in shares for batch in mine)
        assert [list(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)] == whole
    for start in range(len(whole)):
        resumed = Order(sizes, config)
        assert resumed.batch(start, rank=start % ranks, ranks=ranks) == shares[start % ranks][start]


def check_multiset(order: Order, seen: list[Place], left_out: list[Place]) -> None:
    """Every sample once: in a batch, or in a remainder smaller than a batch."""
    every = [(shard, row) for shard, size in enumerate(order.sizes) for row in range(size)]
    assert Counter(seen) + Counter(left_out) == Counter(every)
    assert len(left_out) < order.config.batch


def test_a_part_of_the_sweep() -> None:
    some = cases()[::101]
    assert len(some) > 70
    for number, case in enumerate(some):
        check(case, number)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_sweep() -> None:
    for number, case in enumerate(cases()):
        check(case, number)


def test_more_lanes_than_ranks_allow_another_number_of_ranks() -> None:
    config = OrderConfig(batch=12, seed=3, lanes=12, block=2)
    sizes = (5, 9, 1, 14, 7, 3)
    whole = [Order(sizes, config).batch(b) for b in range(6)]
    for ranks in (1, 2, 3, 4, 6, 12):
        shares = [in_turn(Order(sizes, config), (r, ranks), 2, range(6)) for r in range(ranks)]
        assert [list(chain.from_iterable(parts)) for parts in zip(*shares, strict=True)] == whole
