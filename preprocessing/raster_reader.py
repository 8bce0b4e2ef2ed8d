"""A raster that is read box by box, and one that is whole in memory.

Every raw format gives a `RasterReader`; whether a scene is read at once or in windows, the same
code returns its values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.source import Source

Box = tuple[int, int, int, int]
"(top, left, bottom, right) in pixels; bottom and right are outside"
Window = tuple[NDArray[np.generic], NDArray[np.bool_]]
"values (C, h, w), and whether each is data"
Place = tuple[float, float, float, float]

MAX_BYTES = 2**28
"values of a raster that is decoded whole, as one sample"
MAX_SCENE_VALUES = 2**38
"values of a raster that is read in windows; more is a damaged or hostile header"
MAX_SEGMENT_BYTES = 2**28
"values of one strip, tile or chunk, which a codec decodes whole whatever window is asked for"


@dataclass(frozen=True, slots=True)
class RasterImage:
    """A raster in memory, and what its file says of it."""

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
    bounds: Place | None = None
    "left, bottom, right, top, in units of the CRS"

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(H, W): True where every channel that has data at all has data."""
        alive = self.valid_CHW.any((1, 2))
        return np.asarray(self.valid_CHW[alive].all(0))


@dataclass(frozen=True, slots=True)
class RasterReader:
    """An open raster; fields as those of `RasterImage`."""

    shape: tuple[int, int, int]
    dtype: np.dtype[np.generic]
    read: Callable[[Box], Window]
    "raises DecodeError where the bytes of a box cannot be decoded"
    block: tuple[int, int]
    "(rows, columns) that the file decodes together"
    masked: bool
    "whether a value may be no data; if not, `valid` of a window is True everywhere"
    channels: list[str] | None
    pixel_size: tuple[float, float] | None
    metadata: dict[str, object]
    crs: str | None = None
    bounds: Place | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        channels, height, width = self.shape
        return channels * height * width * self.dtype.itemsize

    @property
    def box(self) -> Box:
        """The box of the whole raster."""
        return 0, 0, self.shape[1], self.shape[2]


def read_whole(reader: RasterReader) -> RasterImage:
    """Return the whole raster.

    Raises:
        DecodeError: too_large, no_valid_data, or what reading raises.
    """
    check_whole(reader)
    array, valid = reader.read(reader.box)
    if not valid.any():
        raise DecodeError(
            "no_valid_data",
            f"all {array.size} values are nodata ({reader.metadata.get('nodata')}) or not finite",
        )
    metadata = reader.metadata
    if reader.masked:
        metadata = {**metadata, "valid_share": round(float(valid.mean()), 6)}
    return RasterImage(
        array=array,
        valid_CHW=valid,
        channels=reader.channels,
        pixel_size=reader.pixel_size,
        metadata=metadata,
        crs=reader.crs,
        bounds=reader.bounds,
    )


def check_whole(reader: RasterReader) -> None:
    """Refuse a raster that is too large to be one sample."""
    if reader.nbytes > MAX_BYTES:
        raise DecodeError(
            "too_large",
            f"{_size(reader.shape)} of {reader.dtype} are {reader.nbytes >> 20} MiB; at most "
            f"{MAX_BYTES >> 20} MiB become one sample: cut it into tiles with --tile",
        )


def check_scene(shape: tuple[int, int, int], segment_bytes: int) -> None:
    """Refuse, from the header, a scene that not even windows can read in bounded memory.

    Args:
        shape: (C, H, W).
        segment_bytes: of one decoded strip, tile or chunk.
    """
    if shape[0] * shape[1] * shape[2] > MAX_SCENE_VALUES:
        raise DecodeError(
            "too_large", f"{_size(shape)} values; at most {MAX_SCENE_VALUES} are read in windows"
        )
    if segment_bytes > MAX_SEGMENT_BYTES:
        raise DecodeError(
            "too_large",
            f"a strip, tile or chunk of {segment_bytes >> 20} MiB, which is decoded whole; at most "
            f"{MAX_SEGMENT_BYTES >> 20} MiB: write the file again with smaller tiles "
            "(gdal_translate -co TILED=YES; tifffile tile=(512, 512))",
        )


def _size(shape: tuple[int, int, int]) -> str:
    return f"{shape[0]} channels of {shape[1]}x{shape[2]}"


def loaded(reader: RasterReader) -> RasterReader:
    """Return a raster that was read once and then stays in memory."""
    values, valid = reader.read(reader.box)

    def read(box: Box) -> Window:
        cut = (slice(None), slice(box[0], box[2]), slice(box[1], box[3]))
        return values[cut], valid[cut]

    return replace(reader, read=read, block=(1, 1))


def reader_of(image: RasterImage) -> RasterReader:
    """Return a raster in memory as one that is read box by box."""
    channels, height, width = image.array.shape
    return loaded(
        RasterReader(
            shape=(channels, height, width),
            dtype=image.array.dtype,
            read=lambda _: (image.array, image.valid_CHW),
            block=(1, 1),
            masked=not image.valid_CHW.all(),
            channels=image.channels,
            pixel_size=image.pixel_size,
            metadata=image.metadata,
            crs=image.crs,
            bounds=image.bounds,
        )
    )


def all_valid(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return True for each value, without the memory of it; read-only."""
    return np.broadcast_to(np.True_, shape)


class Watched:
    """Sources whose errors survive the libraries between them and us.

    GDAL turns a Python error in its file callbacks into a crash of the call; so reading returns
    nothing, the library fails on that, and `decoding` raises the first error in its place. A
    network that is down must never be booked as a damaged file.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def wrap(self, source: Source) -> Source:
        """Return a source that never raises, and has no bytes after the first error."""

        def read(offset: int, size: int) -> bytes:
            if self.error is not None:
                return b""
            try:
                return source.read_at(offset, size)
            except Exception as error:  # raised again by `decoding`
                self.error = error
                return b""

        return Source(len(source), read)

    @contextmanager
    def decoding(self, what: str, errors: tuple[type[Exception], ...]) -> Iterator[None]:
        """Turn a library's errors into DecodeError, unless the source itself failed."""
        try:
            yield
        except DecodeError:
            self._raise_own()
            raise
        except errors as error:
            self._raise_own()
            # Behind rasterio's error stands GDAL's, which says what was wrong.
            detail = error.__cause__ or f"{type(error).__name__}: {error}"
            raise DecodeError("decode_error", f"{what}: {detail}") from error
        self._raise_own()

    def _raise_own(self) -> None:
        if self.error is not None:
            raise self.error
