"""Views: under which crop, size and mirror a sample is seen, and how pixels and flow follow them.

A view is integers only, so that whoever applies it cuts the same pixels. It is drawn from the shape
of the stored sample, and everything that belongs to the sample (frames, flow, indices) can follow
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

KINDS = ("resized_crop", "multi_scale", "random_crop", "square_crop", "center")
_MULTI_SCALES = (1.0, 0.875, 0.75, 0.66)
AREA_FROM = 1.5
_SNAP = 3
"Multi-scale crop sizes this close to the output size become it, and need no resize."
_QUARTERS = (
    (0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2),
    (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3),
)  # fmt: skip
"The 13 anchors (row, column) of a multi-scale crop, in quarters of the free space."


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewConfig:
    """How views are drawn."""

    kind: str = "resized_crop"
    "resized_crop (MAE), multi_scale (VideoMAE), random_crop (no resize; microscopy), square_crop "
    "(the short side's square anywhere along the long one; SatMAE over time) or center"
    size: int = 224
    "edge of the square output"
    scale: tuple[float, float] = (0.2, 1.0)
    "resized_crop: least and largest share of the stored area"
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    "resized_crop: least and largest width / height"
    flip: bool = True
    "mirror left-right half of the time; never for kind center"

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"view.kind is {self.kind!r}; it must be one of {', '.join(KINDS)}.")
        if self.size < 1:
            raise ValueError(f"view.size is {self.size}; it must be 1 or more. 224 is usual.")
        low, high = self.scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"view.scale is {self.scale}; it must be two shares of the area, 0 < low <= high "
                "<= 1. "
                "(0.2, 1.0) is usual."
            )
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(
                f"view.aspect is {self.aspect}; it must be two ratios, 0 < low <= high. (0.75, "
                "1.333) is usual."
            )


@dataclass(frozen=True, slots=True)
class View:
    """A box of the stored sample, resized to `size` x `size`, then mirrored left-right if
    `flip`."""

    top: int
    left: int
    height: int
    width: int
    size: int
    flip: bool = False


def draw_view(config: ViewConfig, height: int, width: int, rng: np.random.Generator) -> View:
    """Draw the view of a stored sample of `height` x `width` px."""
    if config.kind == "center":
        return center_view(config.size, height, width)
    if config.kind == "resized_crop":
        box = _resized_crop(config, height, width, rng)
    elif config.kind == "multi_scale":
        box = _multi_scale(config.size, height, width, rng)
    else:
        edge = min(height, width)
        edge = edge if config.kind == "square_crop" else min(edge, config.size)
        box = (_offset(height - edge, rng), _offset(width - edge, rng), edge, edge)
    return View(*box, config.size, bool(config.flip and rng.random() < 0.5))


def center_view(size: int, height: int, width: int) -> View:
    """Return the largest centred square, unmirrored: the view of evaluation."""
    edge = min(height, width)
    return View((height - edge) // 2, (width - edge) // 2, edge, edge, size, False)


def interpolated(view: View) -> bool:
    """Say whether `apply_view` shows a view by bilinear interpolation, or as it is."""
    return min(view.height, view.width) < AREA_FROM * view.size


def _offset(free: int, rng: np.random.Generator) -> int:
    return int(rng.integers(free + 1))


def _between(low: float, high: float, rng: np.random.Generator) -> float:
    """Return what `rng.uniform` would, in a tenth of its time."""
    return low + (high - low) * rng.random()


def _resized_crop(
    config: ViewConfig, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) by the sampler without a rejection loop (methods 5.6)."""
    area = _between(*config.scale, rng) * height * width
    aspect = math.exp(_between(math.log(config.aspect[0]), math.log(config.aspect[1]), rng))
    box_w = min(max(round(math.sqrt(area * aspect)), 1), width)
    box_h = min(max(round(math.sqrt(area / aspect)), 1), height)
    return _offset(height - box_h, rng), _offset(width - box_w, rng), box_h, box_w


