"""Masks that follow what moves: MGMAE's warped volume and MGM's moving box.

Both work on cells, of which a patch has k x k: the maps and the flow have (h * k, w * k) of them.
Flow is in px, and `cell` is the edge of a cell in the same px. With cells of one pixel they are the
papers' own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from preprocessing.mask_random import Grid, Mask, kept, smallest

Field = NDArray[np.float32]
PAD = 2
"Cells of zeros around a map, so that both corners of any outside position read 0."


def mgmae_mask(
    grid: Grid,
    ratio: float,
    rng: np.random.Generator,
    backward: Field,
    forward: Field | None,
    *,
    cell: float,
    base: str = "middle",
    fill: str = "base",
    keep: str = "tubelet",
    released: bool = False,
) -> Mask:
    """Return MGMAE's mask: a random map of one frame, carried along the flow, its peaks kept
    visible.

    Args:
        grid: (t, h, w) tokens.
        backward: (T-1, h*k, w*k, 2) float32, flow(j -> j-1) for j = 1 .. T-1, px. T is a multiple
            of t.
        forward: the same for flow(j -> j+1), j = 0 .. T-2; may be None when base is "first".
        cell: edge of a cell, px.
        base: frame of the random map: "middle" (T // 2), "first" or "random".
        fill: what a hole gets: "base" is the base map at that place, "none" stays 0.
        keep: "tubelet" keeps the best int(h*w*(1-r)) of each tubelet, "clip" as many over the whole
            clip.
        released: repeat the released code, which warps the frames before the base with the wrong
            direction.

    Returns:
        (t * h * w,) bool with t * int(h*w*(1-r)) visible tokens. Without motion it is a tube.

    Source: MGMAE, Huang et al. 2023, arXiv:2308.10794.
    """
    base_map, start = mgmae_start(grid, ratio, rng, backward, base)
    maps = mask_volume(
        base_map,
        start,
        backward,
        backward if released else forward,
        cell=cell,
        fill=fill == "base",
    )
    return select_tokens(maps, grid, ratio, keep=keep)


def mgmae_start(
    grid: Grid, ratio: float, rng: np.random.Generator, backward: Field, base: str = "middle"
) -> tuple[Field, int]:
    """Return MGMAE's random map (h*k, w*k) of one frame, and the number of that frame."""
    _, h, w = grid
    k = cells_per_patch(grid, backward)
    frames = len(backward) + 1
    start = {"first": 0, "middle": frames // 2}.get(base)
    start = int(rng.integers(frames)) if start is None else start
    patches = rng.permutation(h * w)[: h * w - int(ratio * h * w)]
    centres = np.stack(np.divmod(patches, w), axis=1) * k + (k - 1) / 2
    return gaussian_map(centres, (h * k, w * k), k), start


def cells_per_patch(grid: Grid, field: Field) -> int:
    """Return the cells along the edge of a patch.

    Raises:
        ValueError: the cells do not divide evenly into the patches of the grid.
    """
    rows, columns = int(field.shape[-3]), int(field.shape[-2])
    k = rows // grid[1]
    if k < 1 or (rows, columns) != (grid[1] * k, grid[2] * k):
        raise ValueError(
            f"motion mask: flow has {rows}x{columns} cells, the token grid {grid[1]}x{grid[2]} "
            "patches. "
            "Bring the flow to a whole number of cells a patch (preprocessing.views.view_flow)."
        )
    return k


def gaussian_map(
    centres: NDArray[np.float64], shape: tuple[int, int], width: float, *, total: bool = False
) -> Field:
    """Return a map with a peak at each centre, scaled to a maximum of 1.

    Args:
        centres: (n, 2) row and column, in cells.
        shape: rows and columns of the map.
        width: distance at which a peak has fallen to 1/e.
        total: add the peaks; otherwise the highest counts.
    """
    rows = np.exp(-(((np.arange(shape[0]) - centres[:, :1]) / width) ** 2))
    columns = np.exp(-(((np.arange(shape[1]) - centres[:, 1:]) / width) ** 2))
    peaks = rows.T @ columns if total else (rows[:, :, None] * columns[:, None, :]).max(0)
    return np.asarray(peaks / peaks.max(), dtype=np.float32)


def mask_volume(
    base_map: Field,
    base_frame: int,
    backward: Field,
    forward: Field | None,
    *,
    cell: float = 1.0,
    fill: bool = True,
) -> Field:
    """Return the map of every frame: warped outwards from the base frame, always from the last
    result.

    Args:
        base_map: (h', w') float32.
        backward: (T-1, h', w', 2), the flow j -> j-1; `forward` the flow j -> j+1.
        fill: give places that warping left at exactly 0 the value of the base map.

    Returns:
        (T, h', w') float32.
    """
    check_forward(base_frame, forward)
    maps = np.empty((len(backward) + 1, *base_map.shape), dtype=np.float32)
    maps[base_frame] = base_map
    after = warp_steps(backward[base_frame:], cell)
    _propagate(maps, after, range(base_frame + 1, len(maps)), -1, base_map if fill else None)
    if forward is not None and base_frame:
        before = warp_steps(forward[:base_frame][::-1], cell)
        _propagate(maps, before, range(base_frame - 1, -1, -1), 1, base_map if fill else None)
    return maps


def check_forward(base_frame: int, forward: object) -> None:
    """Refuse a base frame that has frames before it, without the flow that leads to them.

    Raises:
        ValueError: the forward flow is missing.
    """
    if base_frame and forward is None:
        raise ValueError(
            f"mgmae mask: base frame {base_frame} needs the forward flow of the frames before it, "
            "which is missing. "
            "Derive flow with direction=both, or use mask.base=first."
        )


Steps = tuple[NDArray[np.intp], NDArray[np.float32]]


def _propagate(maps: Field, steps: Steps, frames: range, source: int, holes: Field | None) -> None:
    """Fill `maps[frame]` by warping `maps[frame + source]`, frame by frame."""
    for step, frame in enumerate(frames):
        warped = warp_map(maps[frame + source], steps[0][step], steps[1][step])
        maps[frame] = warped if holes is None else np.where(warped == 0, holes, warped)


def warp_steps(flow: Field, cell: float = 1.0) -> Steps:
    """Return where each cell reads, for all steps at once.

    Args:
        flow: (S, h', w', 2) px.
        cell: edge of a cell, px.

    Returns:
        Indices (S, 4, h', w') into the padded map and their bilinear weights. The released code
        shortens flow by (N-1)/N for an edge of N px; so do we.
    """
    h, w = flow.shape[1:3]
    x = np.arange(w, dtype=np.float32) + flow[..., 0] * np.float32(
        (w * cell - 1) / (w * cell) / cell
    )
    y = np.arange(h, dtype=np.float32)[:, None] + flow[..., 1] * np.float32(
        (h * cell - 1) / (h * cell) / cell
    )
    left, top = np.floor(x), np.floor(y)
    fx, fy = x - left, y - top
    column = np.clip(left, -PAD, w).astype(np.intp) + PAD
    row = np.clip(top, -PAD, h).astype(np.intp) + PAD
    width = w + 2 * PAD
    first = row * width + column
    index = np.stack([first, first + 1, first + width, first + width + 1], axis=1)
    weights = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], axis=1)
    return index, weights.astype(np.float32)


