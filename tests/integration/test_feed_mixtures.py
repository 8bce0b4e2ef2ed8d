"""Mixtures and filters of streams: exact proportions, the same batches for everyone, resumable."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.executors import Executor
from pipelines.feed import open_feed, open_mixture
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.mixture import Turns
from pipelines.recipe_stream import stream_of
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.views import ViewConfig
from storage.fs import Store, open_store
from tests.integration.raw import FIELD_PATTERN, make_fields, make_images, make_videos
from training.recipe import read_recipe, recipe_fingerprint

COMMON = {"mask": MaskConfig(), "targets": (), "patch": 16, "batch": 4, "seed": 5, "lanes": 4}
IMAGE = StreamConfig(dataset="image", view=ViewConfig(size=32), **COMMON)
VIDEO = StreamConfig(dataset="video", view=ViewConfig(size=48), tubelet=2, **COMMON)
FIELD = StreamConfig(dataset="microscopy", view=ViewConfig(size=32, kind="random_crop"), **COMMON)
STREAMS, WEIGHTS, STOP = (IMAGE, VIDEO, FIELD), (3, 2, 1), 14


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("mixtures")
    store = open_store(folder / "store")
    made = {
        "image": (make_images(folder / "image", 14), {"shard_size": 8192, "labels": "parent"}),
        "video": (make_videos(folder / "video", 5), {"frames": 8, "shard_size": 8192}),
        "microscopy": (make_fields(folder / "microscopy", 4), {"pattern": FIELD_PATTERN}),
    }
    for modality, (raw, values) in made.items():
        spec = IngestSpec(modality=modality, heldout=0.0, **values)
        ingest(store, [str(raw)], modality, spec, Executor())
    return store


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 60), st.integers(0, 9))
def test_turns_keep_their_proportion(weights: list[int], stop: int, seed: int) -> None:
    turns = Turns(tuple(weights), seed)
    found = [turns.locate(batch) for batch in range(stop)]
    seen: Counter[int] = Counter()
    for batch, (stream, number) in enumerate(found):
        assert number == seen[stream]
        assert turns.taken(batch) == [seen[i] for i in range(len(weights))]
        seen[stream] += 1
        if (batch + 1) % sum(weights) == 0:
            cycles = (batch + 1) // sum(weights)
            assert [seen[i] for i in range(len(weights))] == [cycles * w for w in weights]


def test_a_mixture_is_its_streams_in_turns(store: Store) -> None:
    feed = open_mixture(store, STREAMS, WEIGHTS, stop=STOP)
    mixed = list(feed)
    taken = [int(batch.pop("stream")) for batch in mixed]
    assert Counter(taken[:12]) == {0: 6, 1: 4, 2: 2}
    assert taken != sorted(taken)
    for number, stream in enumerate(STREAMS):
        alone = open_feed(store, stream, stop=taken.count(number))
        mine = [batch for batch, turn in zip(mixed, taken, strict=True) if turn == number]
        assert all(same(a, b) for a, b in zip(mine, alone, strict=True))
    assert [p["dataset"] for p in feed.fingerprints["mixture"]] == ["image", "video", "microscopy"]
    assert len({proof.samples for proof in feed.proofs}) > 1


def test_a_mixture_is_the_same_for_ranks_workers_and_resume(store: Store) -> None:
    whole = list(open_mixture(store, STREAMS, WEIGHTS, stop=STOP))
    resumed = open_mixture(store, STREAMS, WEIGHTS, start=5, stop=STOP, workers=2)
    assert all(same(a, b) for a, b in zip(resumed, whole[5:], strict=True))
    shares = [open_mixture(store, STREAMS, WEIGHTS, rank=r, ranks=4, stop=6) for r in range(4)]
    for wanted, *parts in zip(whole[:6], *shares, strict=True):
        for name in wanted.keys() - {"stream"}:
            assert torch.equal(torch.cat([part[name] for part in parts]), wanted[name])


def test_wrong_weights_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="a whole weight of at least 1"):
        open_mixture(store, STREAMS, (1, 0, 1))
    with pytest.raises(ValueError, match="2 weights for 3 streams"):
        open_mixture(store, STREAMS, (1, 1))


def test_filters_choose_samples_and_leave_the_tars(store: Store) -> None:
    feed = open_feed(store, replace(IMAGE, where={"label": "fine"}), stop=1)
    assert feed.samples == 7
    assert open_feed(store, replace(IMAGE, where={"label": ["fine", "coarse"]})).samples == 14
    scores = open_feed(store, replace(VIDEO, where={"score": {"min": 0.0}})).samples
    with pytest.raises(ValueError, match="none of the"):
        open_feed(store, replace(VIDEO, where={"score": {"min": 1e9}}))
    assert scores == open_feed(store, VIDEO).samples
    assert len(next(iter(feed))["sample"]) == 4


@pytest.mark.parametrize("where", [{"colour": 1}, {"score": {}}, {"score": {"above": 1}}])
def test_wrong_filters_are_refused(where: dict) -> None:
    with pytest.raises(ValueError, match=r"data\.where"):
        replace(IMAGE, where=where)


def test_a_filter_is_part_of_the_recipe() -> None:
    plain = read_recipe("mae_tiny")
    filtered = read_recipe("mae_tiny", ["data.where={score: {min: 0.5}}", "data.failures=2"])
    assert stream_of(filtered).where == {"score": {"min": 0.5}}
    assert stream_of(filtered).failures == 2
    assert recipe_fingerprint(plain) != recipe_fingerprint(filtered)
