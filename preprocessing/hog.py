"""Histograms of oriented gradients as MaskFeat, LocalMIM and FG-MAE use them.

The definition, in float64: reflect-padded Sobel differences, left minus right `gx` and top minus
bottom `gy`; bin `floor(atan2(gx, gy) / pi * bins) mod bins`; magnitudes summed over a cell; L2 norm
over its bins. uint8 frames take a fast road that decides ties as float64 does: compiled where numba
is there (preprocessing.hog_kernel), else by a table of bins. Both give the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_Oriented = Callable[[NDArray[Any], NDArray[Any], int], tuple[NDArray[Any], NDArray[Any]]]

_OFFSET = 1020
"The largest Sobel difference of uint8 pixels: 4 * 255."
_STRIP = 1 << 18
"Values that are binned at once."
_FLOOR = 1e-12


def hog_cells(
    frames: NDArray[Any], cell: int = 8, bins: int = 9, window: int = 0
) -> NDArray[np.float32]:
    """Return one gradient histogram per cell, channel and frame.

    Args:
        frames: (T, H, W, C), any integer or float type. H and W are multiples of `cell`, at least
            2.
        cell: edge of a cell, in pixels.
        bins: orientation bins over the half circle [0, pi).
        window: edge of the gaussian that weights the pixels, tiled over the frame; 0 is none
            (MaskFeat), FG-MAE has 16.

    Returns:
        (T, H/cell, W/cell, C, bins) float32. Every histogram has L2 norm 1,
        except that a cell without any gradient is all zeros.

    Raises:
        ValueError: H or W is not a multiple of `cell`.

    Source: MaskFeat, Wei et al. 2022, arXiv:2112.09133. Hard binning, no block normalisation, no
    clipping.
    """
    _check(frames.shape, cell, bins)
    parts = [_histograms(frame, cell, bins, window) for frame in frames]
    t, h, w, c = frames.shape
    sums = _joined(parts)
    histogram = sums.reshape(t, h // cell, w // cell, c, bins)
    return _normalised(histogram)


def _normalised(histogram: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return (..., bins) with L2 norm 1 over the bins."""
    kernel = _kernel()
    if kernel is not None:
        divided: NDArray[np.float32] = kernel.normalised(histogram, _FLOOR)
        return divided
    # Not einsum: the order of its sums, and so the last bit, depends on where the array lies. One
    # bin at a time over all cells is four times as fast as a sum over the short last axis.
    squares = np.square(histogram)
    total = squares[..., 0].copy()
    for one in range(1, histogram.shape[-1]):
        total += squares[..., one]
    norm = np.maximum(np.sqrt(total), _FLOOR)[..., None]
    return np.divide(histogram, norm, out=squares).astype(np.float32)


