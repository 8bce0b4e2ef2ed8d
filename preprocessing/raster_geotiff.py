"""Satellite rasters: GeoTIFF, COG and JPEG 2000 through GDAL, window by window.

Values are never changed. What is not known (a CRS, a band name) is None, never a default.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import Interleaving
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile
from rasterio.windows import Window as RasterioWindow

from preprocessing.errors import DecodeError
from preprocessing.raster_reader import (
    MAX_SCENE_VALUES,
    Box,
    RasterImage,
    RasterReader,
    Watched,
    Window,
    all_valid,
    check_scene,
    read_whole,
)
from preprocessing.source import Source, as_source
from preprocessing.tiff_structure import check_tiff, is_tiff

_JP2 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
_TAIL = 65536
"bytes at the end among which a JPEG 2000 has its end marker, whatever boxes follow"
_IN_MEMORY = 2**24
"bytes of a file that are handed over at once: opening is 0.6 ms cheaper than through callbacks"
_OPTIONS = {
    "GDAL_PAM_ENABLED": "NO",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_CACHEMAX": 128,  # MB; by default 5 % of the machine's memory, in each worker
    "GDAL_NUM_THREADS": "1",
}
_ERRORS = (RasterioError, OSError, SystemError, ValueError)
"ValueError: text of a file that is not UTF-8"


def decode_geotiff(data: bytes | Source) -> RasterImage:
    """Return a satellite raster: GeoTIFF, COG or JPEG 2000, with what it says of its place.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large, decode_error or
            no_valid_data (every value is nodata or not finite).
    """
    with open_geotiff(data) as (reader,):
        return read_whole(reader)


@contextmanager
def open_geotiff(data: bytes | Source) -> Iterator[list[RasterReader]]:
    """Open the one raster of a satellite file; only directories are read before a window is.

    Raises:
        DecodeError: as `decode_geotiff`, but no_valid_data.
    """
    watched = Watched()
    source = watched.wrap(as_source(data))
    with ExitStack() as stack:
        with watched.decoding("GDAL", _ERRORS):
            file = _open(source, stack)
            reader = _reader(file, watched)
        yield [reader]


def _open(source: Source, stack: ExitStack) -> Any:
    """Return the file as an open rasterio dataset, closed with the stack."""
    driver = _driver(source)
    stack.enter_context(rasterio.Env(**_OPTIONS))
    with warnings.catch_warnings():
        # That there is no georeference is in the result; it needs no warning.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        if len(source) <= _IN_MEMORY:
            data = source[:]
            if len(data) < len(source):
                raise DecodeError("truncated", f"{len(data)} of {len(source)} bytes can be read")
            # GDAL's errors have the name, and rejects have the errors: it must not be a random one.
            memory = stack.enter_context(MemoryFile(data, filename="scene.tif"))
            return stack.enter_context(memory.open(driver=driver))
        opened = rasterio.open("scene", driver=driver, opener=lambda *_, **__: source.file())
        return stack.enter_context(opened)


def _driver(source: Source) -> str:
    """Return which of GDAL's drivers reads a file that is whole."""
    if not source:
        raise DecodeError("empty_file", "0 bytes")
    if is_tiff(source):
        check_tiff(source, sparse=True, max_values=MAX_SCENE_VALUES)
        return "GTiff"
    if not source[:12].startswith(_JP2):
        raise DecodeError(
            "unrecognised_format", f"neither TIFF nor JPEG 2000; starts with {source[:16]!r}"
        )
    if b"\xff\xd9" not in source[-_TAIL:]:
        raise DecodeError("truncated", f"JPEG 2000 of {len(source)} bytes without its end marker")
    return "JP2OpenJPEG"


