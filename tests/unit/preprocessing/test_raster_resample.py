"""Coarse bands on a fine grid: windows equal the whole; the rule of validity, pixel by pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.raster_grid import merge_readers
from preprocessing.raster_reader import Box, RasterImage, RasterReader, Window, reader_of
from preprocessing.raster_resample import axis_taps, resampled


def band(array: NDArray[np.generic], valid: NDArray[np.bool_] | None = None) -> RasterReader:
    """Return one band of 1200 m, read as a file is: what was not asked for is not given."""
    height, width = array.shape
    known = np.ones(array.shape, np.bool_) if valid is None else valid
    image = RasterImage(
        array[None], known[None], None, (1200 / width, 1200 / height), {}, "EPSG:32633",
        (0.0, 0.0, 1200.0, 1200.0),
    )  # fmt: skip
    return reader_of(image)


def random_band(height: int, width: int, dtype: str, seed: int, holes: float = 0.0) -> RasterReader:
    rng = np.random.default_rng(seed)
    array = (rng.random((height, width)) * 200).astype(dtype)
    valid = rng.random((height, width)) >= holes
    if array.dtype.kind == "f":
        array[~valid] = np.nan
    return band(array, valid)


def same(one: Window, other: Window) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(one, other))  # noqa: B905


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([1, 2, 3, 6, 2.5]),
    st.sampled_from(["uint8", "uint16", "int16", "float32", "float64"]),
    st.sampled_from([0.0, 0.1, 0.9]),
    st.data(),
)
@settings(max_examples=150, deadline=None)
def test_a_window_equals_that_part_of_the_whole(
    height: int, width: int, factor: float, dtype: str, holes: float, data: st.DataObject
) -> None:
    reader = random_band(height, width, dtype, height * 41 + width, holes)
    shape = (max(1, int(height * factor)), max(1, int(width * factor)))
    top = data.draw(st.integers(0, shape[0] - 1))
    left = data.draw(st.integers(0, shape[1] - 1))
    bottom = data.draw(st.integers(top + 1, shape[0]))
    right = data.draw(st.integers(left + 1, shape[1]))
    whole = resampled(reader, shape, (0, 0, *shape))
    part = resampled(reader, shape, (top, left, bottom, right))
    expected = tuple(np.ascontiguousarray(w[:, top:bottom, left:right]) for w in whole)
    assert same(part, expected)  # type: ignore[arg-type]


def by_hand(reader: RasterReader, shape: tuple[int, int]) -> Window:
    """The rule, one pixel at a time."""
    values, valid = (window[0] for window in reader.read(reader.box))
    out = np.empty(shape, values.dtype)
    known = np.empty(shape, np.bool_)
    for i, j in np.ndindex(*shape):
        place = [(k + 0.5) * n / m - 0.5 for k, n, m in zip((i, j), values.shape, shape)]  # noqa: B905
        nearest = [int((k + 0.5) * n / m) for k, n, m in zip((i, j), values.shape, shape)]  # noqa: B905
        place = [min(max(p, 0), n - 1) for p, n in zip(place, values.shape)]  # noqa: B905
        total, sure = 0.0, True
        for y in (int(place[0]), int(place[0]) + 1):
            for x in (int(place[1]), int(place[1]) + 1):
                weight = (1 - abs(place[0] - y)) * (1 - abs(place[1] - x))
                if weight > 1e-9:
                    total += weight * float(values[y, x])
                    sure &= bool(valid[y, x])
        known[i, j] = valid[nearest[0], nearest[1]]
        out[i, j] = total if sure else values[nearest[0], nearest[1]]
    return out[None], known[None]


@pytest.mark.parametrize("factor", [2, 3, 6])
@pytest.mark.parametrize("holes", [0.0, 0.2])
def test_linear_where_all_sources_are_data_else_nearest(factor: int, holes: float) -> None:
    reader = random_band(9, 7, "float64", factor, holes)
    values, valid = resampled(reader, (9 * factor, 7 * factor), (0, 0, 9 * factor, 7 * factor))
    expected, known = by_hand(reader, (9 * factor, 7 * factor))
    assert np.array_equal(valid, known)
    assert np.allclose(values, expected, rtol=1e-12, equal_nan=True)
    assert np.isfinite(values[valid]).all()


def test_whole_bands_are_as_opencv_scales_them() -> None:
    reader = random_band(50, 40, "uint16", 0)
    values, _ = resampled(reader, (300, 240), (0, 0, 300, 240))
    plane = reader.read(reader.box)[0][0].astype(np.float64)
    expected = cv2.resize(plane, (240, 300), interpolation=cv2.INTER_LINEAR)
    assert np.abs(values[0] - expected).max() <= 0.5 + 1e-6


def test_codes_are_never_mixed() -> None:
    codes = band(np.array([[3, 8], [9, 4]], np.uint8))
    fine = random_band(12, 12, "uint16", 1)
    merged = merge_readers([fine, codes], ["B02", "SCL"], nearest=("SCL",))
    values, _ = merged.read((0, 0, 12, 12))
    assert set(np.unique(values[1])) == {3, 4, 8, 9}
    assert np.array_equal(values[1], np.kron([[3, 8], [9, 4]], np.ones((6, 6))))


def test_merged_bands_read_the_same_in_any_windows() -> None:
    readers = [random_band(60, 60, "uint16", 1, 0.1), random_band(20, 20, "uint16", 2, 0.1),
               random_band(10, 10, "float32", 3)]  # fmt: skip
    merged = merge_readers(readers, ["B02", "B05", "B01"])
    assert (merged.shape, merged.dtype) == ((3, 60, 60), np.dtype("float32"))
    whole = merged.read(merged.box)
    boxes: list[Box] = [(y, x, y + 12, x + 20) for y in range(0, 60, 12) for x in range(0, 60, 20)]
    for box in boxes:
        cut = (slice(None), slice(box[0], box[2]), slice(box[1], box[3]))
        part = merged.read(box)
        assert np.array_equal(part[0], whole[0][cut], equal_nan=True)
        assert np.array_equal(part[1], whole[1][cut])


def test_only_pixels_with_a_weight_are_taps() -> None:
    taps = axis_taps(0, 5, 5, 5)
    assert taps.first.tolist() == taps.second.tolist() == taps.nearest.tolist() == [0, 1, 2, 3, 4]
    doubled = axis_taps(0, 4, 2, 4)
    assert doubled.weight.tolist() == [0, 0.25, 0.75, 0]
    assert doubled.second.tolist() == [0, 1, 1, 1] and doubled.nearest.tolist() == [0, 0, 1, 1]