def hog_targets(
    image: NDArray[Any], patch: int = 16, cell: int = 8, bins: int = 9, window: int = 0
) -> NDArray[np.float32]:
    """Return the descriptor of every patch of an image.

    Args:
        image: (H, W, C); H and W are multiples of `patch`, `patch` is one of `cell`.

    Returns:
        (H/patch * W/patch, C * bins * k * k) float32, k = patch / cell; patches in raster order,
        values in the order channel, bin, cell row, cell column.
    """
    if patch % cell:
        raise ValueError(
            f"hog_targets: a patch of {patch} px does not hold whole cells of {cell} px. "
            f"Use a cell that divides {patch}."
        )
    return cells_to_patches(hog_cells(image[None], cell, bins, window)[0], patch // cell)


def cells_to_patches(cells: NDArray[np.float32], edge: int) -> NDArray[np.float32]:
    """Return (h, w, C, bins) cells joined to patches of `edge` x `edge` cells: (N, P)."""
    h, w, c, bins = cells.shape
    if h % edge or w % edge:
        raise ValueError(
            f"cells_to_patches: {h}x{w} cells do not divide into patches of {edge}x{edge} cells. "
            "Crop the frame to a multiple of the patch."
        )
    split = cells.reshape(h // edge, edge, w // edge, edge, c, bins)
    return split.transpose(0, 2, 4, 5, 1, 3).reshape(h // edge * (w // edge), -1)


def hog_to_uint8(hog: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return values in [0, 1] in steps of 1/255: off by at most 1/510."""
    return np.rint(np.clip(hog, 0, 1) * 255).astype(np.uint8)


def uint8_to_hog(stored: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return stored values in [0, 1]."""
    return stored.astype(np.float32) * np.float32(1 / 255)


def _check(shape: tuple[int, ...], cell: int, bins: int) -> None:
    _, h, w, _ = shape
    if cell < 1 or not 1 <= bins <= 255:
        raise ValueError(
            f"hog.cell is {cell}, hog.bins is {bins}; cell must be 1 or more, bins 1 to 255."
        )
    if h % cell or w % cell or min(h, w) < 2:
        raise ValueError(
            f"hog_cells: frame is {h}x{w} px, which does not divide into {cell} px cells. "
            f"Resize or crop both edges to a multiple of {cell}, at least 2."
        )


def _histograms(frame: NDArray[Any], cell: int, bins: int, window: int) -> NDArray[np.float64]:
    """Return sums of magnitudes of (H, W, C), flat in the order (row, column, channel, bin)."""
    h, w, c = frame.shape
    weights = _tiled_window(window, h, w) if window else None
    fast = frame.dtype == np.uint8
    kernel = _kernel() if fast else None
    if kernel is not None and bins <= kernel.MOST_BINS:
        sums: NDArray[np.float64] = kernel.histograms_uint8(frame, cell, bins, weights)
        return sums
    gradients: tuple[NDArray[Any], NDArray[Any]] = (_sobel_uint8 if fast else sobel_exact)(frame)
    oriented: _Oriented = _oriented_uint8 if fast else oriented_exact
    # Some rows of cells at a time: what is in between a large frame would not fit the caches.
    rows = cell * max(1, _STRIP // (cell * w * c))
    parts: list[NDArray[np.float64]] = []
    for top in range(0, h, rows):
        strip = slice(top, min(top + rows, h))
        bin_of, magnitude = oriented(gradients[0][strip], gradients[1][strip], bins)
        if weights is not None:
            magnitude = magnitude * weights[strip, :, None]
        slots = bin_of.astype(np.intp)
        slots += _first_slots(strip.stop - top, w, c, cell, bins)
        total = (strip.stop - top) // cell * (w // cell) * c * bins
        counts = np.bincount(slots.ravel(), magnitude.ravel(), minlength=total)
        parts.append(counts.astype(np.float64, copy=False))
    return _joined(parts)


@cache
def _kernel() -> ModuleType | None:
    """Return the compiled road; None without numba, or without a folder for what it compiles."""
    try:
        from preprocessing import hog_kernel  # late: numba takes its time

        # Compiled, and kept, here: a full disk is told by the first call.
        blank = np.zeros((2, 2, 1), np.uint8)
        hog_kernel.normalised(hog_kernel.histograms_uint8(blank, 2, 1, None), _FLOOR)
    except (ImportError, RuntimeError, OSError):
        return None
    return hog_kernel


def _joined(parts: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return parts end to end; one alone is not copied."""
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0)


def sobel_exact(frame: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return gx (left minus right) and gy (top minus bottom) of (H, W, C) in float64."""
    padded = np.pad(frame.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    down = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return down[:, :-2] - down[:, 2:], across[:-2] - across[2:]


def oriented_exact(
    gx: NDArray[np.float64], gy: NDArray[np.float64], bins: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the bin and the magnitude of each gradient: the definition."""
    bin_of = np.floor(np.arctan2(gx, gy) / math.pi * bins).astype(np.int64) % bins
    return bin_of, np.sqrt(gx * gx + gy * gy)


def _sobel_uint8(frame: NDArray[np.uint8]) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
    """Return the differences the way cv2 has them: right minus left, bottom minus top."""
    frame = np.ascontiguousarray(frame)
    border = cv2.BORDER_REFLECT_101
    dx = cv2.Sobel(frame, cv2.CV_16S, 1, 0, ksize=3, borderType=border)
    dy = cv2.Sobel(frame, cv2.CV_16S, 0, 1, ksize=3, borderType=border)
    return np.reshape(dx, frame.shape), np.reshape(dy, frame.shape)


def _oriented_uint8(
    dx: NDArray[np.int16], dy: NDArray[np.int16], bins: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the bins of `oriented_exact` by table, and magnitudes in float32."""
    places = dx.astype(np.int32)
    places *= 2 * _OFFSET + 1
    places += dy
    places += (2 * _OFFSET + 1) * _OFFSET + _OFFSET
    bin_of = _bin_table(bins).ravel().take(places, mode="clip")  # clip: no check of bounds first
    # Not cv2.magnitude: its last bit depends on where the arrays lie. These squares fit float32.
    x, y = dx.astype(np.float32), dy.astype(np.float32)
    np.multiply(x, x, out=x)
    np.multiply(y, y, out=y)
    np.add(x, y, out=x)
    return bin_of, np.sqrt(x, out=x)


@lru_cache(maxsize=4)
def _bin_table(bins: int) -> NDArray[np.uint8]:
    """Return the bin of every pair of differences, at row `dx + 1020` and column `dy + 1020`."""
    steps = np.arange(2 * _OFFSET + 1, dtype=np.float64) - _OFFSET
    table = np.empty((2 * _OFFSET + 1, 2 * _OFFSET + 1), np.uint8)
    for row in range(len(table)):
        # Minus twice: cv2 differences run against ours. 0 - x, because -0.0 is another angle.
        table[row] = oriented_exact(np.full_like(steps, _OFFSET - row), 0 - steps, bins)[0]
    return table


@lru_cache(maxsize=16)
def _first_slots(h: int, w: int, c: int, cell: int, bins: int) -> NDArray[np.int64]:
    """Return, for each pixel (H, W, C), the slot of bin 0 of its cell."""
    rows, columns = np.arange(h) // cell, np.arange(w) // cell
    cells = rows[:, None] * (w // cell) + columns
    slots = (cells[:, :, None] * c + np.arange(c)) * bins
    slots.setflags(write=False)
    return slots


def gaussian_window(size: int) -> NDArray[np.float64]:
    """Return the (size, size) weights of FG-MAE's gaussian window; they sum to 1."""
    n = np.arange(size) - (size - 1) / 2
    edge = np.exp(-0.5 * (n / (size // 2)) ** 2)
    kernel = np.outer(edge, edge)
    return np.asarray(kernel / kernel.sum())


@lru_cache(maxsize=16)
def _tiled_window(size: int, h: int, w: int) -> NDArray[np.float32]:
    if size < 2:
        raise ValueError(
            f"hog.window is {size}; it must be 0 for none, or 2 or more. FG-MAE has 16."
        )
    tiles = np.tile(gaussian_window(size), (-(-h // size), -(-w // size)))
    return tiles[:h, :w].astype(np.float32)