def warp_map(
    values: Field, index: NDArray[np.intp], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a map (h', w') read at one step of `warp_steps`; 0 outside the frame."""
    padded = np.zeros((values.shape[0] + 2 * PAD, values.shape[1] + 2 * PAD), dtype=np.float32)
    padded[PAD:-PAD, PAD:-PAD] = values
    corners = padded.reshape(-1)[index]
    corners *= weights
    return np.asarray(corners.sum(0), dtype=np.float32)


def select_tokens(maps: Field, grid: Grid, ratio: float, *, keep: str = "tubelet") -> Mask:
    """Return the mask that leaves the tokens with the largest sums of (T, h', w') maps visible."""
    t, h, w = grid
    frames, rows, columns = maps.shape
    if frames % t:
        raise ValueError(
            f"motion mask: {frames} frames do not divide into {t} tubelets. Use a clip length "
            f"that is a multiple of {t}."
        )
    sums = (
        maps.reshape(t, frames // t, h, rows // h, w, columns // w).sum((1, 3, 5)).reshape(t, h * w)
    )
    count = kept(h * w, ratio)
    if keep == "clip":
        return ~smallest(-sums.reshape(-1), t * count)
    return ~smallest(-sums, count).reshape(-1)


def mgm_mask(
    grid: Grid, ratio: float, rng: np.random.Generator, motion: Field, *, cell: float
) -> Mask:
    """Return MGM's mask: one box a tubelet, which starts where motion is strongest and moves with
    it.

    Motion is judged without the camera's (each frame's median vector); the box moves by what it
    covers, weighted by that judgement, camera included.

    Args:
        grid: (t, h, w) tokens.
        motion: (T, h*k, w*k, 2) float32, flow(j -> j-1) in px; frame 0 has none.
        cell: edge of a cell, px.

    Returns:
        (t * h * w,) bool with int(r * h * w) hidden tokens in each tubelet.

    Source: after MGM, Fan et al., ICCV 2023; no code is public, this is methods 2.10.
    """
    t, h, w = grid
    k = cells_per_patch(grid, motion)
    if len(motion) % t:
        raise ValueError(
            f"mgm mask: {len(motion)} frames do not divide into {t} tubelets. Use a multiple of "
            f"{t} frames."
        )
    vectors = motion.reshape(len(motion), h, k, w, k, 2).mean((2, 4)) / (cell * k)
    own = vectors - np.median(vectors, axis=(1, 2), keepdims=True)
    strength = np.hypot(own[..., 0], own[..., 1])
    stretch = float(np.exp(rng.uniform(np.log(0.5), np.log(2.0)))) ** 0.5
    centre = rng.random(2) * (h, w) - 0.5
    return _moving_boxes(grid, int(ratio * h * w), stretch, centre, vectors, strength)


def _moving_boxes(
    grid: Grid,
    hidden: int,
    stretch: float,
    centre: NDArray[np.float64],
    vectors: NDArray[np.float32],
    strength: NDArray[np.float32],
) -> Mask:
    """Return a box of `hidden` patches for each tubelet; `centre` is where it starts if nothing
    moves."""
    t, h, w = grid
    frames = len(vectors) // t
    places = np.moveaxis(np.mgrid[:h, :w], 0, -1).astype(np.float64)
    first = strength[:frames].sum(0)
    if first.any():
        centre = (places * first[..., None]).sum((0, 1)) / first.sum()
    masks = np.empty((t, h * w), dtype=np.bool_)
    for tubelet in range(t):
        away = np.abs(places - centre) * (1 / stretch, stretch)
        masks[tubelet] = smallest(away.max(-1).reshape(-1), hidden)
        box = masks[tubelet].reshape(h, w)
        for frame in range(tubelet * frames + 1, min((tubelet + 1) * frames + 1, len(vectors))):
            weights = strength[frame] * box
            if weights.any():
                step = (vectors[frame] * weights[..., None]).sum((0, 1)) / weights.sum()
                centre = np.clip(centre - step[::-1], 0, (h - 1, w - 1))
    return masks.reshape(-1)
