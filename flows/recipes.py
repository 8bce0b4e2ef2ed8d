"""What a recipe asks of a dataset before it can run."""

from __future__ import annotations

from typing import Any


def needed_columns(recipe: str, dataset: str, overrides: list[str]) -> dict[str, dict[str, Any]]:
    """Return the parameters of each derived column that a recipe reads.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: an override that does not fit.
    """
    from pipelines.recipe_stream import stream_of
    from training.recipe import read_recipe

    stream = stream_of(read_recipe(recipe, [*overrides, f"data.dataset={dataset}"]))
    return {name: spec.parameters for name, spec in stream.needed_columns().items()}
