"""Of a stored JPEG only what a view shows, bit for bit as the whole picture under the view has it.

`_jpeg.c` reads the codes down to the box's end, turns its blocks alone into pixels and these into
the output's planes in one go. setup compiles it where there is a C compiler; it runs on x86-64 with
AVX2. Elsewhere, and where it gives up (progressive, grey, damaged), the caller decodes the whole
picture: the same pixels, later.
"""

from __future__ import annotations

import ctypes
import threading
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.jpeg import plain_frame
from preprocessing.views import View

_ROOM = 1 << 19


@cache
def _function() -> Any:
    """Return the compiled function; None where it was not compiled."""
    spec = find_spec("preprocessing._jpeg")
    if spec is None or spec.origin is None:
        return None
    try:
        function = ctypes.CDLL(spec.origin).headrace_jpeg_view
    except (OSError, AttributeError):  # compiled for another system, or by an older version
        return None
    number, pointer = ctypes.c_int, ctypes.c_void_p
    given: list[Any] = [ctypes.c_char_p, ctypes.c_size_t, *[number] * 6]
    function.argtypes = [*given, pointer, ctypes.c_size_t, pointer]
    function.restype = ctypes.c_long
    return function


def compiled() -> bool:
    """Say whether the compiled function is there; on which processors it runs it says itself."""
    return _function() is not None


class _Room(threading.local):
    """Memory that a thread decodes in."""

    def __init__(self) -> None:
        self.make(_ROOM)

    def make(self, size: int) -> None:
        self.bytes = np.empty(size, np.uint8)
        self.address = self.bytes.ctypes.data


_room = _Room()


def _decode(data: bytes, box: Any, edge: int, flip: bool, out: NDArray[np.uint8]) -> bool:
    function = _function()
    if function is None:
        return False
    where = box.top, box.left, box.height, box.width, edge, flip
    while True:
        room = _room.bytes.size
        told = function(data, len(data), *where, _room.address, room, out.ctypes.data)
        if told <= 0:
            return bool(told == 0)
        _room.make(2 * int(told))


def decode_view(data: bytes, view: View, planes: NDArray[np.uint8]) -> bool:
    """Write what an interpolated view shows of a plain JPEG, as `apply_view` would; say whether.

    Args:
        data: a whole JPEG, without damage.
        view: one of those that `views.interpolated` names.
        planes: (3, size, size) red, green and blue, C-contiguous; arbitrary where this returns
            False.
    """
    return _decode(data, view, view.size, view.flip, planes)


def decode_region(data: bytes, box: Any) -> NDArray[np.uint8] | None:
    """Return the pixels of a box of a plain JPEG, as `decode_payload` would show them.

    Args:
        data: a whole JPEG, without damage.
        box: with top, left, height and width, such as a view.

    Returns:
        (height, width, 3) uint8 RGB; None where the whole picture has to be decoded, or the box
        leaves it.
    """
    frame = plain_frame(data)
    if frame is None or box.top + box.height > frame.height or box.left + box.width > frame.width:
        return None
    pixels = np.empty((box.height, box.width, 3), np.uint8)
    return pixels if _decode(data, box, 0, False, pixels) else None
