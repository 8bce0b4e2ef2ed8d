"""OME-Zarr folders of both versions, plates and series; chunks that are not there; damage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from numpy.typing import NDArray

from preprocessing import rasters
from preprocessing.errors import DecodeError
from preprocessing.raster_windows import read_tiles
from preprocessing.source import Source, as_source
from tests.unit.preprocessing.raw_media import SHARED, needs_shared

FIELD = np.random.default_rng(0).integers(1, 60000, (1, 3, 1, 50, 70), np.uint16)
AXES = ["t", "c", "z", "y", "x"]


def attributes(version: str, names: str = "tczyx") -> dict[str, Any]:
    """Return the OME attributes of an image of 0.325 µm a pixel."""
    kinds = {"t": "time", "c": "channel"}
    axes: list[dict[str, str]] = []
    for name in names:
        axes.append({"name": name, "type": kinds.get(name, "space")})
        if name in "yx":
            axes[-1]["unit"] = "nanometer"
    scale = [325.0 if name in "yx" else 1.0 for name in names]
    transforms = [{"type": "scale", "scale": scale}]
    levels = [{"path": "0", "coordinateTransformations": transforms}]
    multiscales = [{"version": version, "axes": axes, "datasets": levels}]
    omero = {"channels": [{"label": name} for name in ("DNA", "ER", "RNA")]}
    return {"multiscales": multiscales, "omero": omero}


def write(
    folder: Path, array: NDArray[np.generic], zarr_format: int = 2, names: str = "tczyx", **kw: Any
) -> Path:
    """Write an image as zarr-python does."""
    stated = attributes("0.4" if zarr_format == 2 else "0.5", names)
    group = zarr.open_group(folder, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    group.attrs.update(stated if zarr_format == 2 else {"ome": stated})
    chunks = kw.pop("chunks", (*([1] * (array.ndim - 2)), 20, 30))
    level = group.create_array("0", shape=array.shape, dtype=array.dtype, chunks=chunks, **kw)
    level[:] = array
    return folder


def members(folder: Path) -> dict[str, Source]:
    """Return the files of a folder as ingest gives them."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): as_source(path.read_bytes()) for path in files}


def reason(files: dict[str, Source]) -> str:
    with pytest.raises(DecodeError) as caught:
        rasters.decode_zarr(files)
    return caught.value.reason_class


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", ">u2", "float32"])
def test_an_image_decodes_exactly(zarr_format: int, dtype: str, tmp_path: Path) -> None:
    array = (FIELD % 251).astype(dtype)
    image = rasters.decode_zarr(members(write(tmp_path / "a.zarr", array, zarr_format)))
    assert np.array_equal(image.array, array[0, :, 0])
    assert image.array.dtype == np.dtype(dtype).newbyteorder("=")
    assert image.channels == ["DNA", "ER", "RNA"]
    assert image.pixel_size == pytest.approx((0.325, 0.325))
    assert image.metadata["pixel_size_unit"] == "µm" and image.metadata["axes"] == "TCZYX"
    assert image.valid_CHW.all()


@pytest.mark.parametrize("options", [{"shards": (1, 1, 1, 40, 60)}, {"compressors": None}])
def test_tiles_do_not_depend_on_windows(options: dict[str, Any], tmp_path: Path) -> None:
    files = members(write(tmp_path / "a.zarr", FIELD, 3, **options))
    with rasters.open_zarr(files) as (reader,):
        boxes = rasters.tile_boxes(50, 70, 16, 4)
        for slab in (1, 20_000, 10**9):
            for box, (values, valid) in read_tiles(reader, boxes, slab):
                expected = FIELD[0, :, 0, box[0] : box[2], box[1] : box[3]]
                assert np.array_equal(values, expected) and valid.all()


def test_planes_and_times_become_named_channels(tmp_path: Path) -> None:
    stack = np.arange(2 * 3 * 2 * 8 * 9, dtype=np.uint8).reshape(2, 3, 2, 8, 9)
    image = rasters.decode_zarr(members(write(tmp_path / "a.zarr", stack)))
    assert image.channels is not None and image.channels[:3] == [
        "DNA_z0_t0",
        "DNA_z1_t0",
        "ER_z0_t0",
    ]
    assert np.array_equal(image.array, stack.reshape(12, 8, 9))
    flat = rasters.decode_zarr(members(write(tmp_path / "b.zarr", stack[0, :, 0], 3, "cyx")))
    assert np.array_equal(flat.array, stack[0, :, 0])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_that_are_not_there_are_no_data_and_are_counted(
    zarr_format: int, tmp_path: Path
) -> None:
    array = FIELD.copy()
    array[..., 1, :, :20, :30] = 0  # zarr writes no chunk of nothing but the fill value
    array[0, 1, 0, :20, :30] = 0
    array = array.reshape(FIELD.shape)
    files = members(write(tmp_path / "a.zarr", array, zarr_format))
    image = rasters.decode_zarr(files)
    assert np.array_equal(image.array, array[0, :, 0])
    assert (image.metadata["missing_chunks"], image.metadata["chunks"]) == (1, 27)
    assert not image.valid_CHW[1, :20, :30].any()
    assert image.valid_CHW.sum() == 3 * 50 * 70 - 600
    with rasters.open_zarr(files) as (reader,):
        assert np.array_equal(reader.read((10, 20, 30, 50))[1], image.valid_CHW[:, 10:30, 20:50])
    chunk = "0/0.0.0.0.0" if zarr_format == 2 else "0/c/0/0/0/0/0"
    lost = {name: source for name, source in files.items() if name != chunk}
    assert rasters.decode_zarr(lost).metadata["missing_chunks"] == 2


