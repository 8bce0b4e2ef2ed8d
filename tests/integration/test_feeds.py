"""Derived columns and feeds on real shards: the same batches everywhere (G6, G8)."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.derive import derive, why
from pipelines.executors import Executor
from pipelines.feed import Feed, open_eval, open_feed, open_heldout
from pipelines.rows import StaleColumnError
from preprocessing.targets import TargetConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration import feed_sets
from tests.integration.feed_sets import (
    PLAIN,
    WAYS,
    delivered,
    digests,
    joined,
    make_store,
    open_way,
    resume_points,
    same,
)
from tests.integration.test_ingest import tree_hash

DIRECT = Executor()
STOP, LONG = 12, 40
"Batches of a sweep, and of one in which workers die."
STREAMS = {
    **feed_sets.STREAMS,
    "video": replace(
        feed_sets.STREAMS["video"],
        targets=(TargetConfig(kind="hog", cell=8),),
        frozen_views=0,
    ),
}
"Those of all feeds, save that no target is stored."


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """One store with a dataset of each modality, and the columns of the clips."""
    store = make_store(tmp_path_factory.mktemp("feeds"))
    derive(store, "video", {"motion": {}}, DIRECT)
    return store


@pytest.mark.parametrize("name", STREAMS)
def test_batches_are_complete(name: str, store: Store) -> None:
    batch = next(iter(open_feed(store, STREAMS[name], stop=1)))
    pixels = batch["pixels"]
    assert len(pixels) == 4
    assert pixels.dtype == (torch.uint8 if name in ("image", "video") else torch.float32)
    assert pixels.shape[1] == 3
    tokens = batch["visible"].shape[1] + batch["masked"].shape[1]
    for seen, hidden in zip(batch["visible"], batch["masked"], strict=True):
        assert sorted(torch.cat([seen, hidden]).tolist()) == list(range(tokens))
    if "targets.hog" in batch:
        assert batch["targets.hog"].shape[1] == tokens


@pytest.mark.parametrize("name", STREAMS)
def test_workers_ranks_and_resume_change_nothing(name: str, store: Store) -> None:
    stream = STREAMS[name]
    whole = list(open_feed(store, stream, stop=5))
    for got, wanted in zip(
        open_feed(store, stream, start=2, stop=5, workers=2), whole[2:], strict=True
    ):
        assert same(got, wanted)
    for ranks in (2, 4):
        feeds = [open_feed(store, stream, rank=r, ranks=ranks, stop=3) for r in range(ranks)]
        for wanted, *shares in zip(whole[:3], *feeds, strict=True):
            assert same(joined(shares), wanted)


@pytest.fixture(scope="module")
def reference(store: Store) -> dict[str, list[list[str]]]:
    """The digests of every way's batches, built one after another in this process."""
    return {way: delivered(store, way, stop=STOP) for way in WAYS}


def crossed(store: Store, reference: dict[str, list[list[str]]], way: str, *place: int) -> None:
    ranks, workers = place
    for start in resume_points(STOP, way, *place):
        got = delivered(store, way, ranks=ranks, workers=workers, start=start, stop=STOP)
        assert got == reference[way][start:]


def test_ranks_and_workers_of_a_mixture_change_nothing(
    store: Store, reference: dict[str, list[list[str]]]
) -> None:
    assert len({digest for batch in reference["mixture"] for digest in batch}) > STOP
    crossed(store, reference, "mixture", 2, 2)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("way", WAYS)
def test_any_ranks_and_workers_from_any_batch(
    way: str, ranks: int, workers: int, store: Store, reference: dict[str, list[list[str]]]
) -> None:
    """The local half of the crossing; the Ray half is in test_ray_feed.py."""
    crossed(store, reference, way, ranks, workers)


def kill_workers(feeds: list[Feed]) -> None:
    """Kill one worker of each rank."""
    for feed in feeds:
        os.kill(feed._source.started._workers[0].pid, signal.SIGKILL)


