"""What runs and probes read: the one module of `training` that imports `pipelines`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.catalog import open_snapshot
from pipelines.feed import Feed, open_eval, open_heldout
from pipelines.keys import sample_id
from pipelines.recipe_feed import main_batch, main_stream, open_recipe
from pipelines.recipe_stream import stream_of
from pipelines.stream import StreamConfig
from storage.fs import Store
from storage.manifest import read_table
from storage.snapshots import part_path
from training.recipe import Recipe

__all__ = [
    "Feed",
    "eval_stream",
    "keys_of",
    "main_batch",
    "members_of",
    "open_heldout_of",
    "open_labelled",
    "open_recipe",
]


def open_heldout_of(store: Store, feed: Feed) -> Feed | None:
    """Open the held-out samples of a run's first dataset; None where it has none."""
    return open_heldout(store, main_stream(feed))


def members_of(feed: Feed, step: int) -> list[dict[str, Any]]:
    """Return dataset, shard and key of each sample of a training batch, over all ranks."""
    assert feed.course is not None, "a feed that trains has a course"
    return [dict(member) for member in feed.course.members(step)]


def keys_of(feed: Feed, step: int) -> dict[int, str]:
    """Return the keys of the samples of a training batch by their ids."""
    return {sample_id(member["key"]): member["key"] for member in members_of(feed, step)}


def open_labelled(
    store: Store, stream: StreamConfig, split: str | None = None
) -> tuple[Feed, dict[str, str]]:
    """Open whole samples in stored order, and return the group of every sample by its key."""
    feed = open_eval(store, stream, split=split)
    groups: dict[str, str] = {}
    for entry in open_snapshot(store, stream.dataset, feed.fingerprints["snapshot"]).parts:
        path = f"{part_path(stream.dataset, entry.part)}/manifest.parquet"
        table = read_table(store, path, entry.manifest_sha256, ["key", "group"])
        groups.update(zip(*(table[name].to_pylist() for name in ("key", "group")), strict=True))
    return feed, groups


def eval_stream(recipe: Recipe, dataset: str) -> StreamConfig:
    """Return the stream of whole samples: the centre view, no masks and no targets."""
    return replace(
        stream_of(recipe),
        dataset=dataset,
        snapshot=None,
        view=replace(recipe.view, kind="center", flip=False),
        targets=(),
        columns={},
        frozen_views=0,
        where={},
        batch=max(recipe.batch, 16),
        lanes=1,
    )
