"""Pictures of reports: colours mean what they say, masks lie where tokens are."""

from __future__ import annotations

import numpy as np
import pytest

from flows import report_pictures as pictures


def test_flow_colours_are_directions_and_rest_is_white() -> None:
    flow = np.array([[[0.0, 0.0], [2.0, 0.0], [-2.0, 0.0], [0.0, 2.0], [0.0, -2.0]]])
    rest, right, left, down, up = pictures.flow_to_rgb(flow, full=2.0)[0].tolist()
    assert rest == [255, 255, 255]
    assert right == [255, 0, 0] and left == [0, 255, 255]
    assert down == [128, 255, 0] and up == [128, 0, 255]
    half = pictures.flow_to_rgb(np.array([1.0, 0.0]), full=2.0)
    assert half.tolist() == [255, 128, 128]


def test_colours_of_a_still_clip_do_not_amplify_noise() -> None:
    assert pictures.full_flow(np.full((4, 4, 2), 1e-3)) == 1.0


def test_flow_over_shows_the_frame_where_nothing_moves() -> None:
    frame = np.zeros((32, 32, 3), np.uint8)
    frame[:, 16:] = 255
    flow = np.zeros((4, 4, 2), np.float32)
    shown = pictures.flow_over(frame, flow)
    assert shown.shape == (32, 32, 3)
    assert len(np.unique(shown)) == 2 and shown[0, 20, 0] > shown[0, 3, 0]
    flow[:, :, 0] = 5
    assert (pictures.flow_over(frame, flow)[..., 0] > 200).all()


@pytest.mark.parametrize(("horizontal", "axis"), [(True, 1), (False, 0)])
def test_hog_glyphs_run_along_the_edges(horizontal: bool, axis: int) -> None:
    from preprocessing.hog import hog_cells

    image = np.zeros((16, 16, 1), np.uint8)
    if horizontal:
        image[4:] = 200
    else:
        image[:, 4:] = 200
    cells = hog_cells(image[None], 8)[0]
    glyph = pictures.hog_glyphs(cells[:1, :1], edge=32)
    assert glyph.shape == (32, 32, 3)
    bright = glyph[..., 0] > 128
    spans = [np.ptp(np.nonzero(bright)[a]) for a in (0, 1)]
    assert spans[axis] > 2 * spans[1 - axis]


def test_hog_cells_of_tokens_are_the_cells_that_targets_were_made_of() -> None:
    from preprocessing.hog import hog_cells, hog_targets

    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    targets = hog_targets(image, patch=16, cell=8, bins=9)
    cells = pictures.hog_cells_of_tokens(targets, (2, 3), channels=3, bins=9)
    assert np.array_equal(cells, hog_cells(image[None], 8, 9)[0])


def test_overlay_mask_darkens_masked_tokens_only() -> None:
    frames = np.full((4, 8, 12, 3), 200, np.uint8)
    mask = np.zeros((2, 2, 3), bool)
    mask[1, 0, 2] = True
    shown = pictures.overlay_mask(frames, mask)
    inside = shown[:, 1:4, 9:12]
    assert (inside[:2] == 200).all() and (inside[2:] < 110).all()
    assert (shown[2:, 5:8, 9:12] == 200).all()
    assert (frames == 200).all()


def test_overlay_mask_refuses_another_grid() -> None:
    frames, mask = np.zeros((4, 10, 12, 3), np.uint8), np.zeros((2, 4, 3), bool)
    with pytest.raises(ValueError, match=r"\(2, 4, 3\) tokens does not divide .* \(4, 10, 12\)"):
        pictures.overlay_mask(frames, mask)


def test_diverging_is_brown_white_green() -> None:
    brown, white, green = pictures.diverging(np.array([[-1.0, 0.0, 1.0]]))[0].tolist()
    assert brown == [84, 48, 5] and white == [245, 245, 245] and green == [0, 60, 48]
    assert pictures.diverging(np.array([[np.nan, 9.0]]))[0].tolist() == [white, green]


def test_fields_and_tiles_become_rgb() -> None:
    rng = np.random.default_rng(0)
    field = rng.integers(0, 65535, (5, 16, 20), dtype=np.uint16)
    assert pictures.stained(field).shape == (16, 20, 3)
    named = pictures.stained(np.stack([np.zeros((8, 8)), np.eye(8)]), ["AGP", "DNA"])
    assert named[0, 0, 2] > named[0, 0, 0], "DNA is blue wherever it stands"
    tile = np.zeros((4, 8, 8), np.uint16)
    tile[3, :, 4:] = 3000
    tile[:3, :, 4:] = 500
    red = pictures.true_colour(tile, ["B02", "B03", "B08", "B04"])
    assert (red[:, :4] == 0).all(), "nodata stays black"
    assert (red[:, 4:, 0] > red[:, 4:, 1]).all(), "B04 is red wherever it stands"


def test_a_strip_centres_pictures_between_clear_gaps() -> None:
    small, large = np.full((2, 2, 3), 9, np.uint8), np.full((4, 6, 4), 7, np.uint8)
    row = pictures.strip([large, small, large], gap=1)
    assert row.shape == (4, 20, 4)
    assert (row[1:3, 9:11] == [9, 9, 9, 255]).all()
    assert (row[:, :6] == 7).all() and (row[:, 14:] == 7).all()
    assert (row[:, 6:9] == 0).all() and (row[0][7:13] == 0).all() and (row[:, 13] == 0).all()
    assert pictures.strip(np.zeros((3, 4, 5, 3), np.uint8), gap=2).shape == (4, 19, 4)
    with pytest.raises(ValueError, match="no pictures"):
        pictures.strip([])


def test_fitted_keeps_the_aspect() -> None:
    assert pictures.fitted(np.zeros((10, 20, 3), np.uint8), 60).shape == (30, 60, 3)
    assert pictures.fitted(np.zeros((300, 100, 3), np.uint8), 60).shape == (60, 20, 3)
