"""Block masks: rectangles of BEiT and MaskFeat, cubes of MaskFeat's videos, I-JEPA's many blocks.

BEiT's generator stops when no further block fits, often one or two tokens short. Where every sample
must hide equally many, `exact` adds single tokens, drawn uniformly, up to the count.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from preprocessing.mask_random import Grid, Mask

_LOG_ASPECT = math.log(0.3)


def _block_shape(rng: np.random.Generator, least: float, most: float) -> tuple[int, int]:
    # The bounds may cross near the end: least is then the larger one, as in the released code.
    area = least + (most - least) * rng.random()
    aspect = math.exp(rng.uniform(_LOG_ASPECT, -_LOG_ASPECT))
    return round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))


def _fill_up(mask: Mask, count: int, rng: np.random.Generator) -> Mask:
    """Hide further tokens, drawn uniformly, until `count` are hidden."""
    missing = count - int(mask.sum())
    if missing > 0:
        mask[rng.permutation(np.flatnonzero(~mask))[:missing]] = True
    return mask


def block_mask(
    shape: tuple[int, int], count: int, least: int, rng: np.random.Generator, *, exact: bool = True
) -> Mask:
    """Return a 2-D block mask with at most `count` hidden tokens (BEiT; MaskFeat on images).

    Args:
        shape: rows and columns of tokens.
        least: smallest area of a block.
        exact: fill up to `count`.

    Returns:
        (h * w,) bool.
    """
    h, w = shape
    mask = np.zeros(shape, dtype=np.bool_)
    hidden = 0
    while hidden < count:
        fresh = _place_block(mask, least, count - hidden, rng)
        if not fresh:
            break
        hidden += fresh
    return _fill_up(mask.reshape(-1), count, rng) if exact else mask.reshape(h * w)


def _place_block(mask: Mask, least: int, most: int, rng: np.random.Generator) -> int:
    """Hide one more block of (h, w) and return how many tokens it added; 0 when ten tries fail."""
    h, w = mask.shape
    for _ in range(10):
        rows, columns = _block_shape(rng, least, most)
        if rows >= h or columns >= w:
            continue
        top, left = int(rng.integers(h - rows + 1)), int(rng.integers(w - columns + 1))
        inside = mask[top : top + rows, left : left + columns]
        fresh = inside.size - int(inside.sum())
        if 0 < fresh <= most:
            inside[:] = True
            return fresh
    return 0


def cube_mask(grid: Grid, count: int, rng: np.random.Generator, *, exact: bool = True) -> Mask:
    """Return a space-time block mask with at most `count` hidden tokens (MaskFeat on videos).

    Args:
        grid: (t, h, w) of the mask; MaskFeat draws on half the token grid and repeats 2 x 2.

    Returns:
        (t * h * w,) bool.
    """
    t, h, w = grid
    mask = np.zeros(grid, dtype=np.bool_)
    hidden = 0
    while hidden < count:
        fresh = _place_cube(mask, count - hidden, rng)
        if not fresh:
            break
        hidden += fresh
    return _fill_up(mask.reshape(-1), count, rng) if exact else mask.reshape(t * h * w)


def _place_cube(mask: Mask, most: int, rng: np.random.Generator) -> int:
    t, h, w = mask.shape
    for _ in range(100):
        rows, columns = _block_shape(rng, h * w // 5, h * w)
        duration = int(rng.integers(1, t + 1))
        if rows > h or columns > w:
            continue
        begin = int(rng.integers(t - duration + 1))
        top, left = int(rng.integers(h - rows + 1)), int(rng.integers(w - columns + 1))
        inside = mask[begin : begin + duration, top : top + rows, left : left + columns]
        fresh = inside.size - int(inside.sum())
        if 0 < fresh <= most:
            inside[:] = True
            return fresh
    return 0


def upsample_mask(mask: Mask, grid: Grid, factor: int) -> Mask:
    """Return a mask on (t, h, w) repeated `factor` times along rows and columns, flat."""
    return mask.reshape(grid).repeat(factor, axis=1).repeat(factor, axis=2).reshape(-1)


def ijepa_block_sizes(
    grid: tuple[int, int], first: float, second: float
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return (rows, columns) of predicted and context blocks from two uniform draws (I-JEPA)."""
    h, w = grid
    predicted = int(h * w * (0.15 + first * 0.05)), 0.75 + first * 0.75
    context = int(h * w * (0.85 + second * 0.15)), 1.0
    shapes = []
    for area, aspect in (predicted, context):
        rows, columns = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        shapes.append((min(rows, h - 1), min(columns, w - 1)))
    return shapes[0], shapes[1]


def ijepa_blocks(
    grid: tuple[int, int],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    rng: np.random.Generator,
    *,
    least: int = 10,
) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """Return four predicted index lists and the context without them, for one image (I-JEPA).

    The released upper bounds are kept: a block never touches the last row or column it could reach.
    After twenty contexts of `least` or fewer patches, one predicted block is allowed to overlap,
    then two, ...
    """
    predicted = [_placed(grid, sizes[0], rng) for _ in range(4)]
    allowed = 0
    while True:
        for _ in range(20):
            context = _placed(grid, sizes[1], rng)
            for block in predicted[: len(predicted) - allowed]:
                context &= ~block
            if context.sum() > least:
                return [np.flatnonzero(block) for block in predicted], np.flatnonzero(context)
        allowed += 1
        if allowed > len(predicted):
            raise ValueError(
                f"ijepa_blocks: no context of more than {least} patches fits a "
                f"{grid[0]}x{grid[1]} grid. "
                "Use a larger grid."
            )


def _placed(grid: tuple[int, int], size: tuple[int, int], rng: np.random.Generator) -> Mask:
    rows, columns = size
    top, left = int(rng.integers(grid[0] - rows)), int(rng.integers(grid[1] - columns))
    block = np.zeros(grid, dtype=np.bool_)
    block[top : top + rows, left : left + columns] = True
    return block.reshape(-1)
