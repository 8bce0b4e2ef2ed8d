"""Recipes: what they accept, what they refuse, and with which words."""

from __future__ import annotations

from dataclasses import fields

import pytest

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
    ],
)
def test_what_does_not_fit_is_refused_by_name(word: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_recipe("mae_tiny", [word])


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
        "name", "paper", "modality", "data", "view", "mask", "target", "model", "optim", "init",
        "steps", "batch", "accumulate", "lanes", "seed", "precision", "compile", "recompute",
        "ema", "guard", "log_every", "save_every", "heldout_every", "keep", "peak_flops",
    ]  # fmt: skip
