"""Views: what is drawn, what is cut, how it is resized and mirrored."""

from __future__ import annotations

import numpy as np
import pytest

from preprocessing.randomness import generator
from preprocessing.views import View, ViewConfig, apply_view, center_view, draw_view, view_flow

RNG = np.random.default_rng(0)


def test_a_box_of_the_output_size_is_cut_exactly() -> None:
    frame = RNG.integers(0, 65536, (20, 30, 3), dtype=np.uint16)
    seen = apply_view(frame, View(3, 5, 8, 8, 8))
    np.testing.assert_array_equal(seen, frame[3:11, 5:13])
    assert seen.dtype == np.uint16
    assert seen.flags.c_contiguous
    assert not np.shares_memory(seen, frame)


def test_a_flip_mirrors_columns() -> None:
    frame = RNG.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(apply_view(frame, View(0, 0, 8, 8, 8, True)), frame[:, ::-1])


def test_reduction_takes_area_means() -> None:
    frame = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    seen = apply_view(frame, View(0, 0, 16, 16, 4)).astype(float)
    means = frame.reshape(4, 4, 4, 4, 3).mean((1, 3))
    assert np.abs(seen - means).max() <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_layouts_agree(dtype: type) -> None:
    clip = RNG.integers(0, 255, (2, 40, 30, 13)).astype(dtype)
    for view in (View(2, 1, 30, 25, 16, True), View(2, 1, 10, 9, 16), View(0, 0, 16, 16, 16, True)):
        whole = apply_view(clip, view)
        assert whole.shape == (2, 16, 16, 13)
        assert whole.dtype == dtype
        np.testing.assert_array_equal(whole[1], apply_view(clip[1], view))
        planes = apply_view(clip[1].transpose(2, 0, 1), view, channels_first=True)
        np.testing.assert_array_equal(planes.transpose(1, 2, 0), whole[1])
        np.testing.assert_array_equal(apply_view(clip[1, :, :, 4], view), whole[1, :, :, 4])


def test_a_view_of_another_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves the stored 10x10 px"):
        apply_view(np.zeros((10, 10, 3), np.uint8), View(4, 0, 8, 8, 8))


def test_center_is_the_largest_square() -> None:
    assert center_view(32, 40, 60) == View(0, 10, 40, 40, 32)
    assert draw_view(ViewConfig(kind="center", size=32), 40, 60, RNG) == View(0, 10, 40, 40, 32)


def test_random_crop_keeps_the_scale_of_pixels() -> None:
    config = ViewConfig(kind="random_crop", size=16)
    views = [draw_view(config, 40, 60, generator(0, 0, i, "view")) for i in range(200)]
    assert {(v.height, v.width) for v in views} == {(16, 16)}
    assert min(v.top for v in views) == 0
    assert max(v.left for v in views) > 40
    assert 60 < sum(v.flip for v in views) < 140


def test_resized_crop_keeps_to_scale_and_aspect() -> None:
    config = ViewConfig(size=32, scale=(0.3, 0.6), aspect=(0.8, 1.25), flip=False)
    for i in range(200):
        view = draw_view(config, 200, 200, generator(0, 0, i, "view"))
        assert 0.29 <= view.height * view.width / 200**2 <= 0.61
        assert 0.78 <= view.width / view.height <= 1.28
        assert not view.flip


def test_multi_scale_has_few_edges_and_anchors() -> None:
    config = ViewConfig(kind="multi_scale", size=224, flip=False)
    views = [draw_view(config, 256, 340, generator(0, 0, i, "view")) for i in range(600)]
    edges = {v.height for v in views} | {v.width for v in views}
    assert edges == {256, 224, 192, 168}
    full = {(v.top, v.left) for v in views if v.height == v.width == 224}
    assert full <= {(8 * r, 29 * c) for r in range(5) for c in range(5)}
    assert len(full) == 13


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "crop"}, r"view\.kind is 'crop'; it must be one of resized_crop"),
        ({"size": 0}, r"view\.size is 0"),
        ({"scale": (0.5, 0.2)}, r"view\.scale is \(0\.5, 0\.2\)"),
        ({"aspect": (0, 1)}, r"view\.aspect is \(0, 1\)"),
    ],
)
def test_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViewConfig(**settings)  # type: ignore[arg-type]


def test_flow_is_scaled_with_the_frames() -> None:
    flow = np.ones((1, 4, 4, 2), np.float32)
    seen = view_flow(flow, 8, View(0, 0, 32, 16, 64, True), (4, 4))
    np.testing.assert_allclose(seen[..., 0], -4)
    np.testing.assert_allclose(seen[..., 1], 2)
