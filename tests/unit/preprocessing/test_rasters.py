"""Rasters: raw files of both kinds, bands on one grid, tiles, and what a shard stores."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.payloads import decode_payload
from preprocessing.rasters import (
    RasterImage,
    decode_geotiff,
    decode_raster,
    decode_tiff,
    encode_raster,
    merge_channels,
    stack_channels,
    tile_boxes,
)
from tests.unit.preprocessing.raw_media import SHARED, geotiff, needs_shared, picture, tiff

FIELD = np.random.default_rng(0).integers(0, 65536, (3, 40, 56), np.uint16)


def reason(data: bytes, decode: Callable[[bytes], RasterImage] = decode_tiff) -> str:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    return caught.value.reason_class


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_a_stack_decodes_exactly(compression: str | None, byteorder: str, bigtiff: bool) -> None:
    options = {"compression": compression, "byteorder": byteorder, "bigtiff": bigtiff}
    data = tiff(FIELD, photometric="minisblack", rowsperstrip=16, **options)
    image = decode_tiff(data)
    assert np.array_equal(image.array, FIELD) and image.array.dtype == np.dtype("uint16")
    assert image.valid.all() and image.channels is None and image.pixel_size is None


def test_ome_names_and_pixel_size_are_kept() -> None:
    metadata = {"axes": "CYX", "Channel": {"Name": ["DNA", "ER", "Mito"]}}
    size = {"PhysicalSizeX": 650.0, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.65}
    image = decode_tiff(tiff(FIELD, ome=True, metadata=metadata | size))
    assert image.channels == ["DNA", "ER", "Mito"]
    assert image.pixel_size == pytest.approx((0.65, 0.65))


def test_planes_and_times_become_named_channels() -> None:
    stack = np.arange(2 * 3 * 8 * 9, dtype=np.uint8).reshape(2, 3, 8, 9)
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DNA", "ER"]}}
    image = decode_tiff(tiff(stack, ome=True, metadata=metadata))
    assert image.channels == [f"{name}_z{z}" for name in ("DNA", "ER") for z in range(3)]
    assert np.array_equal(image.array, stack.reshape(6, 8, 9))


def test_colour_tiff_becomes_three_channels() -> None:
    image = decode_tiff(tiff(np.moveaxis(FIELD, 0, -1), photometric="rgb"))
    assert image.channels == ["R", "G", "B"] and np.array_equal(image.array, FIELD)


def test_a_grey_palette_is_left_out_and_a_colour_palette_applied() -> None:
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    ramp = np.repeat(np.arange(256, dtype=np.uint16)[None] * 256, 3, 0)
    grey = decode_tiff(tiff(index, photometric="palette", colormap=ramp))
    assert np.array_equal(grey.array, index[None])
    ramp[1] = ramp[1, ::-1]
    colour = decode_tiff(tiff(index, photometric="palette", colormap=ramp))
    assert colour.channels == ["R", "G", "B"] and np.array_equal(colour.array, ramp[:, index])


def test_one_png_a_channel_keeps_16_bits() -> None:
    assert np.array_equal(decode_tiff(picture(".png", FIELD[0])).array, FIELD[:1])


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_every_cut_of_a_tiff_is_refused(compression: str | None) -> None:
    data = tiff(FIELD, photometric="minisblack", compression=compression)
    placed = geotiff(FIELD, compress="deflate" if compression else "none")
    for end in np.linspace(5, len(data) - 17, 20).astype(int):  # 16 bytes of padding may go
        assert reason(data[:end]) == "truncated"
    for end in np.linspace(5, len(placed) - 1, 20).astype(int):
        assert reason(placed[:end], decode_geotiff) == "truncated"


def test_pixel_data_misplaced_behind_the_end_are_damage_not_a_cut() -> None:
    data = bytearray(tiff(FIELD, photometric="minisblack", compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        tag = file.pages[0].tags["StripByteCounts"]
        data[tag.valueoffset : tag.valueoffset + 4] = (len(data) * 2).to_bytes(4, "little")
    assert reason(bytes(data)) == "decode_error"


def test_other_things_are_refused_by_class() -> None:
    for decode in (decode_tiff, decode_geotiff):
        assert reason(b"", decode) == "empty_file"
        assert reason(b"some text", decode) == "unrecognised_format"
        assert reason(b"<VRTDataset><x/></VRTDataset>", decode) == "unrecognised_format"
    huge = tiff(np.zeros((4, 4), np.uint8)).replace((4).to_bytes(2, "little"), b"\xff\xff")
    assert reason(huge) in ("too_large", "truncated", "decode_error")
    assert (
        reason(tiff(np.full((2, 4, 4), np.nan, np.float32), photometric="minisblack"))
        == "no_valid_data"
    )
    assert reason(tiff(np.ones((4, 4), np.complex64))) == "decode_error"
    assert (
        reason(geotiff(np.zeros((2, 8, 8), np.int16), nodata=0), decode_geotiff) == "no_valid_data"
    )


def test_a_geotiff_says_where_it_is() -> None:
    array = FIELD.copy()
    array[:, :10] = 0
    image = decode_geotiff(geotiff(array, nodata=0))
    assert np.array_equal(image.array, array)
    assert image.crs == image.metadata["crs"] == "EPSG:32633"
    assert image.bounds == (500000.0, 5699600.0, 500560.0, 5700000.0)
    assert image.pixel_size == (10.0, 10.0)
    assert image.metadata["transform"] == [10.0, 0.0, 500000.0, 0.0, -10.0, 5700000.0]
    assert not image.valid[:10].any() and image.valid[10:].mean() > 0.99


def test_without_a_crs_nothing_is_made_up_and_nothing_warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = geotiff(FIELD, crs=None)
        warnings.simplefilter("error")
        image = decode_geotiff(data)
    assert image.crs is image.bounds is image.pixel_size is image.metadata["transform"] is None


def test_a_dead_band_does_not_make_the_others_invalid() -> None:
    array = FIELD[:, :8, :8].astype(np.int16) % 1000
    array[1] = -1
    array[2, 0, 0] = -1
    image = decode_geotiff(geotiff(array, nodata=-1))
    assert image.valid.sum() == 63 and not image.valid_CHW[1].any()


def bands(*sizes: int, dtype: str = "uint16") -> list[bytes]:
    """Return single-band files of the same 1200 m."""
    ramp = [
        np.linspace(0, 1000, size * size).reshape(1, size, size).astype(dtype) for size in sizes
    ]
    return [geotiff(array, pixel=1200 / array.shape[1]) for array in ramp]


def test_bands_of_three_resolutions_come_to_the_finest_grid() -> None:
    merged = merge_channels([decode_geotiff(d) for d in bands(60, 120, 20)], ["B05", "B02", "B01"])
    assert merged.array.shape == (3, 120, 120) and merged.array.dtype == np.uint16
    assert merged.channels == ["B05", "B02", "B01"]
    assert merged.pixel_size == (10.0, 10.0) and merged.metadata["descriptions"] == merged.channels
    fine = np.linspace(0, 1000, 120 * 120).reshape(120, 120)
    assert np.abs(merged.array - fine)[:, 6:-6].max() < 50


def test_nodata_does_not_mix_into_data_when_bands_are_resampled() -> None:
    coarse = np.full((1, 30, 30), 1000, np.uint16)
    coarse[0, :15] = 0
    pair = [geotiff(coarse, pixel=40, nodata=0), *bands(120)]
    merged = merge_channels([decode_geotiff(d) for d in pair], ["B01", "B02"])
    assert set(np.unique(merged.array[0])) == {0, 1000}
    assert np.array_equal(merged.valid_CHW[0], merged.array[0] > 0)


def test_bands_of_different_places_are_refused() -> None:
    here, there = bands(60, 120)
    moved = decode_geotiff(geotiff(np.ones((1, 60, 60), np.uint16), pixel=30))
    with pytest.raises(DecodeError, match="B03 covers") as caught:
        merge_channels([decode_geotiff(here), decode_geotiff(there), moved], ["B01", "B02", "B03"])
    assert caught.value.reason_class == "shape_mismatch"
    other = decode_geotiff(geotiff(np.ones((1, 60, 60), np.uint16), pixel=20, crs="EPSG:32634"))
    with pytest.raises(DecodeError, match="EPSG:32634"):
        merge_channels([decode_geotiff(here), other], ["B01", "B02"])


def test_channels_of_different_shapes_are_refused_by_name() -> None:
    with pytest.raises(DecodeError, match="DAPI 4x5, GFP 5x4") as caught:
        stack_channels([("DAPI", np.zeros((4, 5))), ("GFP", np.zeros((5, 4)))])
    assert caught.value.reason_class == "shape_mismatch"


@given(st.integers(1, 200), st.integers(1, 200), st.integers(1, 90), st.integers(0, 89))
def test_tiles_cover_everything_and_have_one_size(
    height: int, width: int, size: int, overlap: int
) -> None:
    boxes = tile_boxes(height, width, size, min(overlap, size - 1))
    seen = np.zeros((height, width), bool)
    for top, left, bottom, right in boxes:
        assert (bottom - top, right - left) == (min(size, height), min(size, width))
        assert top >= 0 and left >= 0 and bottom <= height and right <= width
        seen[top:bottom, left:right] = True
    assert seen.all() and len(set(boxes)) == len(boxes)


DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64")


def values(dtype: str, shape: tuple[int, ...] = (3, 17, 23)) -> NDArray[np.generic]:
    rng = np.random.default_rng(1)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stored_raster_is_lossless_and_the_same_bytes_again(dtype: str) -> None:
    array = values(dtype)
    data = encode_raster(array)
    assert (
        data
        == encode_raster(np.asfortranarray(array))
        == encode_raster(array.astype(f">{array.dtype.str[1:]}"))
    )
    stored = decode_raster(data)
    assert np.array_equal(stored, array) and stored.dtype == array.dtype
    assert np.array_equal(decode_raster(data, [2, 0]), array[[2, 0]])
    assert np.array_equal(decode_tiff(data).array, array)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 7), (3, 1, 9), (4, 64, 64), (13, 8, 8)])
def test_any_shape_can_be_stored(shape: tuple[int, ...]) -> None:
    array = values("uint16", shape)
    assert np.array_equal(decode_raster(encode_raster(array)), array)


def test_a_channel_that_is_not_there_is_named() -> None:
    with pytest.raises(DecodeError, match=r"3 channels, asked for \[3\]"):
        decode_raster(encode_raster(FIELD), [3])
    with pytest.raises(ValueError, match=r"\(40, 56\); \(C, H, W\)"):
        encode_raster(FIELD[0])


def test_damaged_payloads_raise_nothing_but_decode_errors() -> None:
    rng = np.random.default_rng(0)
    data = encode_raster(FIELD[:, :9, :9])
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, len(data), 3)] = rng.integers(0, 256, 3)
        with contextlib.suppress(DecodeError):
            decode_raster(damaged.tobytes())


def test_no_nan_leaves_a_shard() -> None:
    array = np.ones((2, 4, 4), np.float32)
    array[0, 0] = (3, 5, np.nan, np.inf)
    array[1] = np.nan
    stored = decode_payload("tif", encode_raster(array))
    assert np.isfinite(stored).all()
    assert stored[0, 0, 2] == stored[0, 0, 3] == np.float32(20 / 14) and not stored[1].any()


@needs_shared
@pytest.mark.slow
def test_real_microscopy_decodes_as_tifffile_decodes_its_pages() -> None:
    files = [f for f in (SHARED / "microscopy").rglob("*") if f.suffix.lower() in (".tif", ".tiff")]
    assert len(files) > 50
    for file in files:
        with tifffile.TiffFile(file, _multifile=False) as opened:
            expected = np.stack([page.asarray() for page in opened.pages])
        image = decode_tiff(file.read_bytes())
        assert np.array_equal(image.array, expected) and image.array.dtype == expected.dtype, (
            file.name
        )
        assert np.array_equal(decode_raster(encode_raster(image.array)), expected), file.name


@needs_shared
@pytest.mark.slow
def test_real_satellite_files_decode_as_rasterio_decodes_them() -> None:
    import rasterio

    files = [f for f in (SHARED / "satellite").rglob("*") if f.suffix.lower() in (".tif", ".jp2")]
    assert len(files) > 100
    for file in files:
        image = decode_geotiff(file.read_bytes())
        with rasterio.open(file) as opened:
            assert np.array_equal(
                image.array, opened.read(), equal_nan=image.array.dtype.kind == "f"
            )
            assert (image.crs is None) == (opened.crs is None), file.name
            valid = (opened.read_masks() > 0) & np.isfinite(image.array)
        assert np.array_equal(image.valid_CHW, valid), file.name
