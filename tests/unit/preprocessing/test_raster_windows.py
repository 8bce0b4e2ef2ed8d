"""Rasters read in windows: values, damage, limits, and how much of a file is touched."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile
from rasterio.windows import Window

from preprocessing import rasters
from preprocessing.errors import DecodeError
from preprocessing.raster_reader import RasterReader
from preprocessing.raster_windows import read_tiles
from preprocessing.source import Source, as_source
from tests.unit.preprocessing.raw_media import geotiff, smooth, tiff

SCENE = np.random.default_rng(0).integers(0, 3000, (3, 150, 170), np.uint16)
SCENE[:, :40, :60] = 0
SCENE[1, 100:, 100:] = 0
SLABS = (1, 2 * 10**5, 10**9)
"no slab at all, groups of tiles; a slab of rows; everything"
BLOCKS = {"tiled": True, "blockxsize": 32, "blockysize": 64}


def check_tiles(reader: RasterReader, size: int, overlap: int) -> None:
    """Tiles equal those cut from the whole, however the file is read."""
    values, valid = reader.read(reader.box)
    boxes = rasters.tile_boxes(*reader.shape[1:], size, overlap)
    for slab in SLABS:
        seen = []
        for box, (part, known) in read_tiles(reader, boxes, slab):
            seen.append(box)
            cut = (slice(None), slice(box[0], box[2]), slice(box[1], box[3]))
            assert part.dtype == values.dtype and part.tobytes() == values[cut].tobytes(), box
            assert np.array_equal(known, valid[cut]), box
        assert seen == boxes


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("blocks", [BLOCKS, {}, {"blockysize": 7}])
@pytest.mark.parametrize("compress", ["none", "deflate"])
@pytest.mark.parametrize(("size", "overlap"), [(40, 0), (64, 16), (33, 20), (200, 0)])
def test_tiles_of_a_scene_do_not_depend_on_windows(
    interleave: str, blocks: dict[str, object], compress: str, size: int, overlap: int
) -> None:
    data = geotiff(SCENE, nodata=0, interleave=interleave, compress=compress, **blocks)
    with rasters.open_geotiff(data) as (reader,):
        check_tiles(reader, size, overlap)


STACK = np.random.default_rng(1).integers(0, 60000, (4, 90, 130), np.uint16)
KINDS = {
    "contiguous": {},
    "strips": {"rowsperstrip": 8, "compression": "zlib", "predictor": True},
    "one strip": {"compression": "zstd", "rowsperstrip": 90},
    "tiles": {"tile": (32, 48), "compression": "lzw"},
    "plain tiles": {"tile": (32, 48)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 20, "compression": "zlib"},
    "big-endian, contiguous": {"byteorder": ">"},
}


FORMS = ("ome", "plain", "rgb", "planar", "float")
PLAIN = ("contiguous", "big-endian, contiguous")
"ImageJ's files are neither compressed nor tiled."
CASES = [(kind, form) for form in FORMS for kind in KINDS] + [(kind, "imagej") for kind in PLAIN]


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_tiles_of_a_field_do_not_depend_on_windows(kind: str, form: str) -> None:
    data = field(form, KINDS[kind])
    expected = rasters.decode_tiff(data).array
    with rasters.open_tiff(data) as (reader,):
        check_tiles(reader, 40, 8)
        part = reader.read((11, 13, 50, 77))[0]
        assert np.array_equal(part, expected[:, 11:50, 13:77])


def field(form: str, options: dict[str, object]) -> bytes:
    """Return a file of one of the forms."""
    match form:
        case "ome":
            return tiff(
                STACK.reshape(2, 2, 90, 130), ome=True, metadata={"axes": "CZYX"}, **options
            )
        case "imagej":
            return tiff(STACK, imagej=True, metadata={"axes": "CYX"}, **options)
        case "rgb":
            return tiff(np.moveaxis(STACK[:3], 0, -1), photometric="rgb", **options)
        case "planar":
            return tiff(STACK[:3], photometric="rgb", planarconfig="separate", **options)
        case "float":
            array = STACK.astype(np.float32) / 7
            array[1, 5] = np.nan
            return tiff(array, photometric="minisblack", **options)
    return tiff(STACK, photometric="minisblack", **options)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000", "webp", "packbits", "lzma"])
def test_tiles_of_a_coloured_slide_do_not_depend_on_windows(codec: str) -> None:
    data = tiff(smooth(100, 150), photometric="rgb", compression=codec, tile=(64, 64))
    with rasters.open_tiff(data) as (reader,):
        check_tiles(reader, 48, 0)


def test_tiles_of_a_jpeg_2000_do_not_depend_on_windows() -> None:
    blocks = {"blockxsize": 64, "blockysize": 64, "QUALITY": "100", "REVERSIBLE": "YES"}
    data = geotiff(SCENE, driver="JP2OpenJPEG", **blocks)
    assert np.array_equal(rasters.decode_geotiff(data).array, SCENE)
    with rasters.open_geotiff(data) as (reader,):
        check_tiles(reader, 48, 8)


def test_a_window_is_what_rasterio_reads(tmp_path: Path) -> None:
    data = geotiff(SCENE, nodata=0, compress="deflate", **BLOCKS)
    (tmp_path / "scene.tif").write_bytes(data)
    box = (10, 20, 90, 120)
    with (
        rasterio.open(tmp_path / "scene.tif") as theirs,
        rasters.open_geotiff(data) as (ours,),
    ):
        window = Window(20, 10, 100, 80)
        values, valid = ours.read(box)
        assert np.array_equal(values, theirs.read(window=window))
        assert np.array_equal(valid, theirs.read_masks(window=window) > 0)


@pytest.mark.parametrize("nodata", [None, 0, 7, 65535, -9999, 0.5])
def test_masks_are_gdals(nodata: float | None, tmp_path: Path) -> None:
    if nodata is not None and not 0 <= nodata <= 65535:
        data = geotiff(SCENE.astype(np.int16), nodata=nodata)
    else:
        data = geotiff(SCENE, **({} if nodata is None else {"nodata": nodata}))
    (tmp_path / "scene.tif").write_bytes(data)
    with rasterio.open(tmp_path / "scene.tif") as theirs:
        expected = theirs.read_masks() > 0
    assert np.array_equal(rasters.decode_geotiff(data).valid_CHW, expected)


def watched(data: bytes, touched: list[int]) -> Source:
    """Return a source that notes how many bytes are read."""

    def read(offset: int, size: int) -> bytes:
        touched.append(size)
        return data[offset : offset + size]

    return Source(len(data), read)


@pytest.mark.parametrize("decode", [rasters.open_geotiff, rasters.open_tiff])
def test_a_window_touches_a_part_of_the_file(decode: object) -> None:
    array = np.random.default_rng(0).integers(0, 9, (2, 3072, 3072), np.uint16)  # 36 MiB
    data = geotiff(array, tiled=True, blockxsize=256, blockysize=256, interleave="band")
    touched: list[int] = []
    with decode(watched(data, touched)) as (reader,):  # type: ignore[operator]
        assert sum(touched) < 2**20
        values, _ = reader.read((256, 256, 512, 512))
    assert np.array_equal(values, array[: len(values), 256:512, 256:512])
    assert sum(touched) < 2**21


@pytest.mark.parametrize("size", [100, 2**25])
def test_a_source_that_fails_is_no_damaged_file(size: int) -> None:
    data = geotiff(SCENE, compress="deflate") + bytes(size)

    def read(offset: int, count: int) -> bytes:
        if offset + count > 8000:
            raise ConnectionError("the store is gone")
        return data[offset : offset + count]

    for decode in (rasters.decode_geotiff, rasters.decode_tiff):
        with pytest.raises(ConnectionError, match="the store is gone"):
            decode(Source(len(data), read))


@pytest.mark.parametrize("decode", [rasters.open_geotiff, rasters.open_tiff])
def test_a_damaged_block_is_found_where_it_is_read(decode: object) -> None:
    data = bytearray(geotiff(SCENE, compress="deflate", interleave="pixel", **BLOCKS))
    with tifffile.TiffFile(io.BytesIO(bytes(data))) as file:
        page = file.pages[0]
        last = page.dataoffsets[-1], page.databytecounts[-1]
    data[last[0] : last[0] + 40] = os.urandom(40)
    with decode(bytes(data)) as (reader,):  # type: ignore[operator]
        reader.read((0, 0, 64, 32))
        with pytest.raises(DecodeError) as caught:
            reader.read((128, 128, 150, 170))
    assert caught.value.reason_class == "decode_error"


def test_a_scene_too_large_for_one_sample_says_what_to_do() -> None:
    data = huge(5000, 20_000)
    with rasters.open_geotiff(data) as (reader,):
        assert reader.shape == (2, 5000, 20_000)
        with pytest.raises(DecodeError, match="--tile") as caught:
            rasters.check_whole(reader)
    assert caught.value.reason_class == "too_large"
    with pytest.raises(DecodeError, match="381 MiB"):
        rasters.decode_geotiff(data)


def huge(height: int, width: int, **options: object) -> bytes:
    """Return a scene whose blocks were never written."""
    profile = {"driver": "GTiff", "count": 2, "height": height, "width": width, "dtype": "uint16"}
    blocks = {"tiled": True, "blockxsize": 512, "blockysize": 512}
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile, **{**blocks, **options}, sparse_ok=True, nodata=0):
            pass
        return bytes(memory.read())


def test_one_strip_that_no_memory_holds_is_refused_from_the_header() -> None:
    data = huge(20_000, 20_000, tiled=False, blockysize=20_000, compress="deflate")
    with pytest.raises(DecodeError, match="smaller tiles") as caught, rasters.open_geotiff(data):
        pass
    assert caught.value.reason_class == "too_large"


def test_a_channel_without_data_is_known_before_the_first_tile() -> None:
    array = SCENE.copy()
    array[0] = 0
    array[2] = 0
    array[2, -1, -1] = 5
    with rasters.open_geotiff(geotiff(array, nodata=0, **BLOCKS)) as (reader,):
        assert rasters.channels_with_data(reader).tolist() == [False, True, True]


def test_series_like_the_first_are_fields_and_others_are_not() -> None:
    buffer = io.BytesIO()
    fields = np.random.default_rng(0).integers(0, 99, (2, 3, 20, 30), np.uint16)
    with tifffile.TiffWriter(buffer, ome=True) as writer:
        for number, array in enumerate(fields):
            size = {"PhysicalSizeX": 0.1 * (number + 1), "PhysicalSizeY": 0.1 * (number + 1)}
            writer.write(array, metadata={"axes": "CYX", **size}, photometric="minisblack")
        writer.write(np.zeros((5, 6), np.uint16), metadata={"axes": "YX"})
    with rasters.open_tiff(as_source(buffer.getvalue())) as readers:
        assert [reader.metadata["field"] for reader in readers] == [0, 1]
        assert [reader.pixel_size for reader in readers] == [(0.1, 0.1), (0.2, 0.2)]
        for reader, array in zip(readers, fields, strict=True):
            assert np.array_equal(reader.read(reader.box)[0], array)
            assert np.array_equal(reader.read((3, 4, 9, 20))[0], array[:, 3:9, 4:20])


def test_planes_that_are_not_in_the_file_are_never_zeros() -> None:
    data = tiff(STACK, ome=True, metadata={"axes": "CYX"}, photometric="minisblack")
    claimed = data.replace(b'SizeC="4"', b'SizeC="6"')
    assert claimed != data
    with pytest.raises(DecodeError, match="2 of 6 planes are not in the file") as caught:
        rasters.decode_tiff(claimed)
    assert caught.value.reason_class == "truncated"
