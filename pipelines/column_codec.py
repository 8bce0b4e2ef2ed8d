"""One array of a derived column as the bytes of a tar member: `.npy`, compressed with zstd."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
from numpy.typing import NDArray

EXT = "npy.zst"
MAX_ARRAY_BYTES = 2**30
_LEVEL = 3


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
    return np.load(io.BytesIO(plain), allow_pickle=False)
