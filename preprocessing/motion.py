"""Codec motion vectors, brought to the token grid.

A vector of frame j is flow(j -> j-1) in px: content that moves 4 px left has +4. Frames without
vectors (key frames) and blocks without one (intra) count as still.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from preprocessing.flow import cell_means


def motion_grid(dense: NDArray[np.float32], cell: int) -> NDArray[np.float32]:
    """Return the mean vector of each cell.

    Args:
        dense: (T, H, W, 2) float32, px; NaN where no vector is known.
        cell: edge of a cell, px.

    Returns:
        (T, ceil(H/cell), ceil(W/cell), 2) float32, px.
    """
    if cell < 1:
        raise ValueError(f"motion.cell is {cell}; it must be 1 or more. 8 is usual.")
    return cell_means(np.nan_to_num(dense, nan=0.0), cell)


def clip_motion(data: bytes, cell: int) -> NDArray[np.float32]:
    """Return the mean codec vector of each cell of a stored clip: (T, ceil(H/cell), ceil(W/cell),
    2) float32, px.

    Raises:
        DecodeError: the bytes are not a clip.
    """
    # PyAV: 6 MB that only clips need
    from preprocessing.video_codec import BLOCK, block_vectors, clip_vectors

    blocks, (height, width) = block_vectors(data)
    if cell % BLOCK or height % BLOCK or width % BLOCK:
        return motion_grid(clip_vectors(data), cell)
    # The same means from a sixteenth of the values: vectors are quarters, so all sums are exact.
    return motion_grid(blocks, cell // BLOCK)


def own_motion(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return vectors (T, h, w, 2) without the camera's: each frame's median vector is
    subtracted."""
    return (vectors - np.median(vectors, axis=(1, 2), keepdims=True)).astype(np.float32)
