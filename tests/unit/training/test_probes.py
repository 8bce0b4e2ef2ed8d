"""Probes and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from preprocessing.hog import hog_cells
from training.loop import Batch, Trainer
from training.pictures import draw_sheet, stroke_masks
from training.probes import knn_accuracy, linear_accuracy, probe_named

Features = tuple[torch.Tensor, list[str]]


def blobs(samples: int, spread: float, seed: int) -> Features:
    """Return features around two far centres, a large common offset added."""
    draw = torch.Generator().manual_seed(seed)
    numbers = torch.arange(samples) % 2
    centres = torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]])
    noise = spread * torch.randn(samples, 4, generator=draw)
    return 50 + centres[numbers] + noise, [("dog", "cat")[n] for n in numbers.tolist()]


@pytest.mark.parametrize("probe", [knn_accuracy, linear_accuracy])
def test_probes_read_what_is_there_and_no_more(probe: Callable[..., float]) -> None:
    assert probe(blobs(200, 0.05, 0), blobs(60, 0.05, 1)) == 1.0
    features, labels = blobs(200, 0.05, 0)
    shuffled = [labels[i] for i in torch.randperm(200, generator=torch.Generator().manual_seed(3))]
    assert probe((features, shuffled), blobs(60, 0.05, 1)) < 0.8


def test_leaving_one_out_never_finds_the_sample_itself() -> None:
    features = torch.eye(6)
    assert knn_accuracy((features, ["a", "b", "c", "d", "e", "f"]), None) == 0.0
    assert knn_accuracy(blobs(60, 0.05, 0), None) == 1.0


def test_a_label_that_was_never_taught_is_never_right() -> None:
    taught, (asked, _) = blobs(40, 0.05, 0), blobs(10, 0.05, 1)
    assert knn_accuracy(taught, (asked, ["fish"] * 10)) == 0.0


def test_an_unknown_probe_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'guess' is unknown\. Known: knn, linear"):
        probe_named("guess")


def test_the_sheet_shows_three_rows_of_samples(
    trainer: Callable[[], Trainer], batches: Callable[[int, int], Iterator[Batch]]
) -> None:
    batch = next(batches(0, 1))
    sheet = cv2.imdecode(np.frombuffer(draw_sheet(trainer(), batch), np.uint8), cv2.IMREAD_COLOR)
    height, width = sheet.shape[:2]
    tile = width // 8
    assert height // tile == 3
    tiles = [sheet[row * tile : row * tile + tile - 4, : tile - 4].astype(int) for row in range(3)]
    gray = np.abs(tiles[1] - tiles[1][..., :1]).max(-1) == 0
    assert 0.7 < gray.mean() < 0.8  # 12 of 16 patches are hidden
    shown = ~gray
    assert np.abs(tiles[0] - tiles[1])[shown].max() <= 1
    assert np.abs(tiles[0] - tiles[2])[shown].max() <= 1


@pytest.mark.parametrize("turned", [False, True])
def test_strokes_run_along_the_edge_that_hog_saw(turned: bool) -> None:
    image = np.repeat(np.arange(0, 160, 10, dtype=np.float64)[:, None], 16, axis=1)[..., None]
    image = image.transpose(1, 0, 2) if turned else image  # rising downwards, or to the right
    histogram = hog_cells(image[None], cell=8)[0, 0, 0, 0]
    stroke = stroke_masks(9, 8)[int(histogram.argmax())].numpy()
    rows, columns = (np.ptp(axis) for axis in np.nonzero(stroke))
    assert (rows > columns) == turned