def _reader(file: Any, watched: Watched) -> RasterReader:
    """Describe an open rasterio dataset."""
    kinds = {dtype for dtype in file.dtypes if dtype.startswith("complex")}
    if kinds:
        raise DecodeError("decode_error", f"bands of {min(kinds)}; real numbers are needed")
    dtype = np.result_type(*(np.dtype(name) for name in file.dtypes))
    rows, columns = file.block_shapes[0]
    shape = (file.count, file.height, file.width)
    together = file.count if file.interleaving == Interleaving.pixel else 1
    check_scene(shape, rows * columns * dtype.itemsize * together)
    unmasked = all("all_valid" in {flag.name for flag in flags} for flags in file.mask_flag_enums)
    placed = file.crs is not None and not file.transform.is_identity
    metadata = _place_metadata(file)

    def read(box: Box) -> Window:
        with watched.decoding("GDAL", _ERRORS):
            top, left, bottom, right = box
            window = RasterioWindow(left, top, right - left, bottom - top)
            array = file.read(window=window)
            return array, _valid_values(file, array, window, unmasked)

    return RasterReader(
        shape=shape,
        dtype=dtype,
        read=read,
        block=(rows, columns),
        masked=not unmasked or dtype.kind == "f",
        channels=_band_names(file.descriptions),
        pixel_size=(float(file.res[0]), float(file.res[1])) if placed else None,
        metadata=metadata,
        crs=metadata["crs"],
        bounds=tuple(file.bounds) if placed else None,
    )


def _valid_values(
    file: Any, array: NDArray[np.generic], window: RasterioWindow, unmasked: bool
) -> NDArray[np.bool_]:
    """Return (C, h, w): neither nodata, nor masked by the file, nor NaN or infinite."""
    if unmasked:
        return np.isfinite(array) if array.dtype.kind == "f" else all_valid(array.shape)
    nodata = _plain_nodata(file, array.dtype)
    if nodata is not None:  # GDAL would decode the window once more for its mask
        return np.asarray(array != nodata[:, None, None])
    valid = file.read_masks(window=window) > 0
    return np.asarray(valid & np.isfinite(array) if array.dtype.kind == "f" else valid)


def _plain_nodata(file: Any, dtype: np.dtype[np.generic]) -> NDArray[np.generic] | None:
    """Return each band's nodata where masks are nothing but that, and it is one of the integers."""
    if dtype.kind not in "iu" or None in file.nodatavals:
        return None
    if any([flag.name for flag in flags] != ["nodata"] for flags in file.mask_flag_enums):
        return None
    limits: Any = np.iinfo(dtype.type)
    stated = file.nodatavals
    if all(float(v).is_integer() and limits.min <= v <= limits.max for v in stated):
        return np.array([int(v) for v in stated], dtype)
    return None


def _place_metadata(file: Any) -> dict[str, Any]:
    """Return what the file says of its place and values: JSON, None where it says nothing."""
    transform = None if file.transform.is_identity else [float(v) for v in file.transform[:6]]
    nodata = None if file.nodata is None else float(file.nodata)
    metadata: dict[str, Any] = {
        "crs": _crs_text(file.crs),
        "transform": transform,
        "bounds": [float(v) for v in file.bounds] if transform else None,
        "nodata": str(nodata) if nodata is not None and not np.isfinite(nodata) else nodata,
        "descriptions": list(file.descriptions),
    }
    if set(file.scales) != {1.0} or set(file.offsets) != {0.0}:
        metadata |= {"scales": list(file.scales), "offsets": list(file.offsets)}
    if file.gcps[0]:
        metadata["ground_control_points"] = len(file.gcps[0])
    time = file.tags().get("TIFFTAG_DATETIME")
    return metadata | ({"time": time} if time else {})


def _crs_text(crs: Any) -> str | None:
    """Return `EPSG:<code>`, the WKT of a CRS without a code, or None."""
    if not crs:
        return None
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.to_wkt())


def _band_names(descriptions: Sequence[str | None]) -> list[str] | None:
    """Return the bands' names if each has its own."""
    names = [text for text in descriptions if text]
    return names if len(set(names)) == len(descriptions) else None
