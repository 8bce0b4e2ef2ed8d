"""The JPEGs that ingest writes, decoded to OpenCV's pixels in 0.9 of its time."""

from __future__ import annotations

import imagecodecs
import numpy as np
from numpy.typing import NDArray

_JFIF = b"\xff\xd8\xff\xe0"
_TABLES = (0xC4, 0xDB, 0xDD, 0xE0)
"markers that change neither colours nor orientation: Huffman, quantiser, restarts, JFIF"
_FRAMES = (0xC0, 0xC1, 0xC2)


def is_plain(data: bytes) -> bool:
    """Say whether a JPEG is 8-bit YCbCr by JFIF's rules, without EXIF or other remarks.

    Anything else (grey, CMYK, an orientation, a colour profile) is left to the general decoder.
    """
    if not data.startswith(_JFIF):
        return False
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker in _FRAMES:
            return data[place + 4] == 8 and data[place + 9] == 3
        if marker not in _TABLES:
            return False
        place += 2 + size
    return False


def decode_plain(data: bytes) -> NDArray[np.uint8] | None:
    """Return (H, W, 3) uint8 RGB of a plain JPEG; None where the decoder gives up."""
    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpeg8_decode(data)
    except (imagecodecs.Jpeg8Error, ValueError):
        return None
    return pixels
