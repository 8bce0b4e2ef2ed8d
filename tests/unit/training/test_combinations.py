"""Parts of a recipe that do not fit each other are refused before anything runs."""

from __future__ import annotations

import pytest
import torch

from preprocessing.indices import band_numbers
from training.assemble import about_input
from training.inputs import InputNorm
from training.recipe import read_recipe


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("ca_mae", ["model.groups=[[DNA, ER]]"], r"camae makes a token of each channel's patch"),
        ("ca_mae", ["model.groups=[]"], r"model\.groups=\[\[DNA\],\[ER\],\[RNA\]\]"),
        ("satmae_group", ["data.bands=[B2,B3]"], r"Leave out data\.bands"),
        ("satmae_time", ["data.series=''"], r"Set data\.series to the field that names a place"),
        ("mae", ["data.series=scene"], r"model\.family is mae, data\.series is 'scene'"),
        ("fgmae_msi", ["data.bands=[]"], r"target ndi finds bands by name"),
        ("fgmae_msi", ["model.groups=[[B2,B3,B4,B8,B11]]", "data.bands=[]"], r"one vector a patch"),
        ("mae", ["target.pixels.source=inputs"], r"target pixels has source=inputs; only hog and"),
        ("videomae", ["target=[{kind: hog, source: inputs}]"], r"modality is video"),
    ],
)
def test_what_does_not_fit_is_named(recipe: str, words: list[str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        read_recipe(recipe, words)


def test_samples_of_other_channels_are_refused_by_number() -> None:
    norm = InputNorm("self", 5, None)
    with pytest.raises(ValueError, match=r"samples have 3 channels, the network was made for 5"):
        norm(torch.zeros(2, 3, 8, 8))


def test_statistics_of_a_mixture_of_channels_are_refused() -> None:
    recipe = read_recipe("fgmae_msi_tiny")
    batch = {"pixels": torch.zeros(2, 10, 64, 64)}
    names = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "B1", "B9"]
    stats = {"mean": [0.0] * 13, "variance": [1.0] * 13}
    with pytest.raises(ValueError, match=r"names 12 channels, most of its samples have 13"):
        about_input(recipe, batch, names, stats)


def test_bands_are_found_by_any_spelling_and_refused_if_two_may_be_meant() -> None:
    assert band_numbers(["B04", "B8A", "B08"], ["B8", "B4", "B8A"]) == [2, 0, 1]
    assert band_numbers(["DNA", "ER"], ["ER"]) == [1]
    with pytest.raises(ValueError, match=r"the recipe wants B2, B3 too\. Change data\.bands"):
        band_numbers(["B4"], ["B4", "B2", "B3"])
    with pytest.raises(ValueError, match=r"wants B4 too, which more than one of them may be"):
        band_numbers(["B04_10m", "B04_20m"], ["B4"])
