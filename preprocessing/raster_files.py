"""Raw raster files to arrays: microscopy TIFF, OME-TIFF and 16-bit PNG; GeoTIFF and JPEG 2000.

Values are never changed: no scaling to 8 bits, no zero-filling. What is not known (a CRS, a pixel
size, a channel name) is None, never a default.
"""

from __future__ import annotations

import io
import struct
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import MemoryFile

from preprocessing.errors import DecodeError
from preprocessing.images import decode_image
from preprocessing.tiff_structure import check_tiff, is_tiff

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_JP2 = (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")
_TAIL = 65536
"bytes at the end among which a JPEG 2000 has its end marker, whatever boxes follow"
MAX_VALUES = 2**30
"values of one file, over all its pages; more are refused from the header"
_NAME = "raster.tif"
"GDAL puts it into errors, which rejects keep: a random name would give other bytes each time"


@dataclass(frozen=True, slots=True)
class RasterImage:
    """A raster, and what its file says of it."""

    array: NDArray[np.generic]
    "(C, H, W), in the file's own dtype and values"
    valid_CHW: NDArray[np.bool_]
    "False where a value is nodata or not finite"
    channels: list[str] | None
    pixel_size: tuple[float, float] | None
    "(x, y) in micrometres (microscopy) or units of the CRS (satellite)"
    metadata: dict[str, object]
    "JSON values only"
    crs: str | None = None
    bounds: tuple[float, float, float, float] | None = None
    "left, bottom, right, top, in units of the CRS"

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W): True where every channel that has data at all has data."""
        alive = self.valid_CHW.any((1, 2))
        return np.asarray(self.valid_CHW[alive].all(0))


def decode_tiff(data: bytes) -> RasterImage:
    """Return a microscopy field: a TIFF, OME-TIFF or ImageJ stack, or a PNG of up to 16 bits.

    Z planes and time points become channels of their own, named `<channel>_z<z>_t<t>`. A palette
    that is a grey ramp is left out: its index is the intensity.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large, decode_error or
            no_valid_data (nothing finite).
    """
    _check_not_empty(data)
    if not is_tiff(data):
        return _decode_picture(data)
    check_tiff(data, max_values=MAX_VALUES)
    try:
        with tifffile.TiffFile(io.BytesIO(data), _multifile=False) as tiff:
            array, axes = _read_series(tiff)
            ome = _ome_pixels(tiff)
            metadata: dict[str, object] = {"axes": tiff.series[0].axes, "series": len(tiff.series)}
    except DecodeError:
        raise
    except _TIFF_ERRORS as error:
        raise DecodeError("decode_error", f"TIFF: {type(error).__name__}: {error}") from error
    names = _channel_names(axes, ome)
    return _microscopy_image(array, names, _ome_pixel_size(ome), metadata)


_TIFF_ERRORS = (
    tifffile.TiffFileError,
    ValueError,
    RuntimeError,  # imagecodecs
    OSError,
    AssertionError,
    LookupError,
    TypeError,
    struct.error,
    ElementTree.ParseError,
)


def _check_not_empty(data: bytes) -> None:
    if not data:
        raise DecodeError("empty_file", "0 bytes")


def _decode_picture(data: bytes) -> RasterImage:
    """Return a picture of one file a channel."""
    if not data.startswith(_PICTURES):
        raise DecodeError(
            "unrecognised_format", f"neither TIFF nor a picture; starts with {data[:16]!r}"
        )
    pixels = decode_image(data)
    gray = pixels.ndim == 2
    array = pixels[None] if gray else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    return _microscopy_image(array, None if gray else ["R", "G", "B"], None, {})


def _microscopy_image(
    array: NDArray[np.generic],
    names: list[str] | None,
    pixel_size: tuple[float, float] | None,
    metadata: dict[str, object],
) -> RasterImage:
    """Check that there is something in it."""
    valid = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, np.bool_)
    if not valid.any():
        raise DecodeError("no_valid_data", f"all {array.size} values are NaN or infinite")
    metadata["pixel_size"] = list(pixel_size) if pixel_size else None
    return RasterImage(array, valid, names, pixel_size, metadata)


def _read_series(tiff: tifffile.TiffFile) -> tuple[NDArray[np.generic], dict[str, int]]:
    """Return (C, H, W) of the first series, and the length of each axis that went into C."""
    series = tiff.series[0]
    array = np.asarray(series.asarray())
    axes = series.axes
    if "Y" not in axes or "X" not in axes:
        raise DecodeError("decode_error", f"TIFF with the axes {axes}; Y and X are needed")
    if series.dtype is None or array.dtype.kind not in "iufb":
        raise DecodeError("decode_error", f"TIFF of {array.dtype} values; real numbers are needed")
    others = [axis for axis in axes if axis not in "YX"]
    order = [axes.index(axis) for axis in (*others, "Y", "X")]
    lengths = {axis: array.shape[axes.index(axis)] for axis in others}
    array = array.transpose(order).reshape(-1, *(array.shape[axes.index(axis)] for axis in "YX"))
    page = series.keyframe
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        array, lengths = _apply_palette(array, page.colormap, lengths)
    array = array.astype(np.dtype(array.dtype.type), copy=False)  # native byte order
    return np.ascontiguousarray(array), lengths


def _apply_palette(
    array: NDArray[np.generic], palette: NDArray[np.uint16], lengths: dict[str, int]
) -> tuple[NDArray[np.generic], dict[str, int]]:
    """Return the indices where the palette (3, n) is a grey ramp, else its colours in 16 bits."""
    gray = bool((palette == palette[:1]).all())
    if gray and bool((np.diff(palette[0].astype(int)) >= 0).all()):
        return array, lengths
    if len(array) > 1:
        raise DecodeError("decode_error", f"TIFF of {len(array)} palette pages; one is understood")
    if gray:
        return palette[0][array], lengths
    return palette[:, array[0]], {"S": 3}


def _ome_pixels(tiff: tifffile.TiffFile) -> Any | None:
    """Return the Pixels element of an OME-TIFF, whose tags carry a namespace."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return None
    root = ElementTree.fromstring(tiff.ome_metadata)
    return next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)


