"""Parts of a recipe that do not fit each other, told before anything is read or trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.schedules import phase_ends

if TYPE_CHECKING:
    from training.recipe import Recipe

CLIPS = ("videomae", "mae_st", "maskfeat", "videomae_labels")
"Families whose tokens may be tubelets of a clip."
ONLY_CLIPS = ("videomae", "mae_st", "videomae_labels")
NO_DECODER = ("maskfeat", "videomae_labels")
INDEX_BANDS = "B3, B4, B8 and B11"


def check_combination(recipe: Recipe) -> None:
    """Refuse a recipe whose data, model and targets cannot work together.

    Raises:
        ValueError: which settings do not fit, and what would.
    """
    _check_family(recipe)
    _check_parts(recipe)
    _check_groups(recipe)
    _check_course(recipe)
    if (recipe.model.family == "satmae_time") != bool(recipe.data.series):
        raise ValueError(
            f"model.family is {recipe.model.family}, data.series is {recipe.data.series!r}; "
            "satmae_time, and it alone, reads series of pictures with their dates. Set "
            "data.series to the field that names a place, such as scene, or leave it out."
        )
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


def _check_family(recipe: Recipe) -> None:
    model, family = recipe.model, recipe.model.family
    clip = recipe.modality == "video"
    if (clip and family not in CLIPS) or (not clip and family in ONLY_CLIPS):
        raise ValueError(
            f"modality is {recipe.modality}, model.family {family}; clips are for "
            f"{', '.join(CLIPS)}, and of these only maskfeat is for anything else too. Change one "
            "of them."
        )
    if model.tubelet > 1 and not clip:
        raise ValueError(
            f"model.tubelet is {model.tubelet}, modality is {recipe.modality}; only clips have "
            "frames to join. Use model.tubelet=1."
        )
    if recipe.mask.columns and not clip:
        raise ValueError(
            f"mask.kind is {recipe.mask.kind}, modality is {recipe.modality}; only clips have "
            "motion to follow. Use another mask, such as mask.kind=random."
        )


def _check_parts(recipe: Recipe) -> None:
    model, family = recipe.model, recipe.model.family
    sizes = (model.decoder_width, model.decoder_depth, model.decoder_heads)
    if family not in NO_DECODER and min(sizes) < 1:
        raise ValueError(
            f"model.family {family} has a decoder, but decoder_width, decoder_depth and "
            f"decoder_heads are {', '.join(map(str, sizes))}. Set all three, such as 512, 8, 16."
        )
    kinds = [target.kind for target in recipe.target]
    if (kinds == ["label"]) != (family == "videomae_labels"):
        raise ValueError(
            f"model.family is {family}, targets are {', '.join(kinds)}; the target label, and it "
            "alone, is for videomae_labels. Change one of them."
        )
    if recipe.batch % recipe.accumulate:
        raise ValueError(
            f"batch is {recipe.batch}, accumulate is {recipe.accumulate}; it must divide the "
            "batch. Change one of them."
        )
    if len(set(kinds)) < len(kinds):
        raise ValueError(
            f"targets are {', '.join(kinds)}; each kind has one prediction, so name it once."
        )
    for target in recipe.target:
        if target.kind == "hog" and model.patch % target.cell:
            raise ValueError(
                f"target hog has cell={target.cell}, model.patch is {model.patch}; a patch must "
                "hold whole cells. Use a cell that divides the patch."
            )


def _check_course(recipe: Recipe) -> None:
    """Refuse a run that has two beginnings, or phases that end out of order."""
    if recipe.init and recipe.begin.run:
        raise ValueError(
            f"init is {recipe.init}, begin.run is {recipe.begin.run}; both give the first weights. "
            "Leave out one of them."
        )
    ends = phase_ends(recipe.optim.infinite.ends, recipe.steps)
    if recipe.optim.schedule == "infinite" and list(ends) != sorted(ends):
        raise ValueError(
            f"optim.infinite.ends is {list(recipe.optim.infinite.ends)}, which is steps "
            f"{', '.join(map(str, ends))} of {recipe.steps}; warm-up, cooldown and the constant "
            "phase must end in this order."
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
