"""Pictures of reconstructions: where the tiles are, what they show, and along what strokes run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
import torch

from preprocessing.hog import hog_cells
from training.assemble import make_trainer
from training.loop import Batch, Trainer
from training.pictures import draw_sheet, stroke_masks
from training.ranks import Place
from training.recipe import read_recipe


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


def test_hog_is_drawn_where_only_some_frames_are_predicted() -> None:
    words = ["view.size=32", "model.patch=16", "target=[{kind: hog, cell: 8}]"]
    about = {"shape": [3, 16, 32, 32], "stats": {}, "widths": {"hog": 3 * 9 * 4}}
    place = Place(0, 1, torch.device("cpu"))
    trainer = make_trainer(read_recipe("mae_st_tiny", words), about, place)
    ids = torch.arange(8 * 4).expand(2, -1)
    pixels = torch.randint(0, 256, (2, 3, 16, 32, 32), dtype=torch.uint8)
    data = draw_sheet(trainer, {"pixels": pixels, "visible": ids[:, :4], "decoded": ids[:, 4:]})
    sheet = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    tile = 96 + 4
    assert sheet.shape[1] == 8 * tile  # eight of the sixteen frames
    first, second = (sheet[row * tile : row * tile + 96, tile : tile + 96] for row in (1, 2))
    assert (first != second).any(-1).mean() > 0.05  # strokes on the gray of the second row
