"""The fast way to decode a plain JPEG gives the pixels of the general one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from preprocessing.images import decode_rgb
from preprocessing.jpeg import decode_plain, plain_frame, view_reduced
from preprocessing.jpeg_region import compiled, decode_region, decode_view
from preprocessing.views import View, apply_view, interpolated
from tests.unit.preprocessing.compilers import COMPILER, has_avx2

SAMPLING = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


def picture(height: int, width: int) -> np.ndarray:
    noise = np.random.default_rng(height * width).integers(0, 255, (height, width, 3), np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 1.5)


def jpeg(pixels: np.ndarray, *parameters: int) -> bytes:
    return cv2.imencode(".jpg", pixels, parameters)[1].tobytes()


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("progressive", [0, 1])
@pytest.mark.parametrize("size", [(1, 1), (17, 33), (64, 48), (101, 250)])
def test_pixels_are_those_of_the_general_decoder(
    sampling: str, progressive: int, size: tuple[int, int]
) -> None:
    factors = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling])
    data = jpeg(picture(*size), *factors, cv2.IMWRITE_JPEG_PROGRESSIVE, progressive)
    frame = plain_frame(data)
    assert frame is not None
    assert (frame.height, frame.width) == size
    np.testing.assert_array_equal(decode_plain(data), decode_rgb(data))


def test_other_jpegs_are_left_to_the_general_decoder() -> None:
    data = jpeg(picture(16, 16))
    remarked = data[:20] + b"\xff\xe1\x00\x08Exif\0\0" + data[20:]
    assert not plain_frame(jpeg(picture(16, 16)[..., 0]))  # grey
    assert not plain_frame(remarked)
    assert not plain_frame(b"\xff\xd8\xff\xe1" + data[4:])
    assert not any(plain_frame(data[:size]) for size in range(0, 150, 7))


def test_damage_is_left_to_the_general_decoder() -> None:
    data = jpeg(picture(64, 64))
    assert decode_plain(data[:4] + b"\xff" * 200) is None


@pytest.mark.parametrize(("times", "edge"), [(2, 70), (4, 140), (8, 280)])
def test_a_large_box_is_decoded_small_and_looks_the_same(times: int, edge: int) -> None:
    pixels = cv2.GaussianBlur(picture(640, 480), (0, 0), 5 * times)
    pixels = cv2.normalize(pixels, pixels, 0, 255, cv2.NORM_MINMAX)
    data = jpeg(pixels, cv2.IMWRITE_JPEG_QUALITY, 95)
    view = View(101, 77, edge, edge + 3, 32, True)
    seen = view_reduced(data, view)
    assert seen is not None
    assert edge // 32 >= times
    error = np.abs(seen.astype(float) - apply_view(decode_rgb(data), view)).mean()
    assert error < 3  # half a pixel of the reduced picture, where an edge is 10 of them wide
    assert view_reduced(data, View(0, 0, 63, 200, 32)) is None
    corner = View(640 - edge, 480 - edge, edge, edge, 32)
    assert view_reduced(data, corner).shape == (32, 32, 3)  # type: ignore[union-attr]  # large


@pytest.mark.parametrize("sampling", ["444", "422", "420"])
@pytest.mark.parametrize("restart", [0, 3])
@pytest.mark.parametrize("own_codes", [0, 1])
def test_a_box_has_the_pixels_of_the_whole_picture(
    sampling: str, restart: int, own_codes: int
) -> None:
    rng = np.random.default_rng(len(sampling) + restart)
    factors = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling])
    coded = (cv2.IMWRITE_JPEG_RST_INTERVAL, restart, cv2.IMWRITE_JPEG_OPTIMIZE, own_codes)
    for _ in range(40):
        height, width = int(rng.integers(1, 120)), int(rng.integers(8, 120))
        noise = rng.integers(0, 255, (height, width, 3), np.uint8)
        quality = (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(5, 101)))
        data = jpeg(
            noise if rng.random() < 0.5 else picture(height, width), *factors, *coded, *quality
        )
        whole = decode_rgb(data)
        for _ in range(4):
            box = random_box(rng, height, width)
            region = decode_region(data, box)
            planes = np.empty((3, box.size, box.size), np.uint8)
            shown = decode_view(data, box, planes)
            if not compiled():
                assert region is None and not shown
                continue
            there = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
            np.testing.assert_array_equal(region, whole[there])
            assert shown or max(box.height, box.width) > box.size
            if shown and interpolated(box):
                np.testing.assert_array_equal(planes.transpose(1, 2, 0), apply_view(whole, box))


def random_box(rng: np.random.Generator, height: int, width: int) -> View:
    h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    size = int(rng.choice([8, 31, 32, 64, 96, 224]))
    return View(top, left, h, w, size, bool(rng.random() < 0.5))


@pytest.mark.skipif(not (COMPILER and has_avx2()), reason="no C compiler, or no AVX2, is here")
def test_where_it_can_be_compiled_a_view_is_decoded_alone() -> None:
    """Whole pictures would give the same batches, at two thirds of the speed, and nobody saw it."""
    view, planes = View(3, 4, 20, 20, 32), np.empty((3, 32, 32), np.uint8)
    assert decode_view(jpeg(picture(40, 50)), view, planes), "run 'make setup'"


def test_what_has_no_region_is_decoded_whole() -> None:
    box = View(3, 4, 20, 20, 32)
    data = jpeg(picture(40, 50))
    assert decode_region(jpeg(picture(40, 50)[..., 0]), box) is None  # grey
    assert decode_region(jpeg(picture(40, 50), cv2.IMWRITE_JPEG_PROGRESSIVE, 1), box) is None
    assert decode_region(data, View(3, 4, 38, 20, 32)) is None  # below the picture
    assert decode_region(data[: len(data) // 4], View(0, 0, 40, 50, 32)) is None  # cut short
    for sampling in ("440", "411"):
        factors = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling])
        assert decode_region(jpeg(picture(40, 50), *factors), box) is None


@pytest.mark.skipif(not compiled(), reason="without a C compiler pictures are decoded whole")
def test_damage_changes_no_other_memory_and_ends() -> None:
    """Where damage is not met the pixels may differ: checksums are what finds it."""
    rng = np.random.default_rng(3)
    factors = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING["420"], cv2.IMWRITE_JPEG_RST_INTERVAL, 5)
    data = np.frombuffer(jpeg(picture(90, 70), *factors), np.uint8)
    memory = np.full((5, 32, 32), 77, np.uint8)
    refused = 0
    for _ in range(2000):
        damaged = data.copy()
        places = rng.integers(0, len(data), 3)
        damaged[places] = rng.choice([0, 255, 7, 200], 3)
        cut = damaged[: rng.integers(1, len(data) + 1)] if rng.random() < 0.3 else damaged
        box = random_box(rng, 90, 70)
        view = View(box.top, box.left, box.height, box.width, 32, box.flip)
        refused += not decode_view(cut.tobytes(), view, memory[1:4])
        assert (memory[[0, 4]] == 77).all()
    assert 100 < refused < 1900
