"""How much of a tile of a stained slide is tissue. Glass is white or gray, stains have a colour."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError

TINT = 20
"""Levels of 255 between the strongest and the weakest of red, green and blue from which a pixel is
coloured: white glass, the black beyond a scan, dust and shadow stay below, eosin is at 40 and
more."""


def tissue_share(tile: NDArray[np.generic]) -> float:
    """Return the share of coloured pixels of a tile (3, H, W) uint8, to six digits.

    Raises:
        DecodeError: shape_mismatch, for anything but red, green and blue of 8 bits.
    """
    if len(tile) != 3 or tile.dtype != np.uint8:
        raise DecodeError(
            "shape_mismatch",
            f"{len(tile)} channels of {tile.dtype}; --min-tissue tells tissue by its colour, in "
            "red, green and blue of 8 bits",
        )
    tint = tile.max(0) - tile.min(0)
    return round(float((tint >= TINT).mean()), 6)
