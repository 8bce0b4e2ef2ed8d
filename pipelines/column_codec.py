"""One array of a derived column as the bytes of a tar member: `.npy` in a zstd frame.

Small arrays, such as packed masks, are not compressed: a frame of one raw block is read in 2 µs,
where setting up a decoder of zstd alone takes 10, more than 2 % of what drawing a mask takes.
"""

from __future__ import annotations

import io
import math
import struct
from functools import lru_cache

import imagecodecs
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

EXT = "npy.zst"
MAX_ARRAY_BYTES = 2**30
_LEVEL = 3
_PREFIX = 10
"Bytes of a .npy file before its header: magic, version, length."
_RAW_BYTES = 4096
"Up to so many bytes a `.npy` file is stored as it is."
_FRAME = struct.Struct("<IBI")
_START = 0xFD2FB528, 0xA0
"Of a frame: zstd's magic number; one segment, whose size follows in four bytes (RFC 8878)."
_RAW_BEGIN = _FRAME.size + 3
"A block has three bytes before it: its size, shifted by three, and 1 for the last, raw one."


def pack_array(array: NDArray[np.generic]) -> bytes:
    """Return the array as a zstd frame around a `.npy` file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)
    plain = buffer.getvalue()
    if len(plain) <= _RAW_BYTES:
        return _raw_frame(len(plain)) + plain
    return bytes(imagecodecs.zstd_encode(plain, level=_LEVEL))


def _raw_frame(size: int) -> bytes:
    """Return what stands before `size` bytes that are a zstd frame of one raw block."""
    return _FRAME.pack(*_START, size) + (size << 3 | 1).to_bytes(3, "little")


def unpack_array(data: bytes) -> NDArray[np.generic]:
    """Return the array of `pack_array`; it never unpickles.

    Raises:
        ValueError: not such a member, or one that would unpack to more than 1 GiB.
    """
    plain = _plain(data)
    if len(plain) > MAX_ARRAY_BYTES:
        raise ValueError(
            f"column member: unpacks to {len(plain)} bytes, {MAX_ARRAY_BYTES} are allowed."
        )
    begin = _PREFIX + int.from_bytes(plain[8:_PREFIX], "little")
    shape, dtype = _header(plain[:begin])
    values = np.frombuffer(plain, dtype, offset=begin)
    if values.size != math.prod(shape):
        raise ValueError(
            f"column member: holds {values.size} values, its header says {shape}. Derive the "
            "column again."
        )
    # A copy: what is stored must not be changed, and what a batch holds must not keep it alive.
    return values.reshape(shape).copy()


def _plain(data: bytes) -> bytes:
    """Return what a zstd frame holds."""
    size = len(data) - _RAW_BEGIN
    if 0 <= size <= _RAW_BYTES and data.startswith(_raw_frame(size)):
        return data[_RAW_BEGIN:]
    try:
        return bytes(imagecodecs.zstd_decode(data, out=None))
    except imagecodecs.ZstdError as error:
        raise ValueError(
            f"column member: not a zstd frame ({error}). Derive the column again."
        ) from error


@lru_cache(maxsize=256)
def _header(header: bytes) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return the shape and dtype that a `.npy` header says; samples of a column share few."""
    stream = io.BytesIO(header)
    if npy.read_magic(stream) != (1, 0):
        raise ValueError("column member: not a .npy file of version 1.0. Derive the column again.")
    shape, fortran, dtype = npy.read_array_header_1_0(stream)
    if fortran or dtype.hasobject:
        raise ValueError(
            f"column member: holds {dtype} in an order that columns never have. Derive it again."
        )
    return shape, dtype
