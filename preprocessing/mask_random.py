"""Masks that look at nothing: uniform draws on the token grid, and the patterns that repeat.

A grid is (t, h, w); every function returns bool, True = hidden, in raster order, and hides the same
number of tokens at every draw, with the rounding of the paper's own code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Grid = tuple[int, int, int]
Mask = NDArray[np.bool_]


def kept(tokens: int, ratio: float) -> int:
    """Return how many tokens stay visible by MAE's rounding: int(L * (1 - r)) in float64."""
    return int(tokens * (1 - ratio))


def smallest(values: NDArray[Any], count: int) -> Mask:
    """Return where the `count` smallest values of each row are; ties go to the earlier position."""
    if values.ndim == 1 and 0 < count <= len(values):  # a tenth of the time, without ties
        near: Mask = values <= np.partition(values, count - 1)[count - 1]
        if np.count_nonzero(near) == count:
            return near
    order = np.argsort(values, axis=-1, kind="stable")[..., :count]
    chosen = np.zeros(values.shape, dtype=np.bool_)
    np.put_along_axis(chosen, order, True, axis=-1)
    return chosen


def random_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> Mask:
    """Hide all but int(N * (1 - r)) tokens, uniformly (MAE; "agnostic" in MAE-ST)."""
    tokens = grid[0] * grid[1] * grid[2]
    return ~smallest(rng.random(tokens), kept(tokens, ratio))


def hidden_random_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> Mask:
    """Hide exactly int(r * N) tokens, uniformly (VideoMAE's random masking)."""
    tokens = grid[0] * grid[1] * grid[2]
    return smallest(rng.random(tokens), int(ratio * tokens))


def tube_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> Mask:
    """Hide int(r * h * w) positions, the same ones at all times (VideoMAE)."""
    t, h, w = grid
    return np.tile(smallest(rng.random(h * w), int(ratio * h * w)), t)


def spatial_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> Mask:
    """Keep int(h * w * (1 - r)) positions, the same ones in all groups or frames (SatMAE,
    consistent)."""
    t, h, w = grid
    return np.tile(~smallest(rng.random(h * w), kept(h * w, ratio)), t)


def frame_mask(grid: Grid, ratio: float, rng: np.random.Generator) -> Mask:
    """Keep int(h * w * (1 - r)) positions of every frame, each frame drawn for itself."""
    t, h, w = grid
    return ~smallest(rng.random((t, h * w)), kept(h * w, ratio)).reshape(-1)


def dirichlet_mask(grid: Grid, visible: int, rng: np.random.Generator) -> Mask:
    """Share the visible tokens between modalities by a flat Dirichlet draw (MultiMAE).

    Args:
        grid: (modalities, h, w).
        visible: tokens that stay visible in all; one modality may hold any share of them.
    """
    t, h, w = grid
    shares = np.rint(rng.dirichlet(np.ones(t)) * visible).astype(np.int64)
    ranks = np.argsort(np.argsort(rng.random((t, h * w)), axis=1), axis=1)
    hidden = ranks >= shares[:, None]
    # Sorting hidden + U[0, 1) repairs the rounding of the shares: exactly `visible` stay.
    return ~smallest((hidden + rng.random((t, h * w))).reshape(-1), visible)


def running_cells(grid: Grid, ratio: float, phase: int) -> Mask:
    """Return VideoMAE V2's decoder mask of one phase: True = not decoded.

    Args:
        grid: (t, h, w), h and w even.
        ratio: share of tokens that is not decoded, rounded down to quarters.
        phase: 0 to 3; the released code draws one uniformly for each clip.
    """
    t, h, w = grid
    if h % 2 or w % 2:
        raise ValueError(
            f"running_cells: the grid is {h}x{w} patches; cells are 2x2. Use an even number of "
            "patches."
        )
    queue = np.arange(4) < int(4 * ratio)
    cells = queue[(np.arange(4) + phase + np.arange(t)[:, None] + 1) % 4].reshape(t, 2, 2)
    return np.tile(cells, (1, h // 2, w // 2)).reshape(-1)


def partial_mask(hidden: Mask, ratio: float, decoded: float, rng: np.random.Generator) -> Mask:
    """Return which hidden tokens are predicted: all but int(N * (r - decoded)) of them
    (CrossMAE)."""
    skipped = int(len(hidden) * (ratio - decoded))
    noise = np.where(hidden, rng.random(len(hidden)), 2.0)
    return hidden & ~smallest(noise, skipped)
