"""One array of a derived column as the bytes of a tar member: `.npy`, compressed with zstd."""

from __future__ import annotations

import io
import math
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


def pack_array(array: NDArray[np.generic]) -> bytes:
    """Return the array as a zstd frame around a `.npy` file; equal arrays give equal bytes."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return bytes(imagecodecs.zstd_encode(buffer.getvalue(), level=_LEVEL))


def unpack_array(data: bytes) -> NDArray[np.generic]:
    """Return the array of `pack_array`; it never unpickles.

    Raises:
        ValueError: not such a member, or one that would unpack to more than 1 GiB.
    """
    try:
        plain = imagecodecs.zstd_decode(data, out=None)
    except imagecodecs.ZstdError as error:
        raise ValueError(
            f"column member: not a zstd frame ({error}). Derive the column again."
        ) from error
    if len(plain) > MAX_ARRAY_BYTES:
        raise ValueError(
            f"column member: unpacks to {len(plain)} bytes, {MAX_ARRAY_BYTES} are allowed."
        )
    begin = _PREFIX + int.from_bytes(plain[8:_PREFIX], "little")
    shape, dtype = _header(bytes(plain[:begin]))
    values = np.frombuffer(plain, dtype, offset=begin)
    if values.size != math.prod(shape):
        raise ValueError(
            f"column member: holds {values.size} values, its header says {shape}. Derive the "
            "column again."
        )
    # A copy: what is stored must not be changed, and what a batch holds must not keep it alive.
    return values.reshape(shape).copy()


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
