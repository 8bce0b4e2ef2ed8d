"""The tiles of a raster in bounded memory: rows of tiles from a slab of rows that moves down.

A slab is read in pieces along the blocks of the file, so that each strip or tile of it is decoded
once. Which tiles come out, in which order and with which values, depends on the boxes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, groupby

import numpy as np
from numpy.typing import NDArray

from preprocessing.raster_reader import Box, RasterReader, Window

SLAB_BYTES = 3 * 2**27
"values and masks of a slab (384 MiB)"
PIECE_BYTES = 2**25
"values read at once into a slab"
_PROBE = 512
"edge of the window that is looked at first for channels without data"


def read_tiles(
    reader: RasterReader,
    boxes: Sequence[Box],
    slab_bytes: int = SLAB_BYTES,
) -> Iterator[tuple[Box, Window]]:
    """Yield the values of each box; they are views, which hold only until the next box.

    Args:
        boxes: row by row, from the top down (`tile_boxes`).
    """
    channels, _, width = reader.shape
    rows = max(box[2] - box[0] for box in boxes) + reader.block[0]
    if rows * width * channels * (reader.dtype.itemsize + reader.masked) <= slab_bytes:
        slab = _Slab(reader, rows)
        for box in boxes:
            slab.cover(box[0], box[2])
            yield box, cut(slab.window, box, (slab.top, 0))
        return
    for group in _groups(reader, boxes, slab_bytes // 2):
        around = (group[0][0], group[0][1], group[-1][2], group[-1][3])
        window = reader.read(around)
        for box in group:
            yield box, cut(window, box, around)


def channels_with_data(reader: RasterReader) -> NDArray[np.bool_]:
    """Return (C,): whether a channel has any value that is data, anywhere in the raster.

    Most scenes show it in the middle; only one with a dead channel is read to its end.
    """
    channels, height, width = reader.shape
    alive = np.full(channels, not reader.masked)
    top, left = max(0, height - _PROBE) // 2, max(0, width - _PROBE) // 2
    middle = (top, left, min(top + _PROBE, height), min(left + _PROBE, width))
    for box in chain([middle], _pieces(reader, 0, height)):
        if alive.all():
            break
        alive |= reader.read(box)[1].any((1, 2))
    return alive


def cut(window: Window, box: Box, origin: Sequence[int]) -> Window:
    """Return the box out of a window whose first pixel is at origin (row, column)."""
    rows = slice(box[0] - origin[0], box[2] - origin[0])
    columns = slice(box[1] - origin[1], box[3] - origin[1])
    return window[0][:, rows, columns], window[1][:, rows, columns]


def _groups(reader: RasterReader, boxes: Sequence[Box], limit: int) -> Iterator[list[Box]]:
    """Yield neighbours of one row of tiles that together fit into the limit, at least one."""
    value = reader.shape[0] * (reader.dtype.itemsize + reader.masked)
    for _, row in groupby(boxes, key=lambda box: box[0]):
        group: list[Box] = []
        for box in row:
            if group and (box[2] - box[0]) * (box[3] - group[0][1]) * value > limit:
                yield group
                group = []
            group.append(box)
        yield group


class _Slab:
    """Rows [top, bottom) of a raster in memory, which move down and are read once."""

    def __init__(self, reader: RasterReader, rows: int) -> None:
        channels, _, width = reader.shape
        self.reader, self.top, self.bottom = reader, 0, 0
        self.values: NDArray[np.generic] = np.empty((channels, rows, width), reader.dtype)
        shape = self.values.shape
        self.valid = np.empty(shape, np.bool_) if reader.masked else np.broadcast_to(True, shape)

    @property
    def window(self) -> Window:
        """The rows in memory."""
        return self.values, self.valid

    def cover(self, top: int, bottom: int) -> None:
        """Hold the rows [top, bottom); top never moves up."""
        if bottom <= self.bottom:
            return
        self._drop(top)
        rows = self.reader.block[0]
        end = min(-(-bottom // rows) * rows, self.reader.shape[1])
        for piece in _pieces(self.reader, self.bottom, end):
            values, valid = self.reader.read(piece)
            target = slice(piece[0] - self.top, piece[2] - self.top), slice(piece[1], piece[3])
            self.values[:, *target] = values
            if self.reader.masked:
                self.valid[:, *target] = valid
        self.bottom = end

    def _drop(self, top: int) -> None:
        """Forget the rows above; channel by channel, which keeps numpy's copy small."""
        kept, by = max(self.bottom - top, 0), top - self.top
        if by and kept:
            for plane in (*self.values, *(self.valid if self.reader.masked else ())):
                plane[:kept] = plane[by : by + kept]
        self.top, self.bottom = top, max(self.bottom, top)


def _pieces(reader: RasterReader, top: int, bottom: int) -> Iterator[Box]:
    """Yield boxes that cover whole rows, along the file's blocks, each of about PIECE_BYTES."""
    channels, _, width = reader.shape
    rows, columns = reader.block
    value = channels * reader.dtype.itemsize
    high = min(bottom - top, max(rows, PIECE_BYTES // (value * width) // rows * rows))
    wide = max(columns, PIECE_BYTES // (value * high) // columns * columns)
    if wide >= width or columns >= width:
        wide = width
    for y in range(top, bottom, high):
        for x in range(0, width, wide):
            yield y, x, min(y + high, bottom), min(x + wide, width)
