"""HOG: orders, pictures with a known answer, errors."""

from __future__ import annotations

import time

import numpy as np
import pytest

from preprocessing.hog import hog_cells, hog_targets
from preprocessing.hog_torch import hog_cells_torch

RNG = np.random.default_rng(0)


def test_edges_fall_into_their_bins() -> None:
    """A vertical edge has gy = 0: angle pi/2, bin 4. A horizontal one has gx = 0: bin 0."""
    columns = np.zeros((1, 8, 8, 1), np.uint8)
    columns[:, :, 4:] = 200
    assert hog_cells(columns)[0, 0, 0, 0].tolist() == [0, 0, 0, 0, 1, 0, 0, 0, 0]
    rows = columns.transpose(0, 2, 1, 3)
    assert hog_cells(rows)[0, 0, 0, 0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_flat_cells_are_zero() -> None:
    flat = np.full((2, 16, 16, 3), 77, np.uint8)
    assert not hog_cells(flat).any()
    assert not hog_cells(flat.astype(np.float32)).any()


def test_targets_order() -> None:
    """Values of a patch are (channel, bin, cell row, cell column)."""
    image = RNG.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    targets = hog_targets(image, 16, 8, 9).reshape(2, 3, 3, 9, 2, 2)
    cells = hog_cells(image[None], 8, 9)[0]
    np.testing.assert_array_equal(targets[1, 2, :, :, 1, 0], cells[3, 4])


def test_frames_are_independent() -> None:
    frames = RNG.integers(0, 256, (3, 24, 16, 3), dtype=np.uint8)
    whole = hog_cells(frames)
    np.testing.assert_array_equal(whole[1], hog_cells(frames[1:2])[0])
    assert hog_cells(frames[:0]).shape == (0, 3, 2, 3, 9)


def test_layout_in_memory_does_not_matter() -> None:
    frames = RNG.integers(0, 256, (1, 24, 16, 3), dtype=np.uint8)
    awkward = np.asfortranarray(frames)
    np.testing.assert_array_equal(hog_cells(awkward), hog_cells(frames))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hog_cells(np.zeros((1, 20, 16, 3), np.uint8)), "frame is 20x16 px"),
        (lambda: hog_cells(np.zeros((1, 16, 16, 3), np.uint8), bins=0), "hog.bins is 0"),
        (lambda: hog_targets(np.zeros((16, 16, 3), np.uint8), 16, 5), "patch of 16 px"),
        (lambda: hog_targets(np.zeros((24, 16, 3), np.uint8), 16, 8), "3x2 cells do not divide"),
        (lambda: hog_cells(np.zeros((1, 16, 16, 3), np.uint8), window=1), "hog.window is 1"),
    ],
)
def test_errors_name_what_was_seen(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]


def test_torch_twin_refuses_the_same() -> None:
    import torch

    with pytest.raises(ValueError, match="frame is 20x16 px"):
        hog_cells_torch(torch.zeros(1, 3, 20, 16))


def test_it_is_fast_enough() -> None:
    """Hundreds of 224 px images a second are expected; a tenth of that is already a fault."""
    image = RNG.integers(0, 256, (1, 224, 224, 3), dtype=np.uint8)
    hog_cells(image)
    start = time.process_time()
    for _ in range(10):
        hog_cells(image)
    assert (time.process_time() - start) / 10 < 0.03
