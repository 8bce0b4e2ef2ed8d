"""Feeds of a remote store, with and without the cache: the same batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines import feed as feeds
from pipelines.cache import Ahead, ShardCache
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


def test_a_feed_that_is_asked_again_downloads_ahead_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill(open_store(f"mock:///{tmp_path.name}"), tmp_path / "raw")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    begun: list[Noted] = []

    class Noted(Ahead):
        stopped = False

        def __init__(self, *given: Any) -> None:
            begun.append(self)
            super().__init__(*given)

        def close(self) -> None:
            self.stopped = True
            super().close()

    monkeypatch.setattr(feeds, "Ahead", Noted)
    feed = open_feed(store, PLAIN, stop=6)
    next(iter(feed))
    next(iter(feed))
    assert [one.stopped for one in begun] == [True, False]
    feed.close()
    assert begun[1].stopped
