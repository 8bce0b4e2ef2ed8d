"""The fast way to decode a plain JPEG gives the pixels of the general one."""

from __future__ import annotations

from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from preprocessing.images import decode_rgb
from preprocessing.jpeg import decode_plain, plain_frame, view_reduced
from preprocessing.jpeg_region import decode_region
from preprocessing.views import View, apply_view

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


@pytest.mark.parametrize("sampling", SAMPLING)
@pytest.mark.parametrize("restart", [0, 3])
def test_a_box_has_the_pixels_of_the_whole_picture(sampling: str, restart: int) -> None:
    rng = np.random.default_rng(len(sampling) + restart)
    factors = (cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling])
    decoded = 0
    for _ in range(60):
        height, width = (int(edge) for edge in rng.integers(1, 120, 2))
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        data = jpeg(pixels, *factors, cv2.IMWRITE_JPEG_RST_INTERVAL, restart)
        whole = decode_rgb(data)
        for _ in range(4):
            box = random_box(rng, height, width)
            region = decode_region(data, box)
            if region is not None:
                decoded += 1
                there = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
                np.testing.assert_array_equal(region, whole[there])
    assert decoded == (240 if has_turbojpeg() else 0)


def random_box(rng: np.random.Generator, height: int, width: int) -> View:
    h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
    top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
    return View(top, left, h, w, 32)


def has_turbojpeg() -> bool:
    return find_spec("turbojpeg") is not None


def test_what_has_no_region_is_decoded_whole() -> None:
    box = View(3, 4, 20, 20, 32)
    data = jpeg(picture(40, 50))
    assert decode_region(jpeg(picture(40, 50)[..., 0]), box) is None  # grey
    assert decode_region(jpeg(picture(40, 50), cv2.IMWRITE_JPEG_PROGRESSIVE, 1), box) is None
    assert decode_region(data, View(3, 4, 38, 20, 32)) is None  # below the picture
    assert decode_region(data[: len(data) // 4], View(0, 0, 40, 50, 32)) is None  # cut short
