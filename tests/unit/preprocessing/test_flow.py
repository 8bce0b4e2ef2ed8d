"""Dense flow and codec motion: shapes, directions, storage, errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from preprocessing.flow import METHODS, coarse_flow, dense_flow, flow_to_int16, int16_to_flow
from preprocessing.motion import motion_grid, own_motion


def sliding(step: int) -> NDArray[np.uint8]:
    """Return two frames (2, 64, 64, 3) whose content slides right by `step` px."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    big = cv2.GaussianBlur(noise, (0, 0), 2.0)
    big = cv2.normalize(big, None, 0, 255, cv2.NORM_MINMAX)
    return np.stack([big[:, 8:72], big[:, 8 - step : 72 - step]])


@pytest.mark.parametrize("method", METHODS)
def test_every_method_sees_the_slide(method: str) -> None:
    back = dense_flow(sliding(2), method=method)
    assert back.shape == (1, 64, 64, 2)
    assert back.dtype == np.float32
    inner = back[0, 16:48, 16:48]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1)), (-2, 0), atol=0.35)
    forth = dense_flow(sliding(2), method=method, direction="forward")
    np.testing.assert_allclose(np.median(forth[0, 16:48, 16:48, 0]), 2, atol=0.35)


def test_flow_is_deterministic() -> None:
    np.testing.assert_array_equal(dense_flow(sliding(3)), dense_flow(sliding(3)))


def test_gray_layouts_agree() -> None:
    gray = sliding(1)[..., 0]
    np.testing.assert_array_equal(dense_flow(gray), dense_flow(gray[..., None]))


def test_fixed_point() -> None:
    flow = np.array([0.01, -0.49, 511.9, 600.0, -9999.0], np.float32)
    back = int16_to_flow(flow_to_int16(flow))
    np.testing.assert_allclose(back[:3], flow[:3], atol=1 / 128)
    np.testing.assert_allclose(back[3:], (511.984375, -511.984375))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dense_flow(sliding(1), method="raft"), "flow.method is 'raft'. Known: dis_ultraf"),
        (lambda: dense_flow(sliding(1), direction="both"), "flow.direction is 'both'"),
        (lambda: dense_flow(sliding(1)[:1]), r"frames are \(1, 64, 64, 3\). At least 2 frames"),
        (lambda: coarse_flow(np.zeros((1, 4, 4, 2), np.float32), 0), "flow.cell is 0"),
        (lambda: motion_grid(np.zeros((1, 4, 4, 2), np.float32), 0), "motion.cell is 0"),
    ],
)
def test_errors_name_what_was_seen(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_motion_grid_counts_unknown_as_still() -> None:
    dense = np.full((1, 4, 6, 2), 8.0, np.float32)
    dense[0, :2, :4] = np.nan
    grid = motion_grid(dense, 4)
    assert grid.shape == (1, 1, 2, 2)
    assert grid[0, 0, :, 0].tolist() == [4.0, 8.0]


def test_own_motion_leaves_the_camera_out() -> None:
    motion = np.full((2, 5, 5, 2), 3.0, np.float32)
    motion[1, 2, 2] = (9.0, 3.0)
    own = own_motion(motion)
    assert np.argwhere(own.any(-1)).tolist() == [[1, 2, 2]]
    assert own[1, 2, 2].tolist() == [6.0, 0.0]
