"""A coarse band on a finer grid, box by box: no value depends on which box it is read in.

Each output pixel takes fixed source pixels with fixed weights, found from its absolute row and
column in exact integers. So a window equals the same part of the whole, bit for bit.

The rule is decided pixel by pixel: linear interpolation (pixels being areas) where every source
pixel with a weight is data, else the nearest value with its own validity. Nodata never mixes into
data, and a hole in one corner of a scene changes nothing elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from preprocessing.raster_reader import Box, RasterReader, Window, all_valid

_ROWS = 16
"output rows computed at once, so that their float64 stay in the processor's cache"


@dataclass(frozen=True, slots=True)
class Taps:
    """For each output pixel along one axis: the two source pixels, and the nearest."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    "equal to `first` where its weight is 0"
    weight: NDArray[np.float64]
    "of `second`"
    nearest: NDArray[np.intp]

    @property
    def span(self) -> tuple[int, int]:
        """The source pixels that are needed: (begin, end)."""
        begin = min(int(self.first.min()), int(self.nearest.min()))
        return begin, max(int(self.second.max()), int(self.nearest.max())) + 1

    def part(self, cut: slice) -> Taps:
        """Return the taps of some of the output pixels."""
        return Taps(self.first[cut], self.second[cut], self.weight[cut], self.nearest[cut])

    def shifted(self, by: int) -> Taps:
        """Return the taps into a source that begins at pixel `by`."""
        return Taps(self.first - by, self.second - by, self.weight, self.nearest - by)


def axis_taps(begin: int, end: int, source: int, target: int) -> Taps:
    """Return the taps of the output pixels [begin, end) of an axis of `target` pixels.

    Output pixel i has its centre at (i + 1/2) source / target - 1/2 in source pixels.
    """
    place = np.arange(begin, end, dtype=np.int64)
    number = (2 * place + 1) * source - target  # centre times (2 target)
    number = np.clip(number, 0, (source - 1) * 2 * target)
    first, rest = np.divmod(number, 2 * target)
    second = np.minimum(first + (rest > 0), source - 1)
    return Taps(first, second, rest / (2 * target), (2 * place + 1) * source // (2 * target))


def resampled(
    reader: RasterReader, grid: tuple[int, int], box: Box, *, nearest: bool = False
) -> Window:
    """Return the box of a raster as it would be on a grid of (H, W) pixels.

    Args:
        nearest: never interpolate, as class codes need it.
    """
    rows = axis_taps(box[0], box[2], reader.shape[1], grid[0])
    columns = axis_taps(box[1], box[3], reader.shape[2], grid[1])
    (top, bottom), (left, right) = rows.span, columns.span
    values, valid = reader.read((top, left, bottom, right))
    rows, columns = rows.shifted(top), columns.shifted(left)
    whole = bool(valid.all())
    shape = (len(values), box[2] - box[0], box[3] - box[1])
    kept = all_valid(shape) if whole else _nearest(valid, rows, columns)
    linear = whole and not nearest
    out = np.empty(shape, values.dtype) if linear else _nearest(values, rows, columns)
    if not nearest:
        for plane, known, target in zip(values, valid, out, strict=True):
            _interpolate(plane, None if whole else known, rows, columns, target)
    return out, kept


def _nearest(planes: NDArray[Any], rows: Taps, columns: Taps) -> NDArray[Any]:
    """Return (C, h, w) of the nearest source pixels."""
    return planes[:, rows.nearest[:, None], columns.nearest]


def _interpolate(
    plane: NDArray[np.generic],
    known: NDArray[np.bool_] | None,
    rows: Taps,
    columns: Taps,
    target: NDArray[np.generic],
) -> None:
    """Overwrite the target (h, w) where all contributing pixels of the plane are known."""
    wide = np.dtype(np.float64) if plane.dtype != np.float32 else plane.dtype
    for begin in range(0, len(target), _ROWS):
        cut = slice(begin, begin + _ROWS)
        values = _mixed(plane, rows.part(cut), columns, wide)
        if target.dtype.kind != "f":
            np.rint(values, out=values)
        if known is None:
            target[cut] = values
            continue
        sure = _all_known(known, rows.part(cut), columns)
        target[cut][sure] = values[sure].astype(target.dtype)


def _mixed(
    plane: NDArray[np.generic], rows: Taps, columns: Taps, wide: np.dtype[Any]
) -> NDArray[Any]:
    """Return the interpolated rows: first along each source row, once, then between them."""
    begin, end = rows.span
    across, down = columns.weight.astype(wide), rows.weight[:, None].astype(wide)
    some = plane[begin:end].astype(wide)
    lines: NDArray[Any]
    mixed: NDArray[Any]
    with np.errstate(invalid="ignore", over="ignore"):
        lines = some[:, columns.first] * (1 - across)
        lines += some[:, columns.second] * across
        mixed = lines[rows.first - begin] * (1 - down)
        mixed += lines[rows.second - begin] * down
    return mixed


def _all_known(known: NDArray[np.bool_], rows: Taps, columns: Taps) -> NDArray[np.bool_]:
    """Return where all four source pixels are data."""
    begin, end = rows.span
    some = known[begin:end]
    lines = some[:, columns.first] & some[:, columns.second]
    return np.asarray(lines[rows.first - begin] & lines[rows.second - begin])
