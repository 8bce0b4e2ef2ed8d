"""The feed of a recipe: one stream, or a mixture in turns. The recipe is taken as it comes."""

from __future__ import annotations

from typing import Any

from pipelines.batch import Batch
from pipelines.catalog import open_snapshot
from pipelines.feed import Feed, open_mixture
from pipelines.recipe_stream import streams_of
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
    weights = [part.weight for part in parts]
    return open_mixture(
        store, streams_of(recipe), weights,
        rank=rank, ranks=ranks, start=start, stop=stop, workers=workers, kind=kind,
    )  # fmt: skip


def main_batch(feed: Feed, batch: Batch) -> Batch:
    """Return a batch of the first dataset: `batch`, or where that is of another, its first one."""
    if not int(batch.get("stream", 0)) or feed.course is None:
        return batch
    course = feed.course
    places = course.orders[0].batch(0, rank=course.rank, ranks=course.ranks)
    return course.builders[0].build(places, 0)
