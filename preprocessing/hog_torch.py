"""The torch twin of preprocessing.hog, for batches that live on a device.

It works in float32, where a gradient within rounding of a bin edge may fall on its other side; the
numpy version, which decides such ties exactly, is the reference.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from preprocessing.hog import gaussian_window


def hog_cells_torch(frames: Tensor, cell: int = 8, bins: int = 9, window: int = 0) -> Tensor:
    """Return one gradient histogram per cell and channel.

    Args:
        frames: (B, C, H, W), any type; H and W are multiples of `cell`. uint8 differences are
            exact.

    Returns:
        (B, C, bins, H/cell, W/cell) float32, L2 norm 1 over the bins, all zeros without any
        gradient.
    """
    b, c, h, w = frames.shape
    if h % cell or w % cell:
        raise ValueError(
            f"hog_cells_torch: frame is {h}x{w} px, which does not divide into {cell} px cells. "
            f"Resize or crop both edges to a multiple of {cell}."
        )
    padded = functional.pad(frames.float(), (1, 1, 1, 1), mode="reflect")
    down = padded[:, :, :-2] + 2 * padded[:, :, 1:-1] + padded[:, :, 2:]
    across = padded[..., :-2] + 2 * padded[..., 1:-1] + padded[..., 2:]
    gx, gy = down[..., :-2] - down[..., 2:], across[:, :, :-2] - across[:, :, 2:]
    magnitude = torch.sqrt(gx * gx + gy * gy)
    if window:
        tile = torch.as_tensor(gaussian_window(window), dtype=torch.float32, device=frames.device)
        magnitude = magnitude * tile.repeat(-(-h // window), -(-w // window))[:h, :w]
    oriented = torch.floor(torch.atan2(gx, gy) / math.pi * bins).long() % bins
    rows = torch.arange(h, device=frames.device) // cell
    columns = torch.arange(w, device=frames.device) // cell
    cells = rows[:, None] * (w // cell) + columns
    sums = torch.zeros(b, c, bins * (h // cell) * (w // cell), device=frames.device)
    slots = oriented * ((h // cell) * (w // cell)) + cells
    sums.scatter_add_(2, slots.flatten(2), magnitude.flatten(2))
    return functional.normalize(sums.view(b, c, bins, h // cell, w // cell), dim=2)


def hog_targets_torch(
    frames: Tensor, patch: int = 16, cell: int = 8, bins: int = 9, window: int = 0
) -> Tensor:
    """Return the descriptor of every patch: (B, N, C * bins * k * k), k = patch / cell.

    Patches are in raster order, values in the order channel, bin, cell row, cell column.
    """
    cells = hog_cells_torch(frames, cell, bins, window)
    b, c, _, h, w = cells.shape
    k = patch // cell
    split = cells.view(b, c, bins, h // k, k, w // k, k)
    return split.permute(0, 3, 5, 1, 2, 4, 6).reshape(b, (h // k) * (w // k), -1)
