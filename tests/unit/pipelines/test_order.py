"""Laws of the order (G8): every sample once an epoch, the same batch for any number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.order import Order, OrderConfig, batches_per_epoch, default_lanes, remainder

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


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="Lanes must divide"):
        OrderConfig(batch=10, lanes=4, seed=0)
    with pytest.raises(ValueError, match="must divide lanes"):
        Order([10], OrderConfig(batch=4, lanes=4, seed=0)).batch(0, rank=0, ranks=3)
    assert default_lanes(12) == 4
    assert batches_per_epoch(100, OrderConfig(batch=8, lanes=4, seed=0)) == 12
