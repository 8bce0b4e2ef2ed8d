"""Microscopy fields: TIFF stacks, OME-TIFF, ImageJ and pictures of up to 16 bits.

Values are never changed: no scaling to 8 bits, no zero-filling. What is not known (a pixel size, a
channel name) is None, never a default.
"""

from __future__ import annotations

import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import tifffile
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.images import decode_image
from preprocessing.raster_ome import ome_channels, ome_images, ome_pixel_size, plane_names
from preprocessing.raster_reader import (
    MAX_BYTES,
    MAX_SCENE_VALUES,
    Box,
    RasterImage,
    RasterReader,
    Watched,
    Window,
    all_valid,
    check_scene,
    check_whole,
    read_whole,
    reader_of,
)
from preprocessing.raster_tiff_planes import TiffPlanes
from preprocessing.source import Source, as_source
from preprocessing.tiff_structure import check_tiff, is_tiff

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM")
_ERRORS = (
    tifffile.TiffFileError,
    ValueError,
    RuntimeError,  # imagecodecs
    OSError,
    AssertionError,
    LookupError,
    TypeError,
    ArithmeticError,  # a tile of no width
    MemoryError,  # imagecodecs, where damaged data promise too much
    struct.error,
    ElementTree.ParseError,
)


def decode_tiff(data: bytes | Source) -> RasterImage:
    """Return the first microscopy field of a file, whole (`open_tiff` says which fields there are).

    Raises:
        DecodeError: as `open_tiff`; too_large, or no_valid_data (nothing finite).
    """
    with open_tiff(data) as fields:
        return read_whole(fields[0])


@contextmanager
def open_tiff(data: bytes | Source) -> Iterator[list[RasterReader]]:
    """Open the microscopy fields of a TIFF, OME-TIFF or ImageJ stack, or of a picture.

    Z planes and time points become channels of their own, named `<channel>_z<z>_t<t>`. A palette
    that is a grey ramp is left out: its index is the intensity. A file of several series has a
    field for each that is like the first in axes, shape and type (the positions of a slide);
    labels, overviews and thumbnails are none.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large or decode_error.
    """
    watched = Watched()
    source = watched.wrap(as_source(data))
    with watched.decoding("TIFF", _ERRORS):
        if not source:
            raise DecodeError("empty_file", "0 bytes")
        if is_tiff(source):
            check_tiff(source, max_values=MAX_SCENE_VALUES)
            tiff = tifffile.TiffFile(source.file(), _multifile=False)
        else:
            picture = _picture(source)
    if not is_tiff(source):
        yield [reader_of(picture)]
        return
    with tiff:
        with watched.decoding("TIFF", _ERRORS):
            fields = _fields(tiff, source, watched)
        yield fields


def _picture(source: Source) -> RasterImage:
    """Return a picture of one file a channel."""
    if not source[:8].startswith(_PICTURES):
        raise DecodeError(
            "unrecognised_format", f"neither TIFF nor a picture; starts with {source[:16]!r}"
        )
    if len(source) > MAX_BYTES:
        raise DecodeError("too_large", f"a picture of {len(source)} bytes; at most {MAX_BYTES}")
    pixels = decode_image(source[:])
    gray = pixels.ndim == 2
    array = pixels[None] if gray else np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    names = None if gray else ["R", "G", "B"]
    return RasterImage(array, all_valid(array.shape), names, None, {"pixel_size": None})


def _fields(tiff: tifffile.TiffFile, source: Source, watched: Watched) -> list[RasterReader]:
    """Return a reader of each series that is like the first."""
    first = tiff.series[0]
    alike = [
        (number, series)
        for number, series in enumerate(tiff.series)
        if (series.axes, series.shape, series.dtype) == (first.axes, first.shape, first.dtype)
    ]
    images = ome_images(tiff.ome_metadata) if tiff.is_ome else []
    fields = []
    for number, series in alike:
        pixels = images[number] if number < len(images) else None
        size = ome_pixel_size(pixels)
        metadata: dict[str, object] = {"axes": series.axes, "series": len(tiff.series)}
        metadata |= {"field": number} if len(alike) > 1 else {}
        metadata["pixel_size"] = list(size) if size else None
        metadata |= {"pixel_size_unit": "µm"} if size else {}
        planes = TiffPlanes(series, source)
        fields.append(_reader(planes, watched, ome_channels(pixels), size, metadata))
    return fields


def _reader(
    planes: TiffPlanes,
    watched: Watched,
    stated: list[str],
    pixel_size: tuple[float, float] | None,
    metadata: dict[str, object],
) -> RasterReader:
    """Describe a series whose other axes than Y and X become channels."""
    series = planes.series
    lengths = {a: n for a, n in zip(series.axes, series.shape, strict=True) if a not in "YX"}
    palette = _palette(series, planes.shape[0])
    if palette is not None:
        lengths = {"S": 3} if len(palette) == 3 else lengths
    shape = (len(palette) if palette is not None else planes.shape[0], *planes.shape[1:])

    def read(box: Box) -> Window:
        if not planes.windows:
            check_whole(reader)
        with watched.decoding("TIFF", _ERRORS):
            array = planes.read(box)
            if palette is not None:
                array = palette[:, array[0]]
            finite = np.isfinite(array) if array.dtype.kind == "f" else all_valid(array.shape)
            return array, finite

    reader = RasterReader(
        shape=shape,
        dtype=planes.dtype if palette is None else palette.dtype,
        read=read,
        block=planes.block,
        masked=planes.dtype.kind == "f",
        channels=plane_names(lengths, stated),
        pixel_size=pixel_size,
        metadata=metadata,
    )
    check_scene(shape, planes.segment_bytes)
    return reader


def _palette(series: tifffile.TiffPageSeries, planes: int) -> NDArray[np.uint16] | None:
    """Return (1 or 3, n) 16-bit levels to look indices up in; None where the index is the level."""
    page = series.keyframe
    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    palette: NDArray[np.uint16] = page.colormap
    gray = bool((palette == palette[:1]).all())
    if gray and bool((np.diff(palette[0].astype(int)) >= 0).all()):
        return None
    if planes > 1:
        raise DecodeError("decode_error", f"TIFF of {planes} palette pages; one is understood")
    return palette[:1] if gray else palette
