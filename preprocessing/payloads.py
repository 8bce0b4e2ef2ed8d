"""What a shard holds: encoded samples, and the one function that turns them back into arrays.

The rules by which a stored picture becomes 3 channels of 8 bits are those of `images.decode_rgb`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from preprocessing.encoded import Encoded
from preprocessing.errors import DecodeError
from preprocessing.images import decode_rgb
from preprocessing.jpeg import decode_plain, plain_frame
from preprocessing.raster_codec import decode_raster

__all__ = ["EXTENSIONS", "IMAGE_EXTENSIONS", "Encoded", "decode_payload", "fill_not_finite"]

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
EXTENSIONS = (*IMAGE_EXTENSIONS, "mp4", "tif")


def decode_payload(
    ext: str, data: bytes, channels: Sequence[int] | None = None
) -> NDArray[np.generic]:
    """Return the array of a stored sample.

    Args:
        ext: extension of the shard member: jpg, png, webp, mp4 or tif.
        channels: for tif, the channels wanted, in this order; the others are not decoded.

    Returns:
        (H, W, 3) uint8 RGB of an image, (T, H, W, 3) uint8 of an mp4, (C, H, W) of a tif in its
        stored dtype, values that are not finite replaced by the finite mean of their channel.

    Raises:
        DecodeError: the bytes are damaged, or not what `ext` says.
    """
    if ext in IMAGE_EXTENSIONS:
        pixels = decode_plain(data) if ext == "jpg" and plain_frame(data) else None
        return decode_rgb(data) if pixels is None else pixels
    if ext == "mp4":
        from preprocessing.video_codec import decode_clip  # PyAV: 6 MB that pictures do not need

        return decode_clip(data)
    if ext == "tif":
        return fill_not_finite(decode_raster(data, channels))
    raise DecodeError(
        "unrecognised_format",
        f"extension {ext!r} of a shard member; known: {', '.join(EXTENSIONS)}",
    )


def fill_not_finite(array_CHW: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array with NaN and infinities replaced, so that none can reach a batch.

    Each becomes the mean of the finite values of its channel, 0 where a channel has none.
    """
    if array_CHW.dtype.kind != "f":
        return array_CHW
    finite = np.isfinite(array_CHW)
    if finite.all():
        return array_CHW
    filled = array_CHW.copy()
    for plane, known in zip(filled, finite, strict=True):
        plane[~known] = plane[known].mean(dtype=np.float64) if known.any() else 0
    return filled
