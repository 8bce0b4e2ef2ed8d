"""Samples that fail while training: substitutes, the same for everyone; nothing else moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.audit import OrderBroken
from pipelines.feed import Feed, TooManyFailures, open_feed
from pipelines.keys import sample_id
from pipelines.rows import read_rows
from storage.fs import Store, open_store
from storage.shards import ShardError
from storage.snapshots import read_snapshot
from tests.integration.feed_sets import PLAIN, fill, same

STOP = 6


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store, int]:
    """A sound store, the same with one damaged sample, and the id of that sample."""
    folder = tmp_path_factory.mktemp("failures")
    made = [fill(open_store(folder / name), folder / "raw") for name in ("sound", "damaged")]
    snapshot = read_snapshot(made[1], "image")
    assert snapshot is not None
    shard = read_rows(made[1], snapshot, "train", {})[0]
    path, row = Path(made[1].uri) / shard.folder / shard.shard, shard.row(1)
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 0x40
    path.write_bytes(data)
    return made[0], made[1], sample_id(row["key"])


def affected(sound: list[dict], bad: int) -> set[int]:
    return {i for i, batch in enumerate(sound) if bad in batch["sample"].tolist()}


def test_by_default_none_may_fail(stores: tuple[Store, Store, int]) -> None:
    with pytest.raises(ShardError, match="damaged"):
        list(open_feed(stores[1], PLAIN, stop=STOP))


def test_a_substitute_moves_no_other_sample(stores: tuple[Store, Store, int]) -> None:
    sound, damaged, bad = stores
    allowed = replace(PLAIN, failures=1)
    wanted = list(open_feed(sound, PLAIN, stop=STOP))
    feed = open_feed(damaged, allowed, stop=STOP)
    got = list(feed)
    assert len(got) == STOP
    assert affected(wanted, bad)
    for number, (left, right) in enumerate(zip(got, wanted, strict=True)):
        assert same(left, right) == (number not in affected(wanted, bad))
        moved = (left["sample"] != right["sample"]).sum()
        assert moved <= 1
        assert bad not in left["sample"].tolist()
    assert len(feed.failed) == 1
    assert "damaged" in next(iter(feed.failed.values()))


def test_the_substitute_is_the_same_for_everyone(stores: tuple[Store, Store, int]) -> None:
    allowed = replace(PLAIN, failures=1)
    whole = list(open_feed(stores[1], allowed, stop=STOP))
    with_workers = open_feed(stores[1], allowed, start=1, stop=STOP, workers=2)
    assert all(same(a, b) for a, b in zip(with_workers, whole[1:], strict=True))
    shares = [list(open_feed(stores[1], allowed, rank=r, ranks=2, stop=STOP)) for r in (0, 1)]
    for wanted, *parts in zip(whole, *shares, strict=True):
        assert same(wanted, {n: torch.cat([part[n] for part in parts]) for n in wanted})


@pytest.mark.ray
def test_the_substitute_is_the_same_on_ray(stores: tuple[Store, Store, int]) -> None:
    allowed = replace(PLAIN, failures=1)
    feed = open_feed(stores[1], allowed, stop=STOP, kind="ray")
    whole = open_feed(stores[1], allowed, stop=STOP)
    assert all(same(a, b) for a, b in zip(feed, whole, strict=True))
    assert feed.failed == whole.failed != {}


def test_one_more_failure_ends_the_run(stores: tuple[Store, Store, int]) -> None:
    feed = open_feed(stores[1], replace(PLAIN, failures=1), stop=STOP)
    feed.failed["another"] = "failed before"
    with pytest.raises(TooManyFailures, match=r"2 samples failed, data\.failures allows 1"):
        list(feed)


def test_each_epoch_is_proved(stores: tuple[Store, Store, int]) -> None:
    feed = open_feed(stores[0], replace(PLAIN, batch=3, lanes=3), start=2, stop=12)
    list(feed)
    first, second = feed.proofs
    assert (first.epoch, first.samples, first.whole) == (0, 9, False)
    assert (second.epoch, second.samples, second.whole) == (1, 15, True)
    text = "epoch 1: 15 samples in 5 batches, each once and in order; 0 replaced; 1 left out"
    assert str(second).startswith(text)
    replaced = open_feed(stores[1], replace(PLAIN, failures=1), stop=4)
    list(replaced)
    assert replaced.proofs[0].replaced == 1


def test_a_shifted_batch_is_found(stores: tuple[Store, Store, int]) -> None:
    class Shifted:
        def __init__(self, feed: Feed) -> None:
            self.source = feed._source

        def __len__(self) -> int:
            return len(self.source)

        def __iter__(self) -> object:
            batches = iter(self.source)
            next(batches)
            return batches

    feed = open_feed(stores[0], PLAIN, stop=STOP)
    feed._source = Shifted(feed)
    with pytest.raises(OrderBroken, match="batch 0 of rank 0"):
        list(feed)
