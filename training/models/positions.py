"""Position tables of the papers: same purpose, different channel layouts. All are float32 (N, D).

Channel layouts are not interchangeable: a checkpoint fits only the table it was trained with.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from preprocessing.vit import sinusoid as sinusoid


def sincos_1d(width: int, positions: ArrayLike) -> NDArray[np.float64]:
    """Return (n, width): half sines, then half cosines, of each position."""
    rates = 1.0 / 10000.0 ** (np.arange(width // 2, dtype=np.float64) / (width / 2.0))
    angles = np.asarray(positions, dtype=np.float64).reshape(-1, 1) * rates
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_2d(width: int, height: int, breadth: int, *, cls: bool = False) -> Tensor:
    """Return MAE's table: the first half of the channels encodes the COLUMN, the second the row.

    Args:
        width: values a token, a multiple of 4.
        height: rows of the grid; `breadth` its columns.
        cls: put a row of zeros first.
    """
    return _as_table(_grid_2d(width, height, breadth), cls)


def sincos_3d(width: int, frames: int, height: int, breadth: int, *, cls: bool = False) -> Tensor:
    """Return SlowFast's table: the first quarter encodes time, the rest is MAE's 2-D table."""
    time = np.repeat(sincos_1d(width // 4, np.arange(frames)), height * breadth, axis=0)
    space = np.tile(_grid_2d(width - width // 4, height, breadth), (frames, 1))
    return _as_table(np.concatenate([time, space], axis=1), cls)


def sincos_microscopy(
    width: int, height: int, breadth: int, *, repeats: int = 1, cls: bool = False
) -> Tensor:
    """Return the microscopy table: sin and cos of the ROW, then of the column; repeated per
    channel.
    """
    rates = 1.0 / 10000.0 ** (np.arange(width // 4, dtype=np.float32) / (width // 4))
    rates = rates.astype(np.float32)
    rows = np.repeat(np.arange(height, dtype=np.float32), breadth)[:, None] * rates
    columns = np.tile(np.arange(breadth, dtype=np.float32), height)[:, None] * rates
    parts = [np.sin(rows), np.cos(rows), np.sin(columns), np.cos(columns)]
    return _as_table(np.tile(np.concatenate(parts, axis=1), (repeats, 1)), cls)


def sincos_groups(width: int, groups: int) -> Tensor:
    """Return SatMAE's band group table: the 1-D table over the group number, not the wavelength."""
    return _as_table(sincos_1d(width, np.arange(groups)), False)


def resize_table(table: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Return a (1, [1+]N, D) table on another grid: bicubic, a leading class row copied."""
    extra = table.shape[1] - old[0] * old[1]
    grid = table[:, extra:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    grid = functional.interpolate(grid, size=new, mode="bicubic", align_corners=False)
    return torch.cat([table[:, :extra], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def _grid_2d(width: int, height: int, breadth: int) -> NDArray[np.float64]:
    columns = sincos_1d(width // 2, np.tile(np.arange(breadth), height))
    rows = sincos_1d(width // 2, np.repeat(np.arange(height), breadth))
    return np.concatenate([columns, rows], axis=1)


def _as_table(values: NDArray[np.floating], cls: bool) -> Tensor:
    return torch.from_numpy(np.pad(values, ((int(cls), 0), (0, 0))).astype(np.float32))
