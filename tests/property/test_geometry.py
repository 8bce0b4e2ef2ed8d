"""Flow and frames under the same view: derive then transform equals transform then derive."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.flow import coarse_flow, dense_flow, flow_to_int16, int16_to_flow
from preprocessing.indices import int16_to_ndi, ndi, ndi_to_int16
from preprocessing.randomness import generator
from preprocessing.views import View, ViewConfig, apply_view, draw_view, view_flow

FAST = settings(max_examples=40, deadline=None)
FEW = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return a smooth random picture with detail at several scales."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 3.0, 8.0):
        noise = cv2.GaussianBlur(rng.random((height, width, 3)).astype(np.float32), (0, 0), sigma)
        picture += (noise - noise.mean()) / noise.std()
    return np.clip(128 + 28 * picture, 0, 255).astype(np.uint8)


def translating(seed: int, dx: float, dy: float, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return three frames whose content moves by (dx, dy) px a frame."""
    h, w = size
    big = texture(seed, h + 64, w + 64)
    frames = []
    for j in range(3):
        matrix = np.array([[1, 0, j * dx], [0, 1, j * dy]], dtype=np.float64)
        moved = cv2.warpAffine(big, matrix, (w + 64, h + 64), flags=cv2.INTER_CUBIC)
        frames.append(moved[32 : 32 + h, 32 : 32 + w])
    return np.stack(frames)


@FEW
@given(
    seed=seeds,
    dx=st.floats(-4, 4),
    dy=st.floats(-4, 4),
    flip=st.booleans(),
    top=st.integers(0, 16),
    left=st.integers(0, 16),
    height=st.integers(72, 96),
    width=st.integers(72, 96),
)
def test_flow_follows_crop_resize_and_flip(
    seed: int, dx: float, dy: float, flip: bool, top: int, left: int, height: int, width: int
) -> None:
    frames = translating(seed, dx, dy, (112, 112))
    view = View(top, left, height, width, 112, flip)
    for direction, sign in (("backward", -1), ("forward", 1)):
        stored = coarse_flow(dense_flow(frames, direction=direction), 8)
        seen = view_flow(stored, 8, view, (14, 14))
        assert seen.shape == (2, 14, 14, 2)
        wanted = np.array([dx * 112 / width * (-1 if flip else 1), dy * 112 / height]) * sign
        # The inner cells; at the border new content comes in and nobody can know.
        inner = seen[:, 3:-3, 3:-3]
        np.testing.assert_allclose(np.median(inner, axis=(0, 1, 2)), wanted, atol=0.25)
        again = coarse_flow(dense_flow(apply_view(frames, view), direction=direction), 8)
        np.testing.assert_allclose(
            np.median(again[:, 3:-3, 3:-3], axis=(0, 1, 2)), wanted, atol=0.35
        )


def test_flow_signs() -> None:
    """Content moves 3 px right and 2 px down: where it came from is left and up."""
    frames = translating(1, 3, 2, (96, 96))
    back, forth = dense_flow(frames), dense_flow(frames, direction="forward")
    assert back.shape == forth.shape == (2, 96, 96, 2)
    np.testing.assert_allclose(np.median(back, axis=(0, 1, 2)), (-3, -2), atol=0.15)
    np.testing.assert_allclose(np.median(forth, axis=(0, 1, 2)), (3, 2), atol=0.15)


@FAST
@given(seed=seeds, top=st.integers(0, 4), left=st.integers(0, 4), flip=st.booleans())
def test_view_on_cell_borders_is_exact(seed: int, top: int, left: int, flip: bool) -> None:
    stored = np.random.default_rng(seed).normal(0, 5, (3, 12, 12, 2)).astype(np.float32)
    view = View(8 * top, 8 * left, 64, 64, 64, flip)
    wanted = stored[:, top : top + 8, left : left + 8]
    if flip:
        wanted = wanted[:, :, ::-1] * np.array([-1, 1], np.float32)
    np.testing.assert_array_equal(view_flow(stored, 8, view, (8, 8)), wanted)
    halves = wanted.reshape(3, 4, 2, 4, 2, 2).mean((2, 4))
    np.testing.assert_allclose(view_flow(stored, 8, view, (4, 4)), halves, atol=1e-5)


