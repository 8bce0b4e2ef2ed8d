"""Pictures of reports: arrays in, RGB arrays out. No file, no store.

Every function returns uint8 and leaves its arguments alone. Pictures are (H, W, 3) RGB, or
(H, W, 4) where a part is transparent, so that they stand well on a light and on a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"(H, W, 3) RGB or (H, W, 4) RGB and opacity."

STAINS = (
    (0.25, 0.45, 1.0),
    (0.2, 0.95, 0.45),
    (1.0, 0.85, 0.2),
    (1.0, 0.4, 0.25),
    (0.95, 0.35, 0.95),
)
"Colours of the channels of a microscopy field, in their order, where no name says better."
STAIN_NAMES = {"dna": 0, "dapi": 0, "hoechst": 0, "er": 1, "gfp": 1, "rna": 2, "agp": 3, "mito": 4}
"Which of them people expect of a stain."
DIVERGING = ((84, 48, 5), (191, 129, 45), (245, 245, 245), (53, 151, 143), (0, 60, 48))
"Brown below the middle, white in it, green above."
TRUE_COLOUR = ("B04", "B03", "B02")


def flow_to_rgb(flow: NDArray[np.floating], full: float | None = None) -> Picture:
    """Return flow as colours: the hue is the direction, white is rest, `full` px is full colour.

    Args:
        flow: (..., 2), x and y in pixels.
        full: length in pixels that gets full colour; by default the 98th percentile, at least 1.

    Returns:
        (..., 3) uint8. Motion to the right is red, down yellow-green, left cyan, up violet.
    """
    length = np.hypot(flow[..., 0], flow[..., 1])
    strength = np.clip(length / (full or full_flow(flow)), 0, 1)[..., None]
    hue = np.arctan2(flow[..., 1], flow[..., 0])[..., None] / (2 * math.pi) * 6
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return _to_uint8(1 - strength * (1 - wheel))


def full_flow(flow: NDArray[np.floating]) -> float:
    """Return a length in px that few vectors pass, at least 1: the scale of a clip's colours."""
    return max(1.0, float(np.percentile(np.hypot(flow[..., 0], flow[..., 1]), 98)))


def flow_wheel(edge: int = 72) -> Picture:
    """Return the key of `flow_to_rgb`: a disc, each place in the colour of motion towards it."""
    y, x = np.mgrid[-1 : 1 : edge * 1j, -1 : 1 : edge * 1j]
    disc = flow_to_rgb(np.stack([x, y], -1), 1.0)
    inside = np.clip((1 - np.hypot(x, y)) * edge / 2, 0, 1)
    return np.concatenate([disc, _to_uint8(inside)[..., None]], axis=2)


def flow_over(frame: Picture, flow: NDArray[np.floating], full: float | None = None) -> Picture:
    """Lay flow in colours over a grey frame; where nothing moves the frame shows through.

    Args:
        frame: (H, W, 3).
        flow: (h, w, 2) on any grid of the frame, in any unit that `full` is in.
    """
    h, w, _ = frame.shape
    full = full or full_flow(flow)
    field = cv2.resize(np.asarray(flow, np.float32), (w, h), interpolation=cv2.INTER_LINEAR)
    share = np.clip(np.hypot(field[..., 0], field[..., 1]) / full, 0, 1)[..., None] ** 0.7
    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)[..., None]
    paper = 0.2 + 0.75 * stretched(grey)
    return _to_uint8(paper * (1 - 0.9 * share) + flow_to_rgb(field, full) / 255 * 0.9 * share)


