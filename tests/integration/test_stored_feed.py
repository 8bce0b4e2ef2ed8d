"""Samples as they are stored: the same bytes in the same order, whoever reads them (G8)."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.feed import Feed, open_feed, open_mixture
from pipelines.members import Members
from pipelines.rows import read_rows
from storage.fs import Store, open_store
from storage.shards import ShardError, read_shard
from storage.snapshots import read_snapshot
from tests.integration.feed_sets import PLAIN, fill

STOP = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("stored")
    return fill(open_store(folder / "store"), folder / "raw")


@pytest.fixture
def damaged(store: Store, tmp_path: Path) -> Store:
    """The same with one flipped bit in a payload."""
    made = fill(open_store(tmp_path / "store"), tmp_path / "raw")
    snapshot = read_snapshot(made, "image")
    assert snapshot is not None
    shard = read_rows(made, snapshot, "train", {})[0]
    path, row = Path(made.uri) / shard.folder / shard.shard, shard.row(1)
    data = bytearray(path.read_bytes())
    data[row["offset"] + row["size"] // 2] ^= 0x40
    path.write_bytes(data)
    return made


def stored(store: Store, stream: Any = PLAIN, stop: int = STOP, **values: Any) -> Feed:
    return open_feed(store, stream, kind="stored", stop=stop, **values)


def told(feed: Feed) -> list[dict[str, Any]]:
    return [{**batch, "sample": batch["sample"].tolist()} for batch in feed]


def readers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("stored")]


def test_bytes_are_those_of_the_shards_in_the_order_of_a_run(store: Store) -> None:
    snapshot = read_snapshot(store, "image")
    assert snapshot is not None
    shards = read_rows(store, snapshot, "train", {})
    whole = {
        (sample.payload, sample.ext)
        for shard in shards
        for sample in read_shard(store, f"{shard.folder}/{shard.shard}", len(shard.table))
    }
    feed = stored(store)
    batches = told(feed)
    assert {
        pair for batch in batches for pair in zip(batch["stored"], batch["ext"], strict=True)
    } == whole
    seen = [batch["sample"].tolist() for batch in open_feed(store, PLAIN, stop=STOP)]
    assert [batch["sample"] for batch in batches] == seen
    assert [proof.samples for proof in feed.proofs] == [16, 16]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_ranks_and_resume_change_nothing(store: Store, threads: int) -> None:
    wanted = told(stored(store))
    assert told(stored(store, start=3, workers=threads)) == wanted[3:]
    ranks = [told(stored(store, rank=rank, ranks=2, workers=threads)) for rank in (0, 1)]
    for first, second, batch in zip(*ranks, wanted, strict=True):
        assert {name: first[name] + second[name] for name in batch} == batch
    again = stored(store, workers=threads)
    assert told(again) == told(again) == wanted
    assert again.stalls.batches == 2 * STOP
    assert not readers()


def test_a_mixture_is_read_in_turns(store: Store) -> None:
    def mixed(workers: int) -> list[dict[str, Any]]:
        streams = [PLAIN, replace(PLAIN, seed=6)]
        feed = open_mixture(store, streams, (2, 1), kind="stored", stop=9, workers=workers)
        return [{**b, "sample": b["sample"].tolist(), "stream": int(b["stream"])} for b in feed]

    wanted = mixed(0)
    assert mixed(2) == wanted
    assert sorted(batch["stream"] for batch in wanted) == [0] * 6 + [1] * 3


@pytest.mark.parametrize("threads", [0, 2])
def test_damage_is_found_and_replaced_as_in_a_run(damaged: Store, threads: int) -> None:
    with pytest.raises(ShardError, match="damaged"):
        list(stored(damaged, workers=threads))
    assert not readers()
    allowed = replace(PLAIN, failures=1)
    feed, run = stored(damaged, allowed, workers=threads), open_feed(damaged, allowed, stop=STOP)
    got = [batch["sample"] for batch in told(feed)]
    assert got == [batch["sample"].tolist() for batch in run]
    assert feed.failed == run.failed != {}
    assert [p.replaced for p in feed.proofs] == [p.replaced for p in run.proofs] == [1, 1]


def test_no_thread_outlives_its_loop(store: Store) -> None:
    feed = stored(store, stop=None, workers=2)
    for number, _ in enumerate(feed):
        assert readers()
        if number == 2:
            break
    feed.close()
    assert not readers()
    batches = iter(stored(store, stop=None, workers=2))
    next(batches)
    del batches  # dropped, and never closed
    assert not readers()


def test_storage_that_does_not_answer_is_given_up(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    monkeypatch.setattr("pipelines.stored.WORKER_SECONDS", 0.2)
    monkeypatch.setattr(Members, "payload", lambda *_: answered.wait(60) and b"")
    with pytest.raises(TimeoutError, match=r"no batch for 0\.2 s from threads that read .*store"):
        next(iter(stored(store, workers=2)))
    answered.set()


def test_another_kind_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="must be local, ray or stored"):
        open_feed(store, PLAIN, kind="raw")