@FAST
@given(
    seed=seeds,
    size=st.integers(8, 96),
    top=st.integers(0, 30),
    left=st.integers(0, 30),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    cells=st.integers(1, 24),
    flip=st.booleans(),
)
def test_linear_flow_stays_linear(
    seed: int,
    size: int,
    top: int,
    left: int,
    height: int,
    width: int,
    cells: int,
    flip: bool,
) -> None:
    """A zoom is linear in the place: every view of it must be too, away from the frame's border."""
    a, b = np.random.default_rng(seed).normal(0, 0.1, 2)
    place = np.arange(25) * 4 + 1.5
    stored = np.stack(np.broadcast_arrays(a * place, b * place[:, None]), axis=-1)
    view = View(top, left, height, width, size, flip)
    seen = view_flow(stored.astype(np.float32), 4, view, (cells, cells))
    centre = (np.arange(cells) + 0.5) / cells
    x = left + centre * width - 0.5
    y = top + centre * height - 0.5
    # Partly covered cells enter a mean with their own centre: at most half a cell of error.
    slack = 2.0 + 1e-3
    u = a * x * size / width * (-1 if flip else 1)
    u = u[::-1] if flip else u
    inside_x = (x > 1.5) & (x < 97.5)
    inside_y = (y > 1.5) & (y < 97.5)
    inside_x = inside_x[::-1] if flip else inside_x
    error_x = np.abs(seen[..., 0] - u)[:, inside_x]
    error_y = np.abs(seen[..., 1] - (b * y * size / height)[:, None])[inside_y]
    assert error_x.max(initial=0) <= slack * abs(a) * size / width + 1e-4
    assert error_y.max(initial=0) <= slack * abs(b) * size / height + 1e-4


@FAST
@given(seed=seeds, scale=st.sampled_from([0.01, 1.0, 30.0, 400.0]))
def test_stored_flow_keeps_its_bound(seed: int, scale: float) -> None:
    flow = np.random.default_rng(seed).normal(0, scale, (2, 5, 5, 2)).astype(np.float32)
    flow = np.clip(flow, -511, 511)
    assert np.abs(int16_to_flow(flow_to_int16(flow)) - flow).max() <= 1 / 128 + 1e-4


@FAST
@given(seed=seeds, height=st.integers(1, 40), width=st.integers(1, 40), cell=st.integers(1, 9))
def test_cells_are_means(seed: int, height: int, width: int, cell: int) -> None:
    flow = np.random.default_rng(seed).normal(0, 3, (2, height, width, 2)).astype(np.float32)
    coarse = coarse_flow(flow, cell)
    assert coarse.shape == (2, -(-height // cell), -(-width // cell), 2)
    for row in range(coarse.shape[1]):
        for column in range(coarse.shape[2]):
            box = flow[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
            np.testing.assert_allclose(coarse[:, row, column], box.mean((1, 2)), atol=1e-5)


@pytest.mark.parametrize("kind", ["resized_crop", "multi_scale", "random_crop", "center"])
@FAST
@given(seed=seeds, height=st.integers(1, 300), width=st.integers(1, 300), size=st.integers(1, 224))
def test_views_stay_inside(kind: str, seed: int, height: int, width: int, size: int) -> None:
    config = ViewConfig(kind=kind, size=size)
    view = draw_view(config, height, width, generator(seed, 0, 1, "view"))
    assert 0 <= view.top < view.top + view.height <= height
    assert 0 <= view.left < view.left + view.width <= width
    frame = np.zeros((height, width, 3), np.uint8)
    assert apply_view(frame, view).shape == (size, size, 3)
    assert view == draw_view(config, height, width, generator(seed, 0, 1, "view"))


@FAST
@given(seed=seeds, top=st.integers(0, 20), left=st.integers(0, 20), flip=st.booleans())
def test_indices_follow_crop_and_flip(seed: int, top: int, left: int, flip: bool) -> None:
    tile = np.random.default_rng(seed).integers(0, 12000, (4, 40, 40)).astype(np.uint16)
    bands = ["B03", "B04", "B08", "B11"]
    view = View(top, left, 16, 16, 16, flip)
    whole = apply_view(ndi(tile, bands), view, channels_first=True)
    np.testing.assert_array_equal(whole, ndi(apply_view(tile, view, channels_first=True), bands))
    stored = int16_to_ndi(ndi_to_int16(whole))
    assert np.abs(stored - whole).max() <= 1 / 65534 + 1e-7
