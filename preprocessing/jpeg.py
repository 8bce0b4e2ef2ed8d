"""The JPEGs that ingest writes, decoded to OpenCV's pixels in 0.9 of its time."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from preprocessing.views import View, apply_view

_REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4}
_REDUCED |= {2: cv2.IMREAD_REDUCED_COLOR_2}
_JFIF = b"\xff\xd8\xff\xe0"
_TABLES = (0xC4, 0xDB, 0xDD, 0xE0)
"markers that change neither colours nor orientation: Huffman, quantiser, restarts, JFIF"
_FRAMES = (0xC0, 0xC1, 0xC2)


class Frame(NamedTuple):
    """What the frame header of a plain JPEG says."""

    kind: int
    "the marker: 0xC0 and 0xC1 are one scan of Huffman codes"
    height: int
    width: int
    block: int
    "columns of a block of all components, px"


def plain_frame(data: bytes) -> Frame | None:
    """Return the frame of a JPEG of 8-bit YCbCr by JFIF's rules, without EXIF or other remarks.

    None of anything else (grey, CMYK, an orientation, a colour profile): that is left to the
    general decoder.
    """
    if not data.startswith(_JFIF):
        return None
    place = 2
    while place + 18 <= len(data) and data[place] == 0xFF:
        marker, size = data[place + 1], data[place + 2] << 8 | data[place + 3]
        if marker in _FRAMES:
            if data[place + 4] != 8 or data[place + 9] != 3:
                return None
            height = data[place + 5] << 8 | data[place + 6]
            width = data[place + 7] << 8 | data[place + 8]
            across = max(data[place + 11] >> 4, data[place + 14] >> 4, data[place + 17] >> 4)
            return Frame(marker, height, width, 8 * across)
        if marker not in _TABLES:
            return None
        place += 2 + size
    return None


def decode_plain(data: bytes) -> NDArray[np.uint8] | None:
    """Return (H, W, 3) uint8 RGB of a plain JPEG; None where the decoder gives up."""
    try:
        pixels: NDArray[np.uint8] = imagecodecs.jpeg8_decode(data)
    except (imagecodecs.Jpeg8Error, ValueError):
        return None
    return pixels


def view_reduced(data: bytes, view: View) -> NDArray[np.uint8] | None:
    """Return what a view shows of a large JPEG, decoded no larger than the view needs.

    A box at least 2, 4 or 8 times the output size in both edges is decoded at a half, a quarter or
    an eighth, by means of squares inside the decoder, and cut to whole pixels of that size; so it
    lies up to half such a pixel off. None where the box is smaller, or the decoder gives up.
    """
    times = next((t for t in _REDUCED if min(view.height, view.width) >= t * view.size), 1)
    if times == 1:
        return None
    small = cv2.imdecode(np.frombuffer(data, np.uint8), _REDUCED[times])
    if small is None:
        return None
    height, width = round(view.height / times), round(view.width / times)
    box = replace(
        view,
        top=min(round(view.top / times), small.shape[0] - height),
        left=min(round(view.left / times), small.shape[1] - width),
        height=height,
        width=width,
    )
    return np.asarray(cv2.cvtColor(apply_view(small, box), cv2.COLOR_BGR2RGB), np.uint8)
