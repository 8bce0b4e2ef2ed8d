"""Laws of the order (G8): every sample once an epoch, the same batch for any number of ranks."""

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.order import Order, OrderConfig, batches_per_epoch, default_lanes, remainder
from pipelines.shuffle import keys_of, permuted

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=12)


@given(SIZES, st.integers(1, 4), st.integers(1, 3), st.integers(1, 4), st.integers(0, 5))
def test_epoch_holds_every_sample_once_but_a_remainder(
    sizes: list[int], lanes: int, per_lane: int, block: int, seed: int
) -> None:
    config = OrderConfig(batch=lanes * per_lane, lanes=lanes, block=block, seed=seed)
    total = sum(sizes)
    if total < config.batch or total // lanes < per_lane:
        with pytest.raises(ValueError, match="cannot fill a global batch"):
            Order(sizes, config)
        return
    order = Order(sizes, config)
    seen = Counter(
        place for batch in range(order.batches_per_epoch) for place in order.batch(batch)
    )
    assert max(seen.values()) == 1
    assert len(seen) == total - remainder(total, config)
    assert 0 <= remainder(total, config) < config.batch
    assert all(0 <= row < sizes[shard] for shard, row in seen)


@given(SIZES, st.integers(0, 30), st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_ranks_share_the_same_batch(sizes: list[int], batch: int, ranks: int) -> None:
    config = OrderConfig(batch=12, lanes=12, seed=3)
    if sum(sizes) < 12:
        return
    order = Order(sizes, config)
    shares = [Order(sizes, config).batch(batch, rank=r, ranks=ranks) for r in range(ranks)]
    assert [place for share in shares for place in share] == order.batch(batch)


def test_order_is_frozen() -> None:
    order = Order([5, 3, 8], OrderConfig(batch=4, lanes=2, seed=1))
    assert [order.batch(b) for b in (0, 3, 4)] == [order.batch(b) for b in (0, 3, 4)]
    assert order.batch(0) != order.batch(4)
    assert order.epoch_of(3) == 0
    assert order.epoch_of(4) == 1


def test_random_access_equals_reading_in_turn() -> None:
    sizes = np.random.default_rng(0).integers(1, 50, 40)
    config = OrderConfig(batch=16, lanes=4, block=3, seed=9)
    in_turn = Order(sizes, config)
    batches = [in_turn.batch(b) for b in range(in_turn.batches_per_epoch)]
    for batch in (len(batches) - 1, 2, len(batches) // 2):
        assert Order(sizes, config).batch(batch) == batches[batch]


def test_runs_that_are_kept_are_those_that_were_asked_for() -> None:
    """Ranks, epochs and batches in any turn, of one order that keeps what it computed lately."""
    sizes, config = [300, 7, 500, 250, 60] * 8, OrderConfig(batch=16, lanes=4, seed=2)
    order = Order(sizes, config)
    last = order.batches_per_epoch
    for batch in (0, 63, 64, last - 1, last, 1, last + 70, last - 1, 64):
        for rank, ranks in ((0, 1), (0, 2), (1, 2), (0, 4), (1, 4)):
            wanted = Order(sizes, config).batch(batch)[16 * rank // ranks :][: 16 // ranks]
            got = order.batch(batch, rank=rank, ranks=ranks)
            assert got == wanted
            got.clear()  # whoever asked may do with it as he likes


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="Lanes must divide"):
        OrderConfig(batch=10, lanes=4, seed=0)
    with pytest.raises(ValueError, match="must divide lanes"):
        Order([10], OrderConfig(batch=4, lanes=4, seed=0)).batch(0, rank=0, ranks=3)
    assert default_lanes(12) == 4
    assert batches_per_epoch(100, OrderConfig(batch=8, lanes=4, seed=0)) == 12


def test_the_first_and_a_middle_batch_cost_memory_by_shards() -> None:
    """10^9 samples in 10^6 shards: what is held goes by shards, and any batch comes at once."""
    sizes = np.full(10**6, 1000)
    tracemalloc.start()
    began = time.perf_counter()
    order = Order(sizes, OrderConfig(batch=256, lanes=8, seed=0))
    order.batch(0)
    order.batch(order.batches_per_epoch // 2)
    seconds = time.perf_counter() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert seconds < 5  # 0.1 s where nothing else runs


@pytest.mark.parametrize("size", [1, 2, 3, 5, 16, 97, 1000])
def test_places_are_permuted(size: int) -> None:
    number = np.full(size, 3, np.uint64)
    moved = permuted(np.arange(size), np.full(size, size), keys_of(1, 2, numbers=(number,)))
    assert sorted(moved.tolist()) == list(range(size))


def test_every_place_is_as_likely() -> None:
    draws, size = 4000, 10
    numbers = np.repeat(np.arange(draws, dtype=np.uint64), size)
    places = np.tile(np.arange(size), draws)
    moved = permuted(places, np.full(len(places), size), keys_of(5, 0, numbers=(numbers,)))
    for place in range(size):
        found = np.bincount(moved[places == place].astype(int), minlength=size) / draws
        assert np.abs(found - 0.1).max() < 0.025  # 5 standard deviations
