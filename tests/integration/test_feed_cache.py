"""Feeds of a remote store, with and without the cache: the same batches."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.cache import ShardCache
from pipelines.feed import open_feed
from storage.fs import open_store
from tests.integration.feed_sets import PLAIN, fill, same


def test_batches_come_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = fill(open_store(f"mock:///{tmp_path.name}"), tmp_path / "raw")
    plain = list(open_feed(store, PLAIN, stop=6))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADRACE_CACHE_BYTES", "60000")
    cache = ShardCache(tmp_path / "cache", 60000)
    for damaged in (False, True):
        feed = open_feed(store, PLAIN, stop=6)
        for got, wanted in zip(feed, plain, strict=True):
            assert same(got, wanted)
            assert 0 < cache.used() <= 60000
        feed.close()
        if not damaged:
            for place in (tmp_path / "cache").glob("*.tar"):
                place.write_bytes(bytes(place.stat().st_size))