def _ome_pixel_size(pixels: Any | None) -> tuple[float, float] | None:
    """Return (x, y) in micrometres."""
    if pixels is None:
        return None
    micrometres = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "Å": 1e-4, "cm": 1e4, "m": 1e6}
    sizes = []
    for axis in "XY":
        text = pixels.get(f"PhysicalSize{axis}")
        unit = pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if text is None or unit not in micrometres:
            return None
        sizes.append(float(text) * micrometres[unit])
    return sizes[0], sizes[1]


def _channel_names(lengths: dict[str, int], pixels: Any | None) -> list[str] | None:
    """Return a name for each plane, None where the file names no channel."""
    if lengths == {"S": 3}:
        return ["R", "G", "B"]
    stated = []
    if pixels is not None:
        stated = [n.get("Name") or "" for n in pixels if n.tag.endswith("}Channel")]
    if not all(stated) or len(stated) != lengths.get("C", 1) or len(set(stated)) < len(stated):
        return None
    if not set(lengths) <= set("CZT"):
        return None
    if not stated:
        return None
    planes = np.ndindex(*lengths.values())
    return [
        _plane_name(dict(zip(lengths, place, strict=True)), lengths, stated) for place in planes
    ]


def _plane_name(place: dict[str, int], lengths: dict[str, int], stated: Sequence[str]) -> str:
    """Return `<channel>`, with `_z<z>` and `_t<t>` where there are several."""
    depth = [f"_{axis.lower()}{place[axis]}" for axis in "ZT" if lengths.get(axis, 1) > 1]
    return stated[place.get("C", 0)] + "".join(depth)


def decode_geotiff(data: bytes) -> RasterImage:
    """Return a satellite raster: GeoTIFF, COG or JPEG 2000, with what it says of its place.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large, decode_error or
            no_valid_data (every value is nodata or not finite).
    """
    _check_not_empty(data)
    if is_tiff(data):
        driver = "GTiff"
        check_tiff(data, sparse=True, max_values=MAX_VALUES)
    elif data.startswith(_JP2):
        driver = "JP2OpenJPEG"
        if b"\xff\xd9" not in data[-_TAIL:]:
            raise DecodeError("truncated", f"JPEG 2000 of {len(data)} bytes without its end marker")
    else:
        raise DecodeError(
            "unrecognised_format", f"neither TIFF nor JPEG 2000; starts with {data[:16]!r}"
        )
    options = {"GDAL_PAM_ENABLED": "NO", "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
    try:
        with (
            warnings.catch_warnings(),
            rasterio.Env(**options),
            MemoryFile(data, filename=_NAME) as memory,
        ):
            # That there is no georeference is in the result; it needs no warning.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with memory.open(driver=driver) as file:
                return _read_geotiff(file)
    except RasterioError as error:
        # Behind rasterio's error stands GDAL's, which says what was wrong.
        raise DecodeError("decode_error", f"GDAL: {error.__cause__ or error}") from error


def _read_geotiff(file: Any) -> RasterImage:
    """Read an open rasterio dataset."""
    if file.width * file.height * file.count > MAX_VALUES:
        raise DecodeError(
            "too_large",
            f"{file.count} bands of {file.width}x{file.height}; at most {MAX_VALUES} values",
        )
    array = file.read()
    if array.dtype.kind not in "iuf":
        raise DecodeError("decode_error", f"bands of {array.dtype}; real numbers are needed")
    valid = _valid_values(file, array)
    if not valid.any():
        raise DecodeError(
            "no_valid_data", f"all {array.size} values are nodata ({file.nodata}) or not finite"
        )
    placed = file.crs is not None and not file.transform.is_identity
    metadata = _place_metadata(file)
    metadata["valid_share"] = round(float(valid.mean()), 6)
    return RasterImage(
        array=array,
        valid_CHW=valid,
        channels=_band_names(file.descriptions),
        pixel_size=(float(file.res[0]), float(file.res[1])) if placed else None,
        metadata=metadata,
        crs=metadata["crs"],
        bounds=tuple(file.bounds) if placed else None,
    )


def _valid_values(file: Any, array: NDArray[np.generic]) -> NDArray[np.bool_]:
    """Return (C, H, W): neither nodata, nor masked by the file, nor NaN or infinite."""
    finite = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, np.bool_)
    if all("all_valid" in {flag.name for flag in flags} for flags in file.mask_flag_enums):
        return finite
    return np.asarray(finite & (file.read_masks() > 0))


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