def hog_glyphs(cells: NDArray[np.floating], edge: int = 16) -> Picture:
    """Return a glyph a cell: strokes along the edges that its histogram found, brighter for more.

    Args:
        cells: (h, w, bins) or (h, w, C, bins), 0 to 1; of several channels the strongest is drawn.
            Bin k holds gradients (gx, gy) with atan2(gx, gy) in [k, k + 1) * pi / bins.
        edge: size of a glyph in pixels.

    Returns:
        (h * edge, w * edge, 3) uint8, light on dark.
    """
    if cells.ndim == 4:
        cells = cells.max(axis=2)
    h, w, bins = cells.shape
    strokes = np.stack([_stroke((k + 0.5) * math.pi / bins, edge) for k in range(bins)])
    drawn = np.einsum("hwb,bij->hiwj", np.clip(cells, 0, 1) ** 1.5, strokes)
    light = np.clip(drawn.reshape(h * edge, w * edge, 1) * 1.6, 0, 1)
    return _to_uint8(
        light * np.array([0.98, 0.93, 0.8]) + (1 - light) * np.array([0.06, 0.08, 0.1])
    )


def _stroke(angle: float, edge: int) -> NDArray[np.float64]:
    """Return (edge, edge): a line through the middle, across the gradient (sin, cos) of angle."""
    canvas = np.zeros((edge * 4, edge * 4), np.uint8)
    middle, reach = edge * 2, edge * 1.75
    dx, dy = math.cos(angle) * reach, -math.sin(angle) * reach
    start, end = (int(middle - dx), int(middle - dy)), (int(middle + dx), int(middle + dy))
    cv2.line(canvas, start, end, 255, max(2, edge // 4), cv2.LINE_AA)
    return cv2.resize(canvas, (edge, edge), interpolation=cv2.INTER_AREA) / 255.0


def hog_cells_of_tokens(
    targets: NDArray[np.floating], grid: tuple[int, int], channels: int, bins: int
) -> NDArray[np.floating]:
    """Lay the HOG targets of one frame's tokens out as cells.

    Args:
        targets: (h * w, channels * bins * k * k), in the order channel, bin, cell row, column.
        grid: h and w.

    Returns:
        (h * k, w * k, channels, bins).
    """
    h, w = grid
    k = math.isqrt(targets.shape[-1] // (channels * bins))
    cells = targets.reshape(h, w, channels, bins, k, k).transpose(0, 4, 1, 5, 2, 3)
    return cells.reshape(h * k, w * k, channels, bins)


def overlay_mask(
    frames: NDArray[np.uint8], mask: NDArray[np.bool_], dim: float = 0.32
) -> NDArray[np.uint8]:
    """Darken the masked tokens of each frame and leave the visible ones as they are.

    Args:
        frames: (T, H, W, 3).
        mask: (t, h, w), True = masked; t divides T, h and w divide H and W.
        dim: brightness that masked tokens keep.

    Returns:
        (T, H, W, 3) uint8.
    """
    covers = [n // m for n, m in zip(frames.shape[:3], mask.shape, strict=True)]
    if any(n != m * c for n, m, c in zip(frames.shape[:3], mask.shape, covers, strict=True)):
        raise ValueError(
            f"overlay_mask: a mask of {mask.shape} tokens does not divide frames of "
            f"{frames.shape[:3]}. Crop the frames to the view that was masked."
        )
    hidden = mask
    for axis, cover in enumerate(covers):
        hidden = hidden.repeat(cover, axis)
    veil = np.array([38, 44, 58]) * (1 - dim) * 0.6
    shown = np.where(hidden[..., None], frames * dim + veil, frames)
    shown[:, :: covers[1]] *= 0.86
    shown[:, :, :: covers[2]] *= 0.86
    return np.rint(shown).astype(np.uint8)


def diverging(values: NDArray[np.floating], reach: float = 1.0) -> Picture:
    """Return (H, W) values as colours: brown at -reach, white at 0, green at +reach."""
    place = (np.clip(np.nan_to_num(values) / reach, -1, 1) + 1) / 2 * (len(DIVERGING) - 1)
    steps = np.arange(len(DIVERGING))
    colours = np.asarray(DIVERGING, float)
    return np.stack([np.interp(place, steps, c) for c in colours.T], -1).round().astype(np.uint8)


def borders_over(picture: Picture, regions: NDArray[np.integer]) -> Picture:
    """Draw the borders between (H, W) regions over a (H, W, 3) picture."""
    down = np.diff(regions, axis=0, append=regions[-1:]) != 0
    right = np.diff(regions, axis=1, append=regions[:, -1:]) != 0
    return np.where((down | right)[..., None], np.array([255, 220, 60], np.uint8), picture)


def code_colours(codes: NDArray[np.integer]) -> Picture:
    """Return (h, w) codes as colours: the same code has the same one, neighbours differ."""
    hue = codes[..., None] * 0.618034 % 1 * 6
    wheel = np.clip(np.abs((hue + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    light = 0.55 + 0.4 * (codes[..., None] * 0.754878 % 1)
    return _to_uint8(light * (0.35 + 0.65 * wheel))


def feature_colours(tokens: NDArray[np.float64]) -> Picture:
    """Return (N, D) tokens as (N, 3) colours: their three main directions, each stretched."""
    centred = tokens - tokens.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    places = centred @ directions[:3].T
    low, high = np.percentile(places, (2, 98), axis=0)
    return _to_uint8((places - low) / np.maximum(high - low, 1e-9))


def stretched(values: NDArray[np.generic], low: float = 1, high: float = 99) -> NDArray[np.float64]:
    """Scale values to 0 to 1 between two percentiles of what is finite; the rest is clipped."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    bottom, top = np.percentile(finite, (low, high)) if finite.size else (0.0, 1.0)
    return np.clip((np.nan_to_num(values.astype(float)) - bottom) / max(top - bottom, 1e-9), 0, 1)


def stained(field: NDArray[np.generic], channels: Sequence[str] = ()) -> Picture:
    """Return the (C, H, W) channels of a field as lights of one colour each, added.

    Known names (DNA, DAPI, ER …) get the colour people expect, others one by their place.
    """
    dark = np.ones((*field.shape[1:], 3))
    for i, plane in enumerate(field):
        name = channels[i].lower() if i < len(channels) else ""
        colour = STAINS[STAIN_NAMES.get(name, i % len(STAINS))]
        dark *= 1 - 0.85 * stretched(plane, 5, 99.7)[..., None] ** 2 * np.asarray(colour)
    return _to_uint8(1 - dark)


def true_colour(tile: NDArray[np.generic], bands: Sequence[str]) -> Picture:
    """Return (C, H, W) bands of a satellite tile in true colour; nodata (0) stays black.

    The bands are found by name (B04, B03, B02); without these names the first three are taken.
    """
    named = [list(bands).index(name) for name in TRUE_COLOUR if name in bands]
    ids = named if len(named) == 3 else [i % len(tile) for i in range(3)]
    rgb = tile[ids].astype(float).transpose(1, 2, 0)
    valid = (rgb > 0).all(-1)
    low, high = np.percentile(rgb[valid], (1, 99)) if valid.any() else (0.0, 1.0)
    shown = 0.08 + 0.92 * ((rgb - low) / max(high - low, 1e-9)).clip(0, 1)
    return _to_uint8(shown * valid[..., None])


def fitted(picture: Picture, edge: int) -> Picture:
    """Scale a picture so that its longer edge is `edge` px; small ones grow in sharp squares."""
    h, w = picture.shape[:2]
    scale = edge / max(h, w)
    how = cv2.INTER_NEAREST if scale >= 2 else cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=how), np.uint8)


def strip(frames: Sequence[Picture] | NDArray[np.uint8], gap: int = 4) -> Picture:
    """Lay pictures out in one row, each in the middle of a cell as large as the largest, between
    transparent gaps: (H, T * W + gaps, 4).

    Raises:
        ValueError: no pictures.
    """
    if not len(frames):
        raise ValueError("strip: no pictures. Give at least one.")
    h, w = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    row = np.zeros((h, len(frames) * (w + gap) - gap, 4), np.uint8)
    for i, frame in enumerate(frames):
        fh, fw, channels = frame.shape
        top, left = (h - fh) // 2, i * (w + gap) + (w - fw) // 2
        cell = row[top : top + fh, left : left + fw]
        cell[..., 3] = 255
        cell[..., :channels] = frame
    return row


def _to_uint8(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    return np.rint(np.clip(share, 0, 1) * 255).astype(np.uint8)
