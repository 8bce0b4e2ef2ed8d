"""Tissue is what has a colour."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.errors import DecodeError
from preprocessing.tissue import TINT, tissue_share


def test_only_coloured_pixels_are_tissue() -> None:
    tile = np.full((3, 8, 8), 240, np.uint8)  # glass
    tile[:, 0] = 0  # beyond the scan
    tile[:, 1] = 90  # dust
    tile[0, 2] = 240 - TINT + 1  # almost a tint
    assert tissue_share(tile) == 0
    tile[1, 4] = 240 - TINT
    tile[:, 5] = np.array([190, 80, 140], np.uint8)[:, None]
    assert tissue_share(tile) == 2 / 8


@pytest.mark.parametrize("tile", [np.zeros((5, 4, 4), np.uint8), np.zeros((3, 4, 4), np.uint16)])
def test_a_field_without_colours_is_refused(tile: np.ndarray) -> None:
    with pytest.raises(DecodeError, match=r"--min-tissue tells tissue by its colour"):
        tissue_share(tile)
