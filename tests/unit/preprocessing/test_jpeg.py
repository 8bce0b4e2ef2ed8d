"""The fast way to decode a plain JPEG gives the pixels of the general one."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from preprocessing.images import decode_rgb
from preprocessing.jpeg import decode_plain, is_plain, view_reduced
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
    assert is_plain(data)
    np.testing.assert_array_equal(decode_plain(data), decode_rgb(data))


def test_other_jpegs_are_left_to_the_general_decoder() -> None:
    data = jpeg(picture(16, 16))
    remarked = data[:20] + b"\xff\xe1\x00\x08Exif\0\0" + data[20:]
    assert not is_plain(jpeg(picture(16, 16)[..., 0]))  # grey
    assert not is_plain(remarked)
    assert not is_plain(b"\xff\xd8\xff\xe1" + data[4:])
    assert not any(is_plain(data[:size]) for size in range(0, 150, 7))


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
