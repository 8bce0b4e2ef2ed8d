"""Parts of a recipe that do not fit each other, told before anything is read or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from training.recipe import Recipe

INDEX_BANDS = "B3, B4, B8 and B11"


def check_combination(recipe: Recipe) -> None:
    """Refuse a recipe whose data, model and targets cannot work together.

    Raises:
        ValueError: which settings do not fit, and what would.
    """
    _check_groups(recipe)
    for target in recipe.target:
        if target.kind == "ndi" and recipe.model.groups:
            raise ValueError(
                "target ndi is one vector a patch, but model.groups makes a token of each band "
                "group. Leave out model.groups, or the target ndi."
            )
        if target.source == "inputs" and recipe.modality == "video":
            raise ValueError(
                f"target {target.kind} has source=inputs, which is for single pictures; modality "
                "is video. Use source=online."
            )
        if target.source == "inputs" and target.kind == "ndi" and not recipe.data.bands:
            raise ValueError(
                f"target ndi finds bands by name, but data.bands is empty. Name the bands that are "
                f"read, {INDEX_BANDS} among them: data.bands=[B2,B3,B4,B8,B11]."
            )


def _check_groups(recipe: Recipe) -> None:
    groups, bands = recipe.model.groups, recipe.data.bands
    if recipe.model.family == "camae" and (not groups or any(len(g) != 1 for g in groups)):
        raise ValueError(
            f"model.groups is {[list(group) for group in groups]}; camae makes a token of each "
            "channel's patch. Name every channel as a group of its own: "
            "model.groups=[[DNA],[ER],[RNA]]."
        )
    named = tuple(name for group in groups for name in group)
    if groups and bands and bands != named:
        raise ValueError(
            f"data.bands is {', '.join(bands)}, model.groups names {', '.join(named)}; groups say "
            "already what is read, in their order. Leave out data.bands."
        )
