"""What a recipe reads. Its type is above this layer, so it is taken as it comes.

Without torch: columns are derived where nothing is trained.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pipelines.order import default_lanes
from pipelines.stream import StreamConfig


def stream_of(recipe: Any) -> StreamConfig:
    """Return the stream that a `training.recipe.Recipe` trains on."""
    return StreamConfig(
        dataset=recipe.data.dataset,
        snapshot=recipe.data.snapshot,
        samples=recipe.data.samples,
        where=recipe.data.where,
        failures=recipe.data.failures,
        decode=recipe.data.decode,
        view=recipe.view,
        mask=recipe.mask,
        targets=tuple(target for target in recipe.target if target.source != "inputs"),
        patch=recipe.model.patch,
        tubelet=recipe.model.tubelet,
        batch=recipe.batch,
        seed=recipe.seed,
        lanes=recipe.lanes or default_lanes(recipe.batch),
        frozen_views=recipe.data.frozen_views,
        bands=recipe.data.bands,
        groups=recipe.model.groups,
        series=recipe.data.series,
        dates=recipe.data.dates,
        columns=recipe.data.columns,
        stride=recipe.data.stride,
    )


def streams_of(recipe: Any) -> list[StreamConfig]:
    """Return the streams that a recipe trains on: the first, then those of its mixture."""
    first = stream_of(recipe)
    return [first, *(_part(first, part) for part in recipe.data.mixture)]


def _part(first: StreamConfig, part: Any) -> StreamConfig:
    batch = part.batch or first.batch
    return replace(
        first,
        dataset=part.dataset,
        snapshot=part.snapshot,
        samples=0,
        where=part.where,
        view=part.view or first.view,
        mask=part.mask or first.mask,
        batch=batch,
        lanes=default_lanes(batch),
        columns={} if part.modality == "image" else first.columns,
    )
