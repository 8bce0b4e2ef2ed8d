"""Rasters that lie as NumPy arrays: `.npy`, and the picture in an `.npz`.

Nothing is unpickled. Sizes are read from the headers before anything is allocated.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.raster_reader import MAX_BYTES, RasterImage, RasterReader, reader_of
from preprocessing.source import Source, as_source

_NPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_NAMES = ("img", "image", "images", "data", "x", "arr_0")
"names of a picture in an archive, the first that is there; else its largest array"
_HEADER = 1 << 16


def is_array_file(source: Source) -> bool:
    """Tell whether some bytes are an `.npy`, or a zip as `.npz` is one."""
    return source.startswith(_NPY) or source.startswith(_ZIP)


@contextmanager
def open_arrays(data: bytes | Source) -> Iterator[list[RasterReader]]:
    """Open the picture of an `.npy` or `.npz`: (H, W), (H, W, C) or (C, H, W).

    Of three axes the shorter one of first and last is that of the channels, the last where they
    are alike. Other arrays of an archive (masks, labels) are left out; which one was taken is in
    the metadata as `array`. What is not finite is not valid.

    Raises:
        DecodeError: empty_file, unrecognised_format, truncated, too_large, decode_error,
            shape_mismatch (no array has two or three axes) or no_valid_data.
    """
    yield [reader_of(_image(as_source(data)))]


def _image(source: Source) -> RasterImage:
    if not source:
        raise DecodeError("empty_file", "0 bytes")
    if source.startswith(_NPY):
        return _raster(_read(source.file(), len(source), "the array"), {})
    if not source.startswith(_ZIP):
        raise DecodeError("unrecognised_format", f"no NumPy file; starts with {source[:16]!r}")
    try:
        with zipfile.ZipFile(source.file()) as archive:
            return _of_archive(archive)
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError) as error:
        # zipfile raises RuntimeError for an encrypted member, NotImplementedError for a method.
        reason = "truncated" if "not a zip file" in str(error) else "decode_error"
        raise DecodeError(reason, f".npz: {error}") from error


def _of_archive(archive: zipfile.ZipFile) -> RasterImage:
    """Return the picture of an archive of arrays."""
    shapes: dict[str, tuple[int, ...]] = {}
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            with archive.open(info) as file:
                shapes[info.filename.removesuffix(".npy")] = _header(file, info.filename)[0]
    pictures = {name: shape for name, shape in shapes.items() if len(shape) in (2, 3)}
    if not pictures:
        raise DecodeError("shape_mismatch", f".npz: no array has two or three axes: {shapes}")
    largest = max(pictures, key=lambda name: (int(np.prod(pictures[name], dtype=object)), name))
    name = next((word for word in _NAMES if word in pictures), largest)
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        return _raster(_read(file, info.file_size, name), {"array": name})


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    """Return shape, Fortran order and dtype; nothing that would have to be unpickled."""
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(file, max_header_size=_HEADER)
    except ValueError as error:
        raise DecodeError("decode_error", f"{name}: no NumPy header ({error})") from error
    if dtype.kind not in "uif":
        raise DecodeError("decode_error", f"{name}: values of {dtype}; numbers are needed")
    if min(shape, default=1) < 0:
        raise DecodeError("decode_error", f"{name}: shape {shape}")
    return shape, fortran, dtype


def _read(file: IO[bytes], size: int, name: str) -> NDArray[np.generic]:
    """Return an array whose bytes are all there."""
    shape, fortran, dtype = _header(file, name)
    wanted = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if wanted > MAX_BYTES:
        raise DecodeError("too_large", f"{name}: {shape} of {dtype}; at most {MAX_BYTES} bytes")
    if wanted > size:
        raise DecodeError("truncated", f"{name}: {shape} of {dtype} in {size} bytes")
    data = file.read(wanted)
    if len(data) < wanted or (isinstance(file, zipfile.ZipExtFile) and file.read(1)):
        raise DecodeError("truncated", f"{name}: {len(data)} bytes of values, wanted {wanted}")
    values = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    return np.ascontiguousarray(values).astype(dtype.newbyteorder("="), copy=False)


def _raster(values: NDArray[np.generic], metadata: dict[str, object]) -> RasterImage:
    if values.ndim not in (2, 3) or 0 in values.shape:
        raise DecodeError("shape_mismatch", f"an array of shape {values.shape} is no raster")
    if values.ndim == 2:
        values = values[None]
    elif values.shape[0] >= values.shape[-1]:
        values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, np.bool_)
    if not valid.any():
        raise DecodeError("no_valid_data", f"no value of {values.size} is finite")
    return RasterImage(values, valid, None, None, metadata)
