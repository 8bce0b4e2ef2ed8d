"""The torch twin of `mask_motion.mask_volume`, for all clips of a batch at once, on any device.

Each number is made by the same single operations in the same order as in the numpy version, none of
which is a sum whose order a library may choose. So a CPU, a GPU and numpy give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from preprocessing.mask_motion import PAD, check_forward, mgmae_start, select_tokens
from preprocessing.mask_random import Grid, Mask
from preprocessing.masks import MaskConfig, Moving, make_mask, mgmae_fields, visible_count


def make_masks(
    config: MaskConfig,
    grid: Grid,
    generators: Iterable[np.random.Generator],
    seen: Sequence[Mapping[str, Any]],
    *,
    cell: float,
    device: torch.device,
) -> list[Mask]:
    """Return what `make_mask` gives each sample of a batch, bit for bit.

    MGMAE's maps are warped for all clips at once, on the device; what else there is, is drawn.

    Args:
        generators: of each sample, taken one after another and not kept.
        seen: of each sample, the fields of motion that `make_mask` takes.
    """
    if config.kind != "mgmae":
        each = zip(generators, seen, strict=True)
        return [make_mask(config, grid, rng, cell=cell, **known) for rng, known in each]
    visible_count(config, grid)
    fields = [mgmae_fields(config, Moving(cell, **known)) for known in seen]
    starts = [
        mgmae_start(grid, config.ratio, rng, backward, config.base)
        for rng, (backward, _) in zip(generators, fields, strict=True)
    ]
    masks: dict[int, Mask] = {}
    for frame in sorted({frame for _, frame in starts}):
        chosen = [i for i, start in enumerate(starts) if start[1] == frame]
        backward = _together([fields[i][0] for i in chosen], device)
        ahead = [fields[i][0 if config.released else 1] for i in chosen]
        volumes = mask_volumes(
            _together([starts[i][0] for i in chosen], device),
            frame,
            backward,
            None if ahead[0] is None else _together(ahead, device),
            cell=cell,
            fill=config.fill == "base",
        )
        # Sums may be added in another order on another device, so they are left to numpy.
        for i, maps in zip(chosen, volumes.cpu().numpy(), strict=True):
            masks[i] = select_tokens(maps, grid, config.ratio, keep=config.keep)
    return [masks[i] for i in range(len(starts))]


def _together(arrays: Sequence[Any], device: torch.device) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)


def mask_volumes(
    base_maps: Tensor,
    base_frame: int,
    backward: Tensor,
    forward: Tensor | None,
    *,
    cell: float = 1.0,
    fill: bool = True,
) -> Tensor:
    """Return the maps of every frame of every clip: each warped outwards from the base frame.

    Args:
        base_maps: (B, h', w') float32.
        base_frame: of all clips of the batch.
        backward: (B, T-1, h', w', 2) float32, the flow j -> j-1, px; `forward` the flow j -> j+1,
            which may be None where the base frame is the first.
        cell: edge of a cell, px.
        fill: give places that warping left at exactly 0 the value of the base map.

    Returns:
        (B, T, h', w') float32.
    """
    check_forward(base_frame, forward)
    count = backward.shape[1] + 1
    maps = base_maps.new_empty(len(base_maps), count, *base_maps.shape[1:])
    maps[:, base_frame] = base_maps
    ways = [(backward[:, base_frame:], range(base_frame + 1, count), -1)]
    if forward is not None:
        ways.append((forward[:, :base_frame].flip(1), range(base_frame - 1, -1, -1), 1))
    for flow, frames, source in ways:
        index, weights = _steps(flow, cell)
        for step, frame in enumerate(frames):
            warped = _warp(maps[:, frame + source], index[:, step], weights[:, step])
            maps[:, frame] = torch.where(warped == 0, base_maps, warped) if fill else warped
    return maps


def _steps(flow: Tensor, cell: float) -> tuple[Tensor, Tensor]:
    """Return `warp_steps` of every clip: where each cell reads, and how much of it.

    Args:
        flow: (B, S, h', w', 2) px.

    Returns:
        Indices (B, S, 4, h' * w') into the padded map and their bilinear weights.
    """
    h, w = flow.shape[2:4]
    x, y = _places(flow[..., 0], w, cell), _places(flow[..., 1].mT, h, cell).mT
    left, top = torch.floor(x), torch.floor(y)
    fx, fy = x - left, y - top
    width = w + 2 * PAD
    first = (top.clamp(-PAD, h).long() + PAD) * width + left.clamp(-PAD, w).long() + PAD
    index = torch.stack([first, first + 1, first + width, first + width + 1], 2)
    weights = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 2)
    return index.flatten(3), weights.flatten(3)


def _warp(maps: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Return (B, h', w') maps read at one step of `_steps`; 0 outside the frame."""
    padded = functional.pad(maps, (PAD,) * 4).flatten(1)
    corners = padded.gather(1, index.flatten(1)).view_as(index) * weights
    total = corners[:, 0]
    for corner in range(1, 4):
        total = total + corners[:, corner]
    return total.view_as(maps)


def _places(flow: Tensor, cells: int, cell: float) -> Tensor:
    """Return where along an axis, the last one, each cell reads, in cells."""
    # Rounded to float32 first, as in the numpy version.
    shorter = float(np.float32((cells * cell - 1) / (cells * cell) / cell))
    return torch.arange(cells, dtype=torch.float32, device=flow.device) + flow * shorter
