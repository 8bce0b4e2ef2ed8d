"""Rasters as NumPy files: layouts, the picture of an archive, nothing unpickled."""

from __future__ import annotations

import io

import numpy as np
import pytest

from preprocessing.array_files import open_arrays
from preprocessing.errors import DecodeError
from preprocessing.raster_reader import RasterImage, read_whole


def npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def read(data: bytes) -> RasterImage:
    with open_arrays(data) as (reader,):
        return read_whole(reader)


VALUES = np.arange(6 * 8 * 3, dtype=np.float32).reshape(6, 8, 3)


@pytest.mark.parametrize(
    "stored", [VALUES, VALUES.transpose(2, 0, 1), np.asfortranarray(VALUES), VALUES.astype(">f4")]
)
def test_layouts_give_channels_first(stored: np.ndarray) -> None:
    assert np.array_equal(read(npy(stored)).array, VALUES.transpose(2, 0, 1))
    assert read(npy(stored)).array.dtype == np.float32


def test_the_picture_of_an_archive_is_taken_and_named() -> None:
    mask = np.zeros((600, 800), np.uint8)
    image = read(npz(msk=mask, img=VALUES))
    assert image.array.shape == (3, 6, 8) and image.metadata["array"] == "img"
    assert read(npz(a=mask, b=VALUES)).metadata["array"] == "a"


def test_values_that_are_not_finite_are_not_valid() -> None:
    values = VALUES.copy()
    values[0, 0, 0] = np.nan
    assert not read(npy(values)).valid_CHW[0, 0, 0]


BROKEN = {
    "empty_file": b"",
    "unrecognised_format": b"text that is no array",
    "truncated": npy(VALUES)[:-5],
    "decode_error": npy(np.array([[{}, 1]], dtype=object)),
    "shape_mismatch": npy(np.zeros(5)),
    "no_valid_data": npy(np.full((4, 4), np.nan)),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_what_is_no_raster_is_refused(reason: str) -> None:
    with pytest.raises(DecodeError) as caught:
        read(BROKEN[reason])
    assert caught.value.reason_class == reason


def test_a_header_that_promises_too_much_is_refused_before_anything_is_allocated() -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    header = header.ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with pytest.raises(DecodeError) as caught:
        read(data)
    assert caught.value.reason_class == "too_large"


def test_every_cut_of_an_archive_is_refused() -> None:
    data = npz(img=VALUES, msk=VALUES[..., 0])
    for end in range(4, len(data), 7):
        with pytest.raises(DecodeError) as caught:
            read(data[:end])
        assert caught.value.reason_class in ("truncated", "decode_error")
