"""Dense optical flow between frames, and its form for storage: means of cells, in fixed point.

Flow has (x, y) in its last axis, in pixels, and points to where the content lies in the other
frame: `frame[j](q) ~ frame[k](q + flow(q))` for flow from j to k.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

FLOW_STEP = 1 / 64
"Stored vectors are whole multiples of this, in px: at most half of it is lost."
_MIN_EDGE = 16
"DIS refuses frames smaller than its patches at the coarsest scale."

Estimator = Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.float32]]


def _dis(preset: int) -> Callable[[], Estimator]:
    def make() -> Estimator:
        dis = cv2.DISOpticalFlow.create(preset)

        def calc(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
            start = np.zeros((*source.shape, 2), np.float32)
            return np.asarray(dis.calc(source, target, start), dtype=np.float32)

        return calc

    return make


def _farneback() -> Estimator:
    def calc(source: NDArray[np.uint8], target: NDArray[np.uint8]) -> NDArray[np.float32]:
        start = np.zeros((*source.shape, 2), np.float32)
        field = cv2.calcOpticalFlowFarneback(source, target, start, 0.5, 3, 15, 3, 5, 1.2, 0)
        return np.asarray(field, dtype=np.float32)

    return calc


METHODS: dict[str, Callable[[], Estimator]] = {
    "dis_ultrafast": _dis(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST),
    "dis_fast": _dis(cv2.DISOPTICAL_FLOW_PRESET_FAST),
    "dis_medium": _dis(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM),
    "farneback": _farneback,
}

RAFT = ("raft_small", "raft_large")
"Estimators that need weights; see preprocessing.raft."


def dense_flow(
    frames: NDArray[np.uint8],
    *,
    method: str = "dis_medium",
    direction: str = "backward",
    weights: bytes | None = None,
) -> NDArray[np.float32]:
    """Return the flow between neighbouring frames.

    Args:
        frames: (T, H, W, 3) uint8 RGB, or (T, H, W) or (T, H, W, 1) gray; T >= 2, edges of at least
            16 px.
        method: one of `METHODS`, or raft_small or raft_large with RGB frames.
        direction: "backward" is flow(j -> j-1) for j = 1 .. T-1, "forward" flow(j -> j+1) for j = 0
            .. T-2.
        weights: of RAFT: the bytes of torchvision's weight file.

    Returns:
        (T-1, H, W, 2) float32, px.
    """
    if method not in (*METHODS, *RAFT):
        raise ValueError(f"flow.method is {method!r}. Known: {', '.join((*METHODS, *RAFT))}.")
    if direction not in ("backward", "forward"):
        raise ValueError(f"flow.direction is {direction!r}; it must be backward or forward.")
    if len(frames) < 2 or min(frames.shape[1:3]) < _MIN_EDGE:
        raise ValueError(
            f"dense_flow: frames are {frames.shape}. At least 2 frames of {_MIN_EDGE}x{_MIN_EDGE} "
            "px are needed. "
            "Ingest with more frames a clip or a larger short side."
        )
    if method in RAFT:
        return _raft(frames, method, direction, weights)
    estimate = METHODS[method]()
    pairs = list(pairwise(_gray(frames)))
    if direction == "backward":
        pairs = [(later, earlier) for earlier, later in pairs]
    return np.stack([estimate(source, target) for source, target in pairs])


def _raft(
    frames: NDArray[np.uint8], method: str, direction: str, weights: bytes | None
) -> NDArray[np.float32]:
    if not weights or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(
            f"flow.method={method} needs RGB frames and flow.weights=FILE, torchvision's weights. "
            "Give both, or use flow.method=dis_medium."
        )
    from preprocessing.raft import raft_pairs  # torch: only who asks for RAFT loads it

    ends = (frames[1:], frames[:-1]) if direction == "backward" else (frames[:-1], frames[1:])
    return raft_pairs(*ends, method, weights)


def _gray(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if frames.ndim == 3:
        return np.ascontiguousarray(frames)
    if frames.shape[3] == 1:
        return np.ascontiguousarray(frames[..., 0])
    return np.stack([cv2.cvtColor(np.ascontiguousarray(f), cv2.COLOR_RGB2GRAY) for f in frames])


def cell_means(field: NDArray[np.float32], cell: int) -> NDArray[np.float32]:
    """Return the mean of each `cell` px square of (..., H, W, 2); the last may be smaller.

    Returns:
        (..., ceil(H/cell), ceil(W/cell), 2) float32.
    """
    height, width = field.shape[-3:-1]
    rows, columns = np.arange(0, height, cell), np.arange(0, width, cell)
    sums = np.add.reduceat(np.add.reduceat(field, rows, axis=-3), columns, axis=-2)
    counts = np.outer(np.diff(rows, append=height), np.diff(columns, append=width))
    return (sums / counts[..., None].astype(np.float32)).astype(np.float32)


def coarse_flow(flow: NDArray[np.float32], cell: int) -> NDArray[np.float32]:
    """Return the mean flow of each cell, in px: (..., H, W, 2) -> (..., h, w, 2)."""
    if cell < 1:
        raise ValueError(f"flow.cell is {cell}; it must be 1 or more. 8 is usual.")
    return cell_means(flow, cell)


def flow_to_int16(flow: NDArray[np.float32]) -> NDArray[np.int16]:
    """Return flow in steps of 1/64 px: off by at most 1/128 px up to 511.98 px, clipped beyond."""
    steps = np.rint(flow * np.float32(1 / FLOW_STEP))
    return np.asarray(np.clip(steps, -32767, 32767), dtype=np.int16)


def int16_to_flow(stored: NDArray[np.int16]) -> NDArray[np.float32]:
    """Return stored flow in px."""
    return stored.astype(np.float32) * np.float32(FLOW_STEP)
