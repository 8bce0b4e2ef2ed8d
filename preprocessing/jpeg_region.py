"""Of a stored JPEG only the box that a view shows, bit for bit as the whole picture has it.

libjpeg-turbo can leave out the inverse transform of what lies beside, above and below a box. At its
edges the smooth upsampling of colours needs neighbours, so the box is decoded with a margin. Where
no TurboJPEG 3 is installed, or it gives up, the caller decodes the whole picture: the same pixels,
later.
"""

from __future__ import annotations

import ctypes
import importlib
import threading
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.jpeg import plain_frame

_DECOMPRESS, _RGB = 1, 0
"of TurboJPEG's enumerations"
_MARGIN = 2
"Pixels beside the box that its own colours depend on."
_BASELINE = (0xC0, 0xC1)
"Other frames come in several scans, which are decoded whole anyway."
_PACKAGE, _SYSTEM = "turbojpeg", "libturbojpeg.so.0"


class _Region(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("x", "y", "w", "h")]


@cache
def _library() -> ctypes.CDLL | None:
    """Return TurboJPEG 3 from its wheel, or the system's; None where neither is there."""
    try:
        places = [importlib.import_module(_PACKAGE).__file__, _SYSTEM]
    except ImportError:
        places = [_SYSTEM]
    for place in places:
        try:
            # The symbols of a library that the wheel's module is linked with are found through it.
            found = ctypes.CDLL(place)
            found.tj3Init.restype = ctypes.c_void_p
            found.tj3Destroy.argtypes = [ctypes.c_void_p]
            found.tj3SetCroppingRegion.argtypes = [ctypes.c_void_p, _Region]
            data: list[Any] = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
            found.tj3DecompressHeader.argtypes = data
            found.tj3Decompress8.argtypes = [*data, ctypes.c_void_p, ctypes.c_int, ctypes.c_int]
        except (OSError, AttributeError):  # another package of that name, or TurboJPEG 2
            continue
        return found
    return None


class _Decoder(threading.local):
    """A decoder of this thread, and the pixels of what it decoded last."""

    def __init__(self) -> None:
        self.library = _library()
        self.handle = self.library.tj3Init(_DECOMPRESS) if self.library else None
        self.pixels = np.empty(0, np.uint8)

    def __del__(self) -> None:
        if self.library and self.handle:
            self.library.tj3Destroy(self.handle)

    def decode(self, data: bytes, x: int, y: int, w: int, h: int) -> NDArray[np.uint8] | None:
        """Return (h, w, 3); the next call writes over it."""
        library, handle, size = self.library, self.handle, len(data)
        if library is None or handle is None or library.tj3DecompressHeader(handle, data, size):
            return None
        if library.tj3SetCroppingRegion(handle, _Region(x, y, w, h)):
            return None
        if self.pixels.size < 3 * w * h:
            self.pixels = np.empty(3 * w * h, np.uint8)
        if library.tj3Decompress8(handle, data, size, self.pixels.ctypes.data, 0, _RGB):
            return None
        return self.pixels[: 3 * w * h].reshape(h, w, 3)


_decoder = _Decoder()


def decode_region(data: bytes, box: Any) -> NDArray[np.uint8] | None:
    """Return the pixels of a box of a plain JPEG, as `decode_payload` would show them.

    Args:
        data: a whole JPEG, without damage.
        box: with top, left, height and width, such as a view.

    Returns:
        (height, width, 3) uint8 RGB, to be used before this thread's next call; None where the
        whole picture has to be decoded, or the box leaves it.
    """
    frame = plain_frame(data)
    if frame is None or frame.kind not in _BASELINE or _decoder.handle is None:
        return None
    bottom, right = box.top + box.height, box.left + box.width
    if bottom > frame.height or right > frame.width:
        return None
    x = max(box.left - _MARGIN, 0) // frame.block * frame.block
    y = max(box.top - _MARGIN, 0)
    w, h = min(right + _MARGIN, frame.width) - x, min(bottom + _MARGIN, frame.height) - y
    around = _decoder.decode(data, x, y, w, h)
    return None if around is None else around[box.top - y : bottom - y, box.left - x : right - x]
