"""Feeds of a remote store, with and without the cache: the same batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipelines.cache import ShardCache
from pipelines.executors import Executor
from pipelines.feed import open_feed
from pipelines.ingest import ingest
from pipelines.ingest_spec import IngestSpec
from pipelines.stream import StreamConfig
from preprocessing.masks import MaskConfig
from preprocessing.views import ViewConfig
from storage.fs import open_store
from tests.integration.raw import make_images

STREAM = StreamConfig(
    dataset="image",
    view=ViewConfig(size=32),
    mask=MaskConfig(),
    targets=(),
    patch=16,
    batch=4,
    seed=5,
    lanes=4,
)


def test_batches_come_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = make_images(tmp_path / "raw", 16)
    store = open_store(f"mock:///{tmp_path.name}")
    spec = IngestSpec(modality="image", shard_size=8192, heldout=0.0)
    ingest(store, [str(raw)], "image", spec, Executor())
    plain = list(open_feed(store, STREAM, stop=6))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "60000")
    cache = ShardCache(tmp_path / "cache", 60000)
    for damaged in (False, True):
        feed = open_feed(store, STREAM, stop=6)
        for got, wanted in zip(feed, plain, strict=True):
            assert all(torch.equal(got[name], wanted[name]) for name in wanted)
            assert 0 < cache.used() <= 60000
        feed.close()
        if not damaged:
            for place in (tmp_path / "cache").glob("*.tar"):
                place.write_bytes(bytes(place.stat().st_size))
