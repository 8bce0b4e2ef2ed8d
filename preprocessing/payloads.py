"""What a shard stores for one sample, and back to an array."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError

IMAGE_EXTS = ("jpg", "png", "webp")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A payload, and the array that it decodes to."""

    ext: str
    payload: bytes
    shape: tuple[int, ...]
    dtype: str


def decode_payload(ext: str, data: bytes) -> NDArray[Any]:
    """Return the array of a stored payload.

    Returns:
        image: (H, W, 3) uint8, RGB; grey is repeated, 16-bit grey is divided by 257.
        mp4: (T, H, W, 3) uint8, RGB.
        tif: (C, H, W) of the stored dtype.

    Raises:
        DecodeError: not such a payload.
    """
    if ext in IMAGE_EXTS:
        from preprocessing.images import decode_image

        return as_rgb8(decode_image(data, strict=False))
    if ext == "mp4":
        from preprocessing.videos import decode_clip

        return decode_clip(data)
    if ext == "tif":
        from preprocessing.rasters import decode_raster

        return decode_raster(data)
    raise DecodeError("unrecognised_format", f"payload of kind {ext!r}; known are {IMAGE_EXTS}, mp4 and tif")


def as_rgb8(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Return an image (H, W) or (H, W, 3) of 8 or 16 bits as (H, W, 3) uint8."""
    if image.dtype == np.uint16:
        image = (image // 257).astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    return np.ascontiguousarray(image, dtype=np.uint8)
