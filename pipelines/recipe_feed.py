"""The feed of a recipe: one stream, or a mixture in turns. The recipe is taken as it comes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.batch import Batch
from pipelines.catalog import open_snapshot
from pipelines.feed import Feed, open_mixture
from pipelines.recipe_stream import streams_of
from pipelines.rows import read_rows
from pipelines.stream import StreamConfig
from storage.fs import Store


def open_recipe(
    store: Store, recipe: Any, *, start: int, stop: int, rank: int, ranks: int, workers: int,
    kind: str,
) -> Feed:  # fmt: skip
    """Open the batches that a `training.recipe.Recipe` trains on.

    Arguments and errors are those of `open_mixture`.

    Raises:
        ValueError: a dataset holds samples of another modality than the recipe is for.
    """
    parts = [recipe.data, *recipe.data.mixture]
    for part in parts:
        wanted = getattr(part, "modality", recipe.modality)
        held = open_snapshot(store, part.dataset, part.snapshot).settings["modality"]
        if held != wanted:
            raise ValueError(
                f"dataset {part.dataset}: holds {held} samples, the recipe is for {wanted}. Give "
                f"data.dataset another name, or use a recipe for {held}."
            )
    weights, streams = [part.weight for part in parts], streams_of(recipe)
    if any(target.kind == "label" for target in recipe.target):
        classes = _classes(store, streams)
        streams = [replace(stream, classes=classes) for stream in streams]
    return open_mixture(
        store, streams, weights,
        rank=rank, ranks=ranks, start=start, stop=stop, workers=workers, kind=kind,
    )  # fmt: skip


def _classes(store: Store, streams: list[StreamConfig]) -> tuple[str, ...]:
    """Return the labels of all samples of some streams, held-out ones too, in order."""
    found: set[str] = set()
    for stream in streams:
        snapshot = open_snapshot(store, stream.dataset, stream.snapshot)
        for shard in read_rows(store, snapshot, None, {}):
            found |= set(shard.table["label"].to_pylist()) - {None, ""}
    if not found:
        raise ValueError(
            f"target label: dataset {streams[0].dataset} has no labelled samples. Ingest it with "
            "--labels parent, or with the name of a metadata column."
        )
    return tuple(sorted(found))


def main_batch(feed: Feed, batch: Batch) -> Batch:
    """Return a batch of the first dataset: `batch`, or where that is of another, its first one.

    It does not say of which stream it is, so that all it holds has a row for each sample.
    """
    if not int(batch.get("stream", 0)) or feed.course is None:
        return {name: value for name, value in batch.items() if name != "stream"}
    course = feed.course
    places = course.orders[0].batch(0, rank=course.rank, ranks=course.ranks)
    return course.builders[0].build(places, 0)


def main_stream(feed: Feed) -> StreamConfig:
    """Return the stream of the first dataset of a feed that trains."""
    assert feed.course is not None, "a feed that trains has a course"
    return feed.course.builders[0].stream
