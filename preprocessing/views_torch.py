"""The torch twin of `views.apply_view`: crop, resize and mirror on the device of the frames.

Results lie within one grey level of OpenCV's, whose arithmetic is of whole numbers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from preprocessing.views import AREA_FROM, View, resampling


def apply_view_torch(frames: Tensor, view: View) -> Tensor:
    """Return what the view shows of all frames.

    Args:
        frames: (T, C, H, W) uint8.

    Returns:
        (T, C, size, size) uint8.
    """
    from kornia.geometry.transform import crop_by_indices, hflip  # takes a second to import

    size = view.size
    if min(view.height, view.width) >= AREA_FROM * size:
        seen = _means(frames, view)
    else:
        left, top = view.left, view.top
        right, bottom = left + view.width - 1, top + view.height - 1
        corners = [[left, top], [right, top], [right, bottom], [left, bottom]]
        box = torch.tensor([corners] * len(frames), dtype=torch.float32)
        # Linear between pixel centres, of the box alone: what OpenCV does.
        seen = crop_by_indices(frames.float(), box, (size, size), align_corners=False)
    if view.flip:
        seen = hflip(seen)
    return seen.round().clamp(0, 255).to(torch.uint8)


def _means(frames: Tensor, view: View) -> Tensor:
    """Return area means of the box, which kornia has only for whole pixels."""
    height, width = frames.shape[-2:]
    rows = _weights(view.top, view.height, height, view.size).to(frames.device)
    columns = _weights(view.left, view.width, width, view.size).to(frames.device)
    return rows @ frames.float() @ columns.T


def _weights(begin: int, length: int, pixels: int, size: int) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(resampling(begin, length, 1, pixels, size)))
