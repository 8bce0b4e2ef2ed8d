"""Views on a device are OpenCV's to one grey level."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from preprocessing.views import View, apply_view
from preprocessing.views_torch import apply_view_torch
from tests.unit.preprocessing.devices import DEVICES

MOST, MEAN = 1, 0.2
"Grey levels: the most of any pixel, and the mean of a picture."


def frames(count: int, height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(height)
    return rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 90, 120),  # means, other factors along each axis
        (3, 7, 80, 61),
        (3, 7, 40, 61),  # between pixels
        (5, 0, 32, 32),  # not resampled
        (1, 2, 9, 20),  # enlarged
        (89, 119, 1, 1),
    ],
)
@pytest.mark.parametrize("count", [1, 3])
def test_views_are_those_of_opencv(device: str, flip: bool, box: tuple, count: int) -> None:
    stored, view = frames(count, 90, 120), View(*box, size=32, flip=flip)
    wanted = apply_view(stored, view).astype(int)
    moved = torch.from_numpy(stored).permute(0, 3, 1, 2).to(device)
    seen = apply_view_torch(moved, view)
    assert seen.dtype == torch.uint8
    assert seen.device.type == device
    away = np.abs(seen.cpu().permute(0, 2, 3, 1).numpy() - wanted)
    assert away.max() <= MOST
    assert away.mean() <= MEAN
