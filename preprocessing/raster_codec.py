"""The stored raster: a TIFF of one page a channel, so that single channels can be decoded.

Lossless (zstd behind a predictor), one strip a page; equal arrays give equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.tiff_structure import Directory, directory_places, read_directory

_LEVEL = 3
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PREDICTOR, _SAMPLE_FORMAT = 256, 257, 258, 259, 317, 339
_ZSTD = 50000
_KINDS = {1: "u", 2: "i", 3: "f"}


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
        DecodeError: the bytes are not a stored raster, or lack a channel.
    """
    if data[:4] != b"II*\x00":
        raise DecodeError(
            "unrecognised_format", f"stored raster starts with {data[:4]!r}, not TIFF"
        )
    places = directory_places(data)
    wanted = range(len(places)) if channels is None else channels
    if not len(wanted) or any(not 0 <= channel < len(places) for channel in wanted):
        raise DecodeError(
            "incomplete_channels",
            f"stored raster of {len(places)} channels, asked for {list(wanted)}",
        )
    pages = [read_directory(data, places[channel]) for channel in wanted]
    first = pages[0]
    try:
        shape = first.first(_HEIGHT), first.first(_WIDTH)
        array = np.empty((len(pages), *shape), _dtype_of(first))
        for page, plane in zip(pages, array, strict=True):
            if (page.first(_HEIGHT), page.first(_WIDTH)) != shape or _dtype_of(page) != array.dtype:
                raise ValueError("pages differ in shape or type")
            _decode_page(data, page, plane)
        return array
    except (ValueError, RuntimeError, TypeError) as error:  # RuntimeError: imagecodecs
        raise DecodeError("decode_error", f"stored raster of {len(data)} bytes: {error}") from error


def _dtype_of(page: Directory) -> np.dtype[np.generic]:
    kind = _KINDS.get(page.first(_SAMPLE_FORMAT, 1), "")
    return np.dtype(f"<{kind}{page.first(_BITS) // 8}")


def _decode_page(data: bytes, page: Directory, plane: NDArray[np.generic]) -> None:
    """Fill the plane (H, W) with a page of `encode_raster`: one strip, zstd behind a predictor."""
    if page.first(_COMPRESSION) != _ZSTD or len(page.offsets) != 1 or len(page.sizes) != 1:
        raise ValueError("a page is not one strip of zstd")
    offset, size = page.offsets[0], page.sizes[0]
    if offset + size > len(data):
        raise ValueError(f"a strip ends at byte {offset + size}")
    raw = imagecodecs.zstd_decode(data[offset : offset + size], out=plane.nbytes)
    if len(raw) != plane.nbytes:
        raise ValueError(f"a strip holds {len(raw)} bytes, {plane.nbytes} were expected")
    values = np.frombuffer(raw, plane.dtype).reshape(plane.shape)
    match page.first(_PREDICTOR, 1):
        case 2:
            imagecodecs.delta_decode(values, axis=-1, out=plane)
        case 3:
            plane[:] = imagecodecs.floatpred_decode(values, axis=-1)
        case _:
            plane[:] = values
