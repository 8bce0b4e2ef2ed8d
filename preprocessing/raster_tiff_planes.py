"""The planes of a TIFF series, box by box: only the strips and tiles that a box touches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.raster_reader import Box
from preprocessing.source import Source

_JPEG = (6, 7, 34892, 33007)
"compressions whose segments need tables of the page"


class TiffPlanes:
    """A series as planes (C, H, W): all axes but Y and X are C, the last of them fastest.

    Args:
        series: of an open TiffFile.
        source: the file's bytes.

    Raises:
        DecodeError: decode_error, for axes or values that are none of an image.
    """

    def __init__(self, series: tifffile.TiffPageSeries, source: Source) -> None:
        self.series, self.source = series, source
        axes, dtype = series.axes, series.dtype
        if "Y" not in axes or "X" not in axes:
            raise DecodeError("decode_error", f"TIFF with the axes {axes}; Y and X are needed")
        if dtype is None or dtype.kind not in "iufb":
            raise DecodeError("decode_error", f"TIFF of {dtype} values; real numbers are needed")
        page = series.keyframe
        sizes = dict(zip(axes, series.shape, strict=True))
        height, width = sizes["Y"], sizes["X"]
        self.shape = (math.prod(series.shape) // (height * width), height, width)
        self.dtype = np.dtype(dtype.type)
        self.samples = page.samplesperpixel if "S" in page.axes else 1
        self.windows = self._can_window()
        self.block = _segment_shape(page, width)
        self.segment_bytes = 0
        if self.windows and not page.is_final:
            contiguous = self.samples if page.planarconfig == 1 else 1
            self.segment_bytes = math.prod(self.block) * contiguous * self.dtype.itemsize
        self._whole: NDArray[np.generic] | None = None

    def _can_window(self) -> bool:
        """Tell whether pages are planes whose segments lie in the file as they are decoded."""
        page = self.series.keyframe
        if page.axes not in ("YX", "YXS", "SYX") or self.series.transform is not None:
            return False
        if page.is_final:
            return True
        return len(page.dataoffsets) == math.prod(page.chunked)

    def read(self, box: Box) -> NDArray[np.generic]:
        """Return (C, h, w) of a box, in native byte order.

        Raises:
            DecodeError: truncated, where a page lies in no file at hand.
            Whatever tifffile and its codecs raise, where bytes are damaged.
        """
        if not self.windows or box == (0, 0, *self.shape[1:]):
            top, left, bottom, right = box
            return self._all()[:, top:bottom, left:right]
        height, width = box[2] - box[0], box[3] - box[1]
        pages = self._pages()
        out = np.empty((len(pages), self.samples, height, width), self.dtype)
        for (page, offset), target in zip(pages, out, strict=True):
            if offset is not None:
                self._read_rows(offset, target, box)
            else:
                self._read_segments(page, target, box)
        return out.reshape(-1, height, width)

    def _all(self) -> NDArray[np.generic]:
        """Return all planes; kept only where no smaller box can be read."""
        if self._whole is not None:
            return self._whole
        self._pages()
        axes = self.series.axes
        array = np.asarray(self.series.asarray(maxworkers=1))
        order = [*(i for i, axis in enumerate(axes) if axis not in "YX")]
        order += [axes.index("Y"), axes.index("X")]
        array = array.transpose(order).reshape(self.shape)
        array = np.ascontiguousarray(array.astype(self.dtype, copy=False))
        if not self.windows:
            self._whole = array
        return array

    def _pages(self) -> list[tuple[Any, int | None]]:
        """Return each page, and where its values begin if they lie in the file as they are."""
        first = self.series.dataoffset
        keyframe = self.series.keyframe
        count = self.shape[0] // self.samples
        if first is not None:
            return [(keyframe, first + i * keyframe.nbytes) for i in range(count)]
        pages: list[Any] = list(self.series)
        if any(page is None for page in pages):
            raise DecodeError(
                "truncated",
                f"{sum(page is None for page in pages)} of {len(pages)} planes are not in the file",
            )
        return [(page, page.dataoffsets[0] if page.is_final else None) for page in pages]

    def _read_rows(self, offset: int, target: NDArray[np.generic], box: Box) -> None:
        """Fill (S, h, w) from values that are neither compressed nor scattered."""
        top, left, bottom, right = box
        _, height, width = self.shape
        page = self.series.keyframe
        mixed = self.samples if page.axes == "YXS" else 1
        row = width * mixed * self.dtype.itemsize
        kind = self.dtype.newbyteorder(page.parent.byteorder)
        for first in range(0, self.samples, mixed):
            begin = offset + (first * height + top) * row
            data = self.source[begin : begin + (bottom - top) * row]
            if len(data) < (bottom - top) * row:
                raise DecodeError("truncated", f"TIFF ends in row {top + len(data) // row}")
            rows = np.frombuffer(data, kind).reshape(bottom - top, width, mixed)[:, left:right]
            target[first : first + mixed] = np.moveaxis(rows, -1, 0)

    def _read_segments(self, page: Any, target: NDArray[np.generic], box: Box) -> None:
        """Fill (S, h, w) from the strips or tiles that the box touches."""
        top, left, bottom, right = box
        _, height, width = self.shape
        rows, columns = self.block
        down, across = -(-height // rows), -(-width // columns)
        separate = self.samples if page.keyframe.axes == "SYX" else 1
        mixed = self.samples // separate
        for sample in range(separate):
            part = target[sample * mixed : (sample + 1) * mixed]
            for y in range(top // rows, -(-bottom // rows)):
                for x in range(left // columns, -(-right // columns)):
                    segment = self._decode(page, (sample * down + y) * across + x)
                    _paste(part, segment, (y * rows - top, x * columns - left))

    def _decode(self, page: Any, index: int) -> NDArray[np.generic]:
        """Return a strip or tile (S, rows, columns)."""
        keyframe = page.keyframe
        options: dict[str, Any] = {}
        if keyframe.compression in _JPEG:
            options = {"jpegtables": page.jpegtables, "jpegheader": keyframe.jpegheader}
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        segment, _, _ = keyframe.decode(self.source[offset : offset + size], index, **options)
        return np.asarray(np.moveaxis(segment[0], -1, 0))


def _segment_shape(page: Any, width: int) -> tuple[int, int]:
    """Return the (rows, columns) that are decoded together."""
    if page.is_final:
        return 1, width
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return max(1, min(page.rowsperstrip, page.imagelength)), width


def _paste(target: NDArray[np.generic], segment: NDArray[np.generic], place: Sequence[int]) -> None:
    """Copy a segment (S, rows, columns) into the target (S, h, w), where the two overlap."""
    (y, x), (_, rows, columns), (_, h, w) = place, segment.shape, target.shape
    top, left, bottom, right = max(y, 0), max(x, 0), min(y + rows, h), min(x + columns, w)
    target[:, top:bottom, left:right] = segment[:, top - y : bottom - y, left - x : right - x]
