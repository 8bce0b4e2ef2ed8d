"""Recipes: what they accept, what they refuse, and with which words."""

from __future__ import annotations

from dataclasses import fields

import pytest

from training.mixing import pin_snapshots
from training.recipe import (
    RECIPES,
    Recipe,
    list_recipes,
    make_recipe,
    read_recipe,
    recipe_fingerprint,
    resolve,
)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_is_short_and_names_its_paper(name: str) -> None:
    text = (RECIPES / f"{name}.yaml").read_text()
    assert len(text.splitlines()) <= 40
    recipe = read_recipe(name)
    assert recipe.name == name
    assert "arXiv" in recipe.paper
    assert make_recipe(resolve(recipe)) == recipe


def test_words_replace_values_of_the_file() -> None:
    words = [
        "mask.ratio=0.5",
        "optim.lr=1e-4",
        "steps=7",
        "target.pixels.weight=2",
        "data.heldout=0",
    ]
    recipe = read_recipe("mae_tiny", words)
    assert (recipe.mask.ratio, recipe.optim.lr, recipe.steps) == (0.5, 1e-4, 7)
    assert recipe.target[0].weight == 2.0
    assert read_recipe("mae_tiny", ["target.0.norm=none"]).target[0].norm == "none"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("mask.rato=0.5", r"mask\.rato is unknown\. Known: .*mask\.ratio"),
        ("stepz=5", r"stepz is unknown\. Known: .*steps"),
        ("steps=many", r"steps is 'many'; it must be of type int"),
        ("steps=0", r"steps is 0; it must be 1 or more"),
        ("mask.ratio=75", r"mask\.ratio is 75"),
        ("optim.lr=fast", r"optim\.lr is 'fast'; it must be a number"),
        ("optim.betas=[0.9]", r"optim\.betas is \[0\.9\]; it must hold 2 values"),
        ("view.size=97", r"view\.size is 97, model\.patch is 16"),
        ("model.heads=5", r"model\.width is 96, model\.heads is 5"),
        ("model=big", r"model is 'big'; it must be a group of settings"),
        ("target.hog.cell=4", r"'hog' names none of \['pixels'\]"),
        ("optim.warmup=20", r"optim\.warmup is 20\.0; it is a share"),
        ("ratio", r"'ratio' is no override; it must read key=value"),
        ("modality=video", r"modality is video, model\.family mae; clips are for videomae"),
        ("model.family=videomae", r"modality is image, model\.family videomae"),
        ("model.tubelet=2", r"model\.tubelet is 2, modality is image; only clips"),
        ("mask.kind=mgmae", r"mask\.kind is mgmae, modality is image; only clips have motion"),
        ("model.decoder_depth=0", r"model\.family mae has a decoder, .* are 64, 0, 2"),
        ("accumulate=5", r"batch is 32, accumulate is 5; it must divide the batch"),
        ("target=[{kind: label}]", r"the target label, and it alone, is for videomae_labels"),
        ("target=[{kind: hog, cell: 5}]", r"cell=5, model\.patch is 16; .* whole cells"),
        ("target=[{kind: pixels}, {kind: pixels}]", r"targets are pixels, pixels; .* name it once"),
        ("mask.kind.size=1", r"mask\.kind\.size: the part before 'size' holds 'random'"),
        ("mask.ratio=[0.1", r"mask\.ratio: '\[0\.1' is no YAML value"),
        ("optim.lr=.nan", r"optim\.lr is nan; it must be above 0"),
        ("guard.spike=.nan", r"spike is nan, .* must be 0 or above 1"),
        ("optim.clip=-1", r"clip is -1\.0; they must be 0 or more"),
        ("data.samples=-1", r"data\.samples is -1; it must be 0 or more"),
        ("data.stride=0", r"data\.stride is 0; it must be 1 or more"),
        ("lanes=-1", r"lanes is -1; it must be 0 or more"),
        ("data.mixture=[{dataset: a}]", r"modality is image, model\.family mae; clips and pict"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(word: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_recipe("mae_tiny", [word])


@pytest.mark.parametrize(
    ("recipe", "word", "told"),
    [
        ("mixed_tiny", "data.mixture.0.weight=0", r"data\.mixture\.images: weight is 0"),
        ("mixed_tiny", "data.mixture.0.modality=satellite", r"only image and video can be mixed"),
        ("mixed_tiny", "data.mixture.0.view.size=64", r"view\.size is 64, that of the recipe 96"),
        ("mixed_tiny", "data.mixture.0.mask.kind=mgm", r"mgm follows motion, which pictures lack"),
        ("mixed_tiny", "data.mixture.0.batch=9 accumulate=2", r"batch is 9, accumulate is 2"),
        ("mixed_tiny", "data.weight=0", r"data\.weight is 0; it must be 1 or more"),
        (
            "mixed_tiny",
            "model.family=mae_st",
            r"modality is video, model\.family mae_st; clips and",
        ),
        ("mae_tiny", "init=a.pth begin.run=b", r"init is a\.pth, begin\.run is b; both give"),
        (
            "mae_tiny",
            "optim.schedule=infinite optim.infinite.ends=[0.5,0.1,0.8] steps=10",
            r"steps 5, 1, 8 of 10; .* must end in this order",
        ),
        ("localmim_tiny", "target.0.source=inputs", r"hog_scales has source=inputs; only hog and"),
    ],
)
def test_what_does_not_fit_together_is_refused_too(recipe: str, word: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_recipe(recipe, word.split())


def test_a_mixture_is_pinned_to_what_was_read() -> None:
    recipe = read_recipe("mixed_tiny")
    told = {"snapshot": 3, "mixture": [{"snapshot": 3}, {"snapshot": 7}]}
    pinned = pin_snapshots(recipe, told)
    assert (pinned.data.snapshot, pinned.data.mixture[0].snapshot) == (3, 7)
    later = {"snapshot": 4, "mixture": [{"snapshot": 4}, {"snapshot": 8}]}
    assert pin_snapshots(pinned, later) == pinned
    assert pin_snapshots(read_recipe("mae_tiny"), {"snapshot": 2}).data.snapshot == 2


def test_an_unknown_recipe_lists_the_known_ones() -> None:
    with pytest.raises(FileNotFoundError, match="mae_tiny"):
        read_recipe("mae_tinny")


def test_the_fingerprint_holds_what_determines_the_numbers() -> None:
    recipe = read_recipe("mae_tiny")
    same = read_recipe("mae_tiny", ["log_every=1", "save_every=3", "name=other"])
    other = read_recipe("mae_tiny", ["seed=1"])
    assert recipe_fingerprint(recipe) == recipe_fingerprint(same)
    assert recipe_fingerprint(recipe) != recipe_fingerprint(other)


def test_the_settings_are_those_that_a_review_saw() -> None:
    assert [entry.name for entry in fields(Recipe)] == [
        "name", "paper", "modality", "data", "view", "mask", "target", "model", "optim",
        "begin", "init", "steps", "batch", "accumulate", "lanes", "seed", "precision", "compile",
        "recompute", "drop_path", "ema", "guard", "log_every", "save_every", "heldout_every",
        "keep", "peak_flops",
    ]  # fmt: skip
