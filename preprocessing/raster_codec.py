"""The stored raster: a TIFF of one page a channel, so that single channels can be decoded.

Lossless (zstd behind a predictor), one strip a page; equal arrays give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import tifffile
from numpy.typing import NDArray

from preprocessing.errors import DecodeError

_LEVEL = 3


def encode_raster(array_CHW: NDArray[np.generic]) -> bytes:
    """Return the TIFF of a (C, H, W) array of integers, floats or bools (stored as uint8)."""
    if array_CHW.ndim != 3 or 0 in array_CHW.shape:
        raise ValueError(
            f"encode_raster: the array has the shape {array_CHW.shape}; (C, H, W) is needed."
        )
    if array_CHW.dtype == np.bool_:
        array_CHW = array_CHW.astype(np.uint8)
    array_CHW = np.ascontiguousarray(array_CHW, array_CHW.dtype.newbyteorder("<"))
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer, byteorder="<") as writer:
        for plane in array_CHW:
            writer.write(
                plane,
                photometric="minisblack",
                compression="zstd",
                compressionargs={"level": _LEVEL},
                predictor=True,
                rowsperstrip=plane.shape[0],
                software=False,
                metadata=None,
            )
    return buffer.getvalue()


def decode_raster(data: bytes, channels: Sequence[int] | None = None) -> NDArray[np.generic]:
    """Return (C, H, W): the channels asked for, in that order, or all; only these are decoded.

    Raises:
        DecodeError: the bytes are not a whole stored raster, or lack a channel.
    """
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            pages = tiff.pages
            wanted = range(len(pages)) if channels is None else channels
            if any(not 0 <= channel < len(pages) for channel in wanted):
                raise DecodeError(
                    "incomplete_channels",
                    f"stored raster of {len(pages)} channels, asked for {list(wanted)}",
                )
            return np.stack([pages[channel].asarray() for channel in wanted])
    except (tifffile.TiffFileError, ValueError, RuntimeError, OSError) as error:
        if isinstance(error, DecodeError):
            raise
        raise DecodeError("decode_error", f"stored raster of {len(data)} bytes: {error}") from error
