"""The compiled road of preprocessing.hog for uint8 frames: the same sums, to the last bit.

Differences of uint8 pixels are small integers, so float32 holds them and their squares exactly, and
`x cot(a) >= y` finds the bin edges that a gradient has passed without an arc tangent. Sums in
float64 of float32 magnitudes are exact, so that they may run in two chains at once.

numba compiles it at the first call on a machine (seconds) and keeps the result beside this file or
in the user's cache folder. Importing this module raises ImportError where there is no numba, and
RuntimeError where there is no folder to keep it in.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numba import float32, float64, int32, njit, uint32
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_Ints = NDArray[np.int32]

MOST_BINS = 24
"Up to here float32 edges sort every pair of differences as float64 does; a test tries all pairs."
_EXACT_CELL = 512
"Sums over cells up to this edge need no more than the 53 bits of a float64."


def histograms_uint8(
    frame: NDArray[np.uint8], cell: int, bins: int, weights: NDArray[np.float32] | None
) -> NDArray[np.float64]:
    """Return sums of magnitudes of (H, W, C), flat in the order (row, column, channel, bin).

    Args:
        frame: H and W are multiples of `cell`, at least 2.
        bins: at most `MOST_BINS`.
        weights: (H, W) of the pixels; None is 1 everywhere.
    """
    h, w, c = frame.shape
    # Weighted magnitudes have more bits than float64 can sum exactly: one chain, in raster order.
    chains = 1 if weights is not None or cell > _EXACT_CELL else 2
    spread = np.zeros((h, 0), np.float32) if weights is None else np.repeat(weights, c, axis=1)
    sums = np.zeros((h // cell, chains, w // cell * c * bins))
    flat = np.ascontiguousarray(frame).reshape(h, w * c)
    first = _first_slots(w, c, cell, bins, chains)
    _sum_rows(flat, c, cell, _edges(bins), first, spread, sums)
    return (sums[:, 0] + sums[:, 1] if chains == 2 else sums).ravel()


def normalised(histogram: NDArray[np.float64], floor: float) -> NDArray[np.float32]:
    """Return (..., bins) with L2 norm 1 over the bins; a norm below `floor` divides as `floor`."""
    out = np.empty(histogram.shape, np.float32)
    bins = histogram.shape[-1]
    _divide(histogram.reshape(-1, bins), floor, out.reshape(-1, bins))
    return out


@lru_cache(maxsize=16)
def _first_slots(w: int, c: int, cell: int, bins: int, chains: int) -> NDArray[np.int32]:
    """Return the slot of bin 0 of each value of a row of cells; neighbours in turn by chains."""
    x, channel = np.divmod(np.arange(w * c), c)
    slots = (x % chains * (w // cell) + x // cell) * c * bins + channel * bins
    return np.asarray(slots, np.int32)


@lru_cache(maxsize=16)
def _edges(bins: int) -> NDArray[np.float32]:
    """Return the cotangents of the edges between bins; -inf, which none passes, up to fours."""
    edges = np.full(-(-(bins - 1) // 4) * 4, -np.inf, np.float32)
    edges[: bins - 1] = [1 / math.tan(k * math.pi / bins) for k in range(1, bins)]
    return edges


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_rows(
    frame: NDArray[np.uint8],
    c: int,
    cell: int,
    edges: _Floats,
    first: _Ints,
    weights: _Floats,
    sums: NDArray[np.float64],
) -> None:
    """Add the magnitudes of (H, W * C) to sums (H / cell, slots of a row of cells)."""
    h, n = frame.shape
    smooth, step = np.empty((3, n), np.float32), np.empty((3, n), np.float32)
    x, y = np.empty(n, np.float32), np.empty(n, np.float32)
    size, slot = np.empty(n, np.float32), np.empty(n, np.int32)
    # The border is reflected: above the first row lies the second, below the last the last but one.
    _across(frame[1], c, smooth[2], step[2])
    _across(frame[0], c, smooth[0], step[0])
    for row in range(h):
        above, here, below = (row + 2) % 3, row % 3, (row + 1) % 3
        _across(frame[row + 1 if row + 1 < h else h - 2], c, smooth[below], step[below])
        _turned(smooth[above], smooth[below], step[above], step[here], step[below], x, y, size)
        _slots(x, y, edges, first, slot)
        for i in range(n):
            size[i] = np.sqrt(size[i])
        if weights.shape[1]:
            for i in range(n):
                size[i] *= weights[row, i]
        cells = sums[row // cell].reshape(-1)
        for i in range(n):
            cells[uint32(slot[i])] += float64(size[i])


@njit(nogil=True, error_model="numpy")
def _across(
    pixels: NDArray[np.uint8],
    c: int,
    smooth: _Floats,
    step: _Floats,
) -> None:
    """Write (1, 2, 1) and left minus right of a row of interleaved channels, borders reflected."""
    left, middle, right = pixels[: -2 * c], pixels[c:-c], pixels[2 * c :]
    inner_smooth, inner_step = smooth[c:-c], step[c:-c]
    for i in range(len(middle)):
        a, b, d = float32(left[i]), float32(middle[i]), float32(right[i])
        inner_smooth[i] = a + b + b + d
        inner_step[i] = a - d
    end = len(pixels) - c
    for i in range(c):
        smooth[i] = float32(2) * (float32(pixels[i]) + float32(pixels[i + c]))
        smooth[end + i] = float32(2) * (float32(pixels[end + i]) + float32(pixels[end + i - c]))
        step[i] = step[end + i] = float32(0)


@njit(nogil=True, error_model="numpy")
def _turned(
    top: _Floats,
    bottom: _Floats,
    first: _Floats,
    second: _Floats,
    third: _Floats,
    x: _Floats,
    y: _Floats,
    size: _Floats,
) -> None:
    """Write the differences, turned by half a circle where x is negative, and squared sizes."""
    for i in range(len(x)):
        dx = first[i] + second[i] + second[i] + third[i]
        dy = top[i] - bottom[i]
        size[i] = dx * dx + dy * dy
        turn = (dx < 0) | ((dx == 0) & (dy < 0))
        x[i] = -dx if turn else dx
        y[i] = -dy if turn else dy


@njit(nogil=True, error_model="numpy")
def _slots(
    x: _Floats,
    y: _Floats,
    edges: _Floats,
    first: _Ints,
    slot: _Ints,
) -> None:
    """Write the slot of each gradient: bin 0 of its cell, and one more for each edge passed."""
    slot[:] = first
    for k in range(0, len(edges), 4):
        a, b, c, d = edges[k], edges[k + 1], edges[k + 2], edges[k + 3]
        for i in range(len(x)):
            passed = int32(a * x[i] >= y[i]) + int32(b * x[i] >= y[i])
            slot[i] += passed + int32(c * x[i] >= y[i]) + int32(d * x[i] >= y[i])


@njit(cache=True, nogil=True, error_model="numpy")
def _divide(
    histogram: NDArray[np.float64],
    floor: float,
    out: _Floats,
) -> None:
    """Write rows of (N, bins) with L2 norm 1, summed in order."""
    for i in range(len(histogram)):
        total = 0.0
        for value in histogram[i]:
            total += value * value
        norm = max(np.sqrt(total), floor)
        for k in range(histogram.shape[1]):
            out[i, k] = histogram[i, k] / norm
