"""Laws of HOG: what does not change it, how flips move it, and that its two roads are one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing import hog
from preprocessing.hog import hog_cells, hog_targets, hog_to_uint8, uint8_to_hog
from preprocessing.hog_torch import hog_cells_torch

FAST = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**32 - 1)


def frames(seed: int, rows: int, columns: int, channels: int, levels: int = 256) -> NDArray[Any]:
    """Return one random uint8 frame (1, H, W, C); few levels make many ties."""
    shape = (1, rows, columns, channels)
    return np.random.default_rng(seed).integers(0, levels, shape, dtype=np.uint8)


def by_the_book(frame: NDArray[Any], cell: int, bins: int) -> NDArray[np.float64]:
    """Return the histograms of (H, W) pixel by pixel, as methods 3.2 writes it."""
    h, w = frame.shape
    padded = np.pad(frame.astype(float), 1, mode="reflect")
    out = np.zeros((h // cell, w // cell, bins))
    for y in range(h):
        for x in range(w):
            box = padded[y : y + 3, x : x + 3]
            gx = box[:, 0] @ (1, 2, 1) - box[:, 2] @ (1, 2, 1)
            gy = box[0] @ (1, 2, 1) - box[2] @ (1, 2, 1)
            b = math.floor(math.atan2(gx, gy) / math.pi * bins) % bins
            out[y // cell, x // cell, b] += math.hypot(gx, gy)
    return out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)


@FAST
@given(seed=seeds, bins=st.sampled_from([4, 8, 9, 12, 18]), levels=st.sampled_from([2, 4, 256]))
def test_both_roads_are_the_definition(seed: int, bins: int, levels: int) -> None:
    frame = frames(seed, 16, 8, 1, levels)
    wanted = by_the_book(frame[0, :, :, 0], 4, bins)
    for kind in (np.uint8, np.uint16, np.float32, np.float64):
        found = hog_cells(frame.astype(kind), 4, bins)[0, :, :, 0]
        np.testing.assert_allclose(found, wanted, atol=1e-6)


@FAST
@given(
    seed=seeds,
    rows=st.integers(1, 6),
    columns=st.integers(1, 40),
    channels=st.sampled_from([1, 3, 13]),
    cell=st.sampled_from([2, 4, 7, 8]),
    window=st.sampled_from([0, 16]),
)
def test_fast_road_equals_exact_road(
    seed: int, rows: int, columns: int, channels: int, cell: int, window: int
) -> None:
    frame = frames(seed, rows * cell, columns * cell, channels)
    found = hog_cells(frame, cell, 9, window)
    np.testing.assert_allclose(found, hog_cells(frame.astype(float), cell, 9, window), atol=1e-6)
    norms = np.linalg.norm(found, axis=-1)
    assert (np.isclose(norms, 1, atol=1e-5) | (norms == 0)).all()


@FAST
@given(
    seed=seeds,
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    channels=st.sampled_from([1, 2, 3, 13]),
    cell=st.sampled_from([2, 3, 7, 8, 16]),
    bins=st.sampled_from([1, 2, 4, 5, 9, 12, 18, 24, 30]),
    window=st.sampled_from([0, 16]),
    levels=st.sampled_from([2, 4, 256]),
)
def test_compiled_and_table_give_the_same_bytes(
    seed: int,
    rows: int,
    columns: int,
    channels: int,
    cell: int,
    bins: int,
    window: int,
    levels: int,
) -> None:
    frame = frames(seed, rows * cell, columns * cell, channels, levels)
    pytest.importorskip("numba")
    found = hog_cells(frame, cell, bins, window)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hog, "_kernel", lambda: None)  # as where there is no numba
        np.testing.assert_array_equal(found, hog_cells(frame, cell, bins, window))


@pytest.mark.parametrize("bins", [2, 3, 4, 8, 9, 12, 18, 24])
def test_edges_sort_every_pair_of_differences_as_the_definition(bins: int) -> None:
    kernel = pytest.importorskip("preprocessing.hog_kernel")
    steps = np.arange(-1020, 1021, dtype=np.float32)
    dx, dy = (grid.ravel() for grid in np.meshgrid(steps, steps, indexing="ij"))
    x, y, size, none = np.empty_like(dx), np.empty_like(dx), np.empty_like(dx), np.zeros_like(dx)
    slot = np.empty(len(dx), np.int32)
    kernel._turned(dy, none, dx, none, none, x, y, size)
    kernel._slots(x, y, kernel._edges(bins), np.zeros_like(slot), slot)
    wanted = hog.oriented_exact(dx.astype(np.float64), dy.astype(np.float64), bins)[0]
    np.testing.assert_array_equal(slot[size > 0], wanted[size > 0])


@FAST
@given(seed=seeds, gain=st.floats(0.1, 50), offset=st.floats(-100, 100))
def test_brightness_and_contrast_do_not_matter(seed: int, gain: float, offset: float) -> None:
    frame = np.random.default_rng(seed).random((1, 16, 16, 3))
    found = hog_cells(frame * gain + offset)
    off = np.abs(found - hog_cells(frame)) > 1e-5
    # On the first and last columns gx is 0: rounding turns such angles, which are bin edges.
    assert off[:, :, 1:-1].mean() <= 5e-3 if found.shape[2] > 2 else True
    exact = hog_cells((frame * 40).astype(np.uint8) * np.uint8(2))
    np.testing.assert_allclose(exact, hog_cells((frame * 40).astype(np.uint8)), atol=1e-6)
    shifted = hog_cells((frame * 40).astype(np.uint8) + np.uint8(31))
    np.testing.assert_allclose(shifted, hog_cells((frame * 40).astype(np.uint8)), atol=1e-6)


@FAST
@given(seed=seeds, axis=st.sampled_from([1, 2]))
def test_flip_mirrors_cells_and_bins(seed: int, axis: int) -> None:
    """Bin b becomes 8 - b, but in the outermost columns, where gx is exactly 0 and bin 0 stays."""
    frame = np.random.default_rng(seed).random((1, 32, 48, 2))
    flipped = hog_cells(np.flip(frame, axis))
    wanted = np.flip(hog_cells(frame), axis)[..., ::-1]
    inner = (slice(None), slice(None), slice(1, -1))
    np.testing.assert_allclose(flipped[inner], wanted[inner], atol=1e-6)


@FAST
@given(seed=seeds)
def test_half_turn_leaves_bins(seed: int) -> None:
    frame = frames(seed, 24, 24, 3)
    turned = hog_cells(np.ascontiguousarray(frame[:, ::-1, ::-1]))
    np.testing.assert_allclose(turned, hog_cells(frame)[:, ::-1, ::-1], atol=1e-6)


@FAST
@given(seed=seeds, top=st.integers(0, 3), left=st.integers(0, 3))
def test_aligned_crops_keep_inner_cells(seed: int, top: int, left: int) -> None:
    frame = frames(seed, 64, 64, 3)
    crop = frame[:, 8 * top : 8 * top + 40, 8 * left : 8 * left + 40]
    whole = hog_cells(frame)[:, top : top + 5, left : left + 5]
    np.testing.assert_array_equal(hog_cells(crop)[:, 1:-1, 1:-1], whole[:, 1:-1, 1:-1])


@FAST
@given(seed=seeds, channels=st.integers(1, 4))
def test_torch_twin(seed: int, channels: int) -> None:
    frame = frames(seed, 32, 48, channels)
    twin = hog_cells_torch(torch.from_numpy(frame).permute(0, 3, 1, 2)).permute(0, 3, 4, 1, 2)
    off = np.abs(twin.numpy() - hog_cells(frame)) > 1e-5
    assert off.mean() <= 5e-4


@FAST
@given(seed=seeds)
def test_stored_hog_keeps_its_bound(seed: int) -> None:
    target = hog_targets(frames(seed, 32, 32, 3)[0])
    assert np.abs(uint8_to_hog(hog_to_uint8(target)) - target).max() <= 1 / 510 + 1e-7