def _multi_scale(
    size: int, height: int, width: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Return (top, left, height, width): mixed neighbouring scales, 13 anchors (VideoMAE)."""
    short = min(height, width)
    edges = [int(short * scale) or 1 for scale in _MULTI_SCALES]
    edges = [size if abs(edge - size) < _SNAP and size <= short else edge for edge in edges]
    pairs = [(i, j) for i in range(4) for j in range(4) if abs(i - j) <= 1]
    i, j = pairs[int(rng.integers(len(pairs)))]
    box_h, box_w = edges[i], edges[j]
    row, column = _QUARTERS[int(rng.integers(len(_QUARTERS)))]
    # The anchors sit on whole quarter steps, as in the released code: floor before multiplying.
    top, left = row * ((height - box_h) // 4), column * ((width - box_w) // 4)
    return top, left, box_h, box_w


def apply_view(
    array: NDArray[Any],
    view: View,
    *,
    channels_first: bool = False,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Return what the view shows, in the layout and dtype that came in.

    The box is cut exactly. A box of the output size is not resampled; one half again as large in
    both edges, or larger, is reduced by area means; any other by bilinear interpolation, which
    takes a seventh of the time and still sees every pixel. Integer types are rounded to nearest.

    Args:
        array: (H, W), (H, W, C) or (T, H, W, C); with `channels_first` (C, H, W). uint8, uint16,
            int16 or float.
        view: a view of the stored height and width.
        out: (size, size, C) of the dtype of `array`, for a picture (H, W, C) of 2 to 4 channels:
            written over, which spares fresh memory for each picture.

    Returns:
        The same axes with H = W = `view.size`; contiguous, never a view of `array`.
    """
    _check_inside(
        array.shape[-2:] if channels_first or array.ndim == 2 else array.shape[-3:-1], view
    )
    rows, columns = (
        slice(view.top, view.top + view.height),
        slice(view.left, view.left + view.width),
    )
    if channels_first:
        planes = [_resize(plane[rows, columns], view) for plane in array]
        return np.stack(planes)
    if array.ndim == 4:
        return np.stack([_resize(frame[rows, columns], view) for frame in array])
    return _resize(array[rows, columns], view, out)


def _check_inside(shape: tuple[int, ...], view: View) -> None:
    height, width = shape
    if (
        view.top < 0
        or view.left < 0
        or view.top + view.height > height
        or view.left + view.width > width
    ):
        raise ValueError(
            f"apply_view: {view} leaves the stored {height}x{width} px. "
            "Draw the view with the height and width of this sample."
        )


def _resize(image: NDArray[Any], view: View, out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return a cut box (H, W) or (H, W, C) at the output size, mirrored if asked."""
    height, width = image.shape[:2]
    if (height, width) != (view.size, view.size):
        area = min(height, width) >= AREA_FROM * view.size
        image = _scaled(image, view.size, cv2.INTER_AREA if area else cv2.INTER_LINEAR, out)
    elif not view.flip:
        return image.copy()
    return _mirrored(image, out) if view.flip else image


def _mirrored(image: NDArray[Any], out: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return (H, W) or (H, W, C) mirrored left-right; OpenCV takes a fortieth of numpy's time."""
    if (
        image.dtype.kind not in "uif"
        or image.dtype.itemsize not in (1, 2, 4)
        or image.dtype == "f2"
    ):
        return np.ascontiguousarray(image[:, ::-1])
    return np.asarray(cv2.flip(np.ascontiguousarray(image), 1, dst=out)).reshape(image.shape)


def _scaled(
    image: NDArray[Any], size: int, rule: int, out: NDArray[Any] | None = None
) -> NDArray[Any]:
    if image.ndim == 2 or 1 < image.shape[2] <= 4:
        return np.asarray(cv2.resize(image, (size, size), dst=out, interpolation=rule))
    image = np.ascontiguousarray(image)
    parts = [  # cv2 reduces at most four channels at once
        cv2.resize(
            np.ascontiguousarray(image[:, :, begin : begin + 4]), (size, size), interpolation=rule
        )
        for begin in range(0, image.shape[2], 4)
    ]
    return np.concatenate([part.reshape(size, size, -1) for part in parts], axis=2)


def flip_flow(flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the flow (..., H, W, 2) of the frames mirrored left-right: mirrored, x negated."""
    return flow[..., ::-1, :] * np.array([-1, 1], dtype=np.float32)


def view_flow(
    flow: NDArray[np.float32], cell: int, view: View, out_grid: tuple[int, int]
) -> NDArray[np.float32]:
    """Return the flow between the viewed frames, on a grid of cells of the view.

    Along each axis an output cell at least as large as a stored one takes the mean of what it
    covers (exact when both grids share their borders); a smaller one interpolates linearly. Vectors
    are scaled with the frames.

    Args:
        flow: (..., h, w, 2) float, stored px, (x, y); cell (i, j) covers `cell` px squares from the
            frame's corner.
        cell: edge of a stored cell, stored px.
        view: the view of the frames.
        out_grid: rows and columns of the result; they cut the view into equal cells.

    Returns:
        (..., *out_grid, 2) float32, in px of the view.
    """
    rows = resampling(view.top, view.height, cell, flow.shape[-3], out_grid[0])
    columns = resampling(view.left, view.width, cell, flow.shape[-2], out_grid[1])
    scale = np.array([view.size / view.width, view.size / view.height], dtype=np.float32)
    moved = np.moveaxis(flow.astype(np.float32, copy=False), -1, 0)
    seen = (np.moveaxis(rows @ moved @ columns.T, 0, -1) * scale).astype(np.float32, copy=False)
    return np.ascontiguousarray(flip_flow(seen) if view.flip else seen)


def resampling(begin: int, length: int, cell: int, cells: int, out: int) -> NDArray[np.float32]:
    """Return the (out, cells) weights of stored cells in each cell of the view; rows sum to 1."""
    edges = (begin + np.arange(out + 1) * (length / out)) / cell
    index = np.arange(cells)
    if length / out >= cell:
        overlap = np.minimum(edges[1:, None], index + 1) - np.maximum(edges[:-1, None], index)
        weights = np.maximum(overlap, 0)
    else:
        centre = np.clip((edges[1:] + edges[:-1]) / 2 - 0.5, 0, cells - 1)
        weights = np.maximum(1 - np.abs(centre[:, None] - index), 0)
    return np.asarray(weights / weights.sum(1, keepdims=True), dtype=np.float32)
