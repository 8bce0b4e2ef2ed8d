"""Parts of a recipe that do not fit each other are refused before anything runs."""

from __future__ import annotations

import pytest

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
