"""What others offer for the same columns, as their users call it."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import av
import cv2
import numpy as np
import torch
from av.codec.context import Flags2
from numpy.typing import NDArray
from skimage.feature import _hoghistogram, hog
from torch import nn
from torch.nn import functional

from preprocessing.hog import sobel_exact

CELL, BINS = 8, 9


class TorchHog(nn.Module):
    """The layer of the reference recipes, from its description: a Sobel convolution for each
    channel with reflected borders, votes scattered into bins at full size, cells summed, L2."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        kernel = torch.tensor([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        self.channels = channels
        self.register_buffer("across", kernel.expand(channels, 1, 3, 3).contiguous())
        self.register_buffer("down", kernel.T.expand(channels, 1, 3, 3).contiguous())

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (B, C, bins, h, w) of (B, C, H, W) float."""
        x = functional.pad(x, (1, 1, 1, 1), mode="reflect")
        gx, gy = (functional.conv2d(x, k, groups=self.channels) for k in (self.across, self.down))
        strength = torch.stack([gx, gy], dim=-1).norm(dim=-1)
        bins = (torch.atan2(gx, gy) / torch.pi * BINS).floor().long() % BINS
        votes = torch.zeros((*bins.shape[:2], BINS, *bins.shape[2:]))
        votes.scatter_(2, bins[:, :, None], strength[:, :, None])
        cells = votes.unfold(3, CELL, CELL).unfold(4, CELL, CELL).sum((-1, -2))
        return functional.normalize(cells, p=2, dim=2)


def skimage_hog(image: NDArray[np.uint8]) -> NDArray[Any]:
    """Return scikit-image's own HOG of each channel, as its users call it.

    Its gradients are central differences, not Sobel, so its numbers are not these recipes'.
    """
    settings = {"orientations": BINS, "pixels_per_cell": (CELL, CELL), "cells_per_block": (1, 1)}
    return np.stack(
        [hog(image[..., c], block_norm="L2", feature_vector=False, **settings) for c in range(3)]
    )


def skimage_votes(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return scikit-image's histograms of our gradients, L2-normalised: (C, h, w, bins).

    The one part of its HOG that is the same definition; used to check outputs, not for time.
    """
    gx, gy = sobel_exact(image)
    height, width, channels = image.shape
    out = np.zeros((channels, height // CELL, width // CELL, BINS))
    for c in range(channels):
        _hoghistogram.hog_histograms(
            np.ascontiguousarray(gy[..., c]),
            np.ascontiguousarray(gx[..., c]),
            CELL, CELL, width, height, width // CELL, height // CELL, BINS, out[c],
        )  # fmt: skip
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


def bare_dis(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return OpenCV's DIS medium of each frame and the one before, nothing else."""
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    start = np.zeros((*gray[0].shape, 2), np.float32)
    return np.stack([dis.calc(b, a, start.copy()) for a, b in pairwise(gray)])


def decoded_flow(data: bytes) -> NDArray[np.float32]:
    """Return bare DIS of a clip decoded by PyAV: what a script without us would do."""
    with av.open(io.BytesIO(data)) as clip:
        stream = clip.streams.video[0]
        stream.thread_count = 1
        return bare_dis(np.stack([f.to_ndarray(format="rgb24") for f in clip.decode(stream)]))


def plain_motion(data: bytes, cell: int) -> NDArray[np.float64]:
    """Return cell means of the vectors that PyAV exports, painted block by block."""
    fields = []
    with av.open(io.BytesIO(data)) as clip:
        stream = clip.streams.video[0]
        stream.codec_context.flags2 |= Flags2.export_mvs
        stream.thread_count = 1
        for frame in clip.decode(stream):
            field = np.zeros((frame.height, frame.width, 2))
            side = frame.side_data.get("MOTION_VECTORS")
            vectors = [] if side is None else side.to_ndarray().tolist()
            for _, w, h, _, _, x, y, _, mx, my, scale in vectors:
                top, left = max(y - h // 2, 0), max(x - w // 2, 0)
                field[top : y + h // 2, left : x + w // 2] = mx / scale, my / scale
            fields.append(field)
    dense = np.stack(fields)
    t, height, width, _ = dense.shape
    return dense.reshape(t, height // cell, cell, width // cell, cell, 2).mean((2, 4))