def test_without_a_fill_value_a_chunk_that_is_not_there_is_a_cut(tmp_path: Path) -> None:
    folder = write(tmp_path / "a.zarr", FIELD)
    header = json.loads((folder / "0" / ".zarray").read_text())
    (folder / "0" / ".zarray").write_text(json.dumps({**header, "fill_value": None}))
    (folder / "0" / "0.1.0.0.0").unlink()
    assert reason(members(folder)) == "truncated"


def test_damage_has_its_class(tmp_path: Path) -> None:
    files = members(write(tmp_path / "a.zarr", FIELD))
    chunk = "0/0.1.0.1.1"
    assert reason({**files, chunk: as_source(b"")}) == "truncated"
    assert reason({n: s for n, s in files.items() if n != "0/.zarray"}) == "truncated"
    assert reason({}) == "empty_file"
    assert reason({".zgroup": files[".zgroup"]}) == "unrecognised_format"
    assert reason({**files, ".zattrs": as_source(b"{ not json")}) == "decode_error"
    kept = {name: source for name, source in files.items() if not name.startswith("0/0.")}
    assert reason(kept) == "no_valid_data"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("codec", ["blosc", "zstd", "gzip", "none"])
def test_every_cut_of_a_chunk_is_refused(zarr_format: int, codec: str, tmp_path: Path) -> None:
    name = {"blosc": "Blosc", "zstd": "Zstd", "gzip": "GZip"}.get(codec)
    if zarr_format == 2:
        compressor = getattr(numcodecs, name)() if name else None
    else:
        compressor = getattr(zarr.codecs, name.title() + "Codec")() if name else None
    files = members(write(tmp_path / "a.zarr", FIELD, zarr_format, compressors=compressor))
    chunk = "0/0.1.0.1.1" if zarr_format == 2 else "0/c/0/1/0/1/1"
    size = len(files[chunk])
    for end in (1, 8, 15, 16, 17, 40, size // 2, size - 1):
        cut = {**files, chunk: as_source(files[chunk][:end])}
        assert reason(cut) in ("truncated", "decode_error"), end


def test_a_header_that_claims_too_much_costs_nothing(tmp_path: Path) -> None:
    files = members(write(tmp_path / "a.zarr", FIELD))
    header = json.loads(files["0/.zarray"][:])
    for shape, chunks in (
        ([1, 3, 1, 40_000, 40_000], [1, 1, 1, 1024, 1024]),
        ([1, 3, 1, 10**6, 10**6], [1, 1, 1, 10**6, 10**6]),
        ([1, 3, 1, 10**8, 10**8], [1, 1, 1, 1024, 1024]),
    ):
        claimed = json.dumps({**header, "shape": shape, "chunks": chunks}).encode()
        assert reason({**files, "0/.zarray": as_source(claimed)}) == "too_large"


def test_a_store_that_fails_is_no_damage(tmp_path: Path) -> None:
    files = members(write(tmp_path / "a.zarr", FIELD))

    def fail(offset: int, size: int) -> bytes:
        raise ConnectionError("the store is gone")

    with pytest.raises(ConnectionError, match="the store is gone"):
        rasters.decode_zarr({**files, "0/0.1.0.1.1": Source(100, fail)})


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_plate_has_a_field_for_each_image_of_its_wells(zarr_format: int, tmp_path: Path) -> None:
    plate = tmp_path / "plate.zarr"
    wells = [{"path": "A/1"}, {"path": "B/2"}]
    stated: dict[str, Any] = {"plate": {"wells": wells}}
    group = zarr.open_group(plate, mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    group.attrs.update(stated if zarr_format == 2 else {"ome": stated})
    for number, well in enumerate(wells):
        images = {"well": {"images": [{"path": "0"}, {"path": "1"}]}}
        below = zarr.open_group(plate / well["path"], mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
        below.attrs.update(images if zarr_format == 2 else {"ome": images})
        for site in (0, 1):
            write(plate / well["path"] / str(site), FIELD - number * 2 - site, zarr_format)
    with rasters.open_zarr(members(plate)) as fields:
        places = [(reader.metadata["well"], reader.metadata["site"]) for reader in fields]
        assert places == [("A1", "0"), ("A1", "1"), ("B2", "0"), ("B2", "1")]
        for number, reader in enumerate(fields):
            assert np.array_equal(reader.read(reader.box)[0], (FIELD - number)[0, :, 0])


def test_the_series_of_a_converted_file_are_fields(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.attrs.update({"bioformats2raw.layout": 3})
    for number, array in enumerate((FIELD, FIELD + 1, FIELD[..., :30])):  # the last is a label
        write(tmp_path / "a.zarr" / str(number), array)
    with rasters.open_zarr(members(tmp_path / "a.zarr")) as fields:
        assert len(fields) == 2
        assert np.array_equal(fields[1].read((0, 0, 9, 9))[0], FIELD[0, :, 0, :9, :9] + 1)


@needs_shared
def test_the_shared_folder_equals_zarr() -> None:
    folder = SHARED / "microscopy" / "derived_ome_zarr" / "D6_site2.ome.zarr"
    image = rasters.decode_zarr(members(folder))
    expected = np.asarray(zarr.open_array(folder / "0", mode="r")[0, :, 0])
    assert np.array_equal(image.array, expected)
    assert image.channels == ["DAPI", "GFP", "RFP"] and image.pixel_size is None