@pytest.mark.timeout(120)
def test_a_worker_that_is_killed_as_it_sends_hangs_nobody(store: Store) -> None:
    """A batch of clips is more than a pipe holds, so both workers end up inside of a message."""
    wanted = [digests(batch) for batch in open_way(store, "video", stop=STOP)]
    feed = open_way(store, "video", stop=STOP, workers=2)
    got = []
    for batch in feed:
        got.append(digests(batch))
        if len(got) == 3:
            time.sleep(2)
            kill_workers([feed])
    assert got == wanted


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_killed_workers_change_no_batch(ranks: int, workers: int, store: Store) -> None:
    wanted = delivered(store, "mixture", stop=LONG)
    for start in resume_points(LONG // 2, ranks, workers):
        harm = dict.fromkeys((2, 9), kill_workers)
        where = {"ranks": ranks, "workers": workers, "start": start, "stop": LONG}
        assert delivered(store, "mixture", harm=harm, **where) == wanted[start:]


def test_an_epoch_holds_every_training_sample_once(store: Store) -> None:
    feed = open_feed(store, STREAMS["image"])
    batches = [b for b, _ in zip(feed, range(feed.batches_per_epoch), strict=False)]
    seen = torch.cat([batch["sample"] for batch in batches]).tolist()
    assert len(set(seen)) == len(seen) == feed.samples - feed.remainder


def test_heldout_batches_are_fixed_and_apart(store: Store) -> None:
    stream = STREAMS["image"]
    heldout = open_heldout(store, stream)
    assert heldout is not None
    first, again = list(heldout), list(heldout)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    held = {int(s) for batch in first for s in batch["sample"]}
    feed = open_feed(store, stream)
    trained = {
        int(s)
        for b, _ in zip(feed, range(feed.batches_per_epoch), strict=False)
        for s in b["sample"]
    }
    assert held
    assert not held & trained


def test_eval_has_labels(store: Store) -> None:
    stream = replace(PLAIN, view=ViewConfig(size=32, kind="center", flip=False))
    batches = list(open_eval(store, stream))
    labels = [label for batch in batches for label in batch["label"]]
    assert sorted(set(labels)) == ["coarse", "fine"]
    assert sum(len(batch["pixels"]) for batch in batches) == len(labels) == 14


def test_limited_samples_are_the_same_each_time(store: Store) -> None:
    feed = open_feed(store, replace(STREAMS["image"], samples=8))
    assert feed.samples == 8
    assert feed.batches_per_epoch == 2


def test_stored_hog_equals_online_hog_within_its_bound(store: Store) -> None:
    column = TargetConfig(kind="hog", cell=8, source="column")
    stored = replace(STREAMS["image"], targets=(column,), frozen_views=3)
    online = replace(STREAMS["image"], frozen_views=3)
    with pytest.raises(StaleColumnError, match="headrace derive image hog cell=8"):
        open_feed(store, stored)
    derive(store, "image", {n: s.parameters for n, s in stored.needed_columns().items()}, DIRECT)
    for left, right in zip(
        open_feed(store, stored, stop=8), open_feed(store, online, stop=8), strict=True
    ):
        assert torch.equal(left["pixels"], right["pixels"])
        assert (left["targets.hog"] - right["targets.hog"]).abs().max() <= 1 / 510 + 1e-6
    other = replace(stored, view=ViewConfig(size=32, scale=(0.5, 1.0)))
    with pytest.raises(StaleColumnError, match="view"):
        open_feed(store, other)


def test_a_column_is_computed_once(store: Store, tmp_path: Path) -> None:
    again = derive(store, "video", {"flow": {}}, DIRECT)["flow"]
    assert (again["computed"], again["reused"]) == (0, 16)
    other = derive(store, "video", {"flow": {"cell": 4}}, Executor(workers=2))["flow"]
    assert (other["computed"], other["reused"]) == (16, 0)
    lines = why(store, "video", "flow", {"cell": 16})
    assert "cell 8, wanted 16" in lines[0]["reason"]


def test_sidecars_hold_the_keys_of_their_shards(store: Store) -> None:
    import webdataset

    folder = Path(store.uri)
    for shard in sorted((folder / "datasets/video/parts").rglob("shard-*.tar")):
        base = [s["__key__"] for s in webdataset.WebDataset(str(shard), shardshuffle=False)]
        for sidecar in (folder / "datasets/video/columns").rglob(shard.name):
            derived = [
                s["__key__"] for s in webdataset.WebDataset(str(sidecar), shardshuffle=False)
            ]
            assert derived == base


def test_derive_is_the_same_in_processes(store: Store, tmp_path: Path) -> None:
    import shutil

    hashes = set()
    for number, executor in enumerate((DIRECT, Executor(workers=2))):
        copy = tmp_path / str(number)
        shutil.copytree(store.uri, copy)
        derive(open_store(copy), "video", {"motion": {"cell": 16}}, executor)
        hashes.add(tree_hash(copy))
    assert len(hashes) == 1


def test_flow_follows_the_moving_square(store: Store) -> None:
    from pipelines.column_codec import unpack_array
    from preprocessing.flow import int16_to_flow

    sidecar = next((Path(store.uri) / "datasets/video/columns").glob("flow-*/*/shard-*.tar"))
    import tarfile

    with tarfile.open(sidecar) as tar:
        member = tar.extractfile(tar.getmembers()[0])
        assert member is not None
        field = int16_to_flow(unpack_array(member.read()))
    backward, forward = field[:, 2]
    for flow, motion in ((forward, [3, 1]), (backward, [-3, -1])):
        length = np.hypot(*np.moveaxis(flow, -1, 0))
        inside = length > 0.8 * length.max()
        assert np.median(flow[inside], axis=0) == pytest.approx(motion, abs=1.0)
