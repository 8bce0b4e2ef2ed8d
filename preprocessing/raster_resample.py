"""A coarse band on a finer grid, box by box: no value depends on which box it is read in.

Each output pixel takes fixed source pixels with fixed weights, found from its absolute row and
column in exact integers. So a window equals the same part of the whole, bit for bit.

The rule is decided pixel by pixel: linear interpolation (pixels being areas) where every source
pixel with a weight is data, else the nearest value with its own validity. Nodata never mixes into
data, and a hole in one corner of a scene changes nothing elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from preprocessing.raster_reader import Box, RasterReader, Window

_ROWS = 64
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
    reader: RasterReader, shape: tuple[int, int], box: Box, *, nearest: bool = False
) -> Window:
    """Return the box of a raster as it would be on a grid of the shape (H, W).

    Args:
        nearest: never interpolate, as class codes need it.
    """
    rows = axis_taps(box[0], box[2], reader.shape[1], shape[0])
    columns = axis_taps(box[1], box[3], reader.shape[2], shape[1])
    (top, bottom), (left, right) = rows.span, columns.span
    values, valid = reader.read((top, left, bottom, right))
    rows, columns = rows.shifted(top), columns.shifted(left)
    picked = np.ix_(rows.nearest, columns.nearest)
    kept = np.stack([plane[picked] for plane in valid])
    out = np.stack([plane[picked] for plane in values])
    if not nearest:
        for plane, known, target in zip(values, valid, out, strict=True):
            _interpolate(plane, known, rows, columns, target)
    return out, kept


def _interpolate(
    plane: NDArray[np.generic],
    known: NDArray[np.bool_],
    rows: Taps,
    columns: Taps,
    target: NDArray[np.generic],
) -> None:
    """Overwrite the target (h, w) where all contributing pixels of the plane are known."""
    wide = np.dtype(np.float64) if plane.dtype != np.float32 else plane.dtype
    weights = columns.weight.astype(wide)
    whole = bool(known.all())
    for begin in range(0, len(target), _ROWS):
        cut = slice(begin, begin + _ROWS)
        above, below = (
            _along_rows(plane, tap[cut], columns, weights) for tap in (rows.first, rows.second)
        )
        weight = rows.weight[cut, None].astype(wide)
        with np.errstate(invalid="ignore", over="ignore"):
            mixed = above * (1 - weight) + below * weight
        values = mixed if target.dtype.kind == "f" else np.rint(mixed)
        if whole:
            target[cut] = values
            continue
        sure = _all_known(known, rows.first[cut], columns) & _all_known(
            known, rows.second[cut], columns
        )
        target[cut][sure] = values[sure].astype(target.dtype)


def _along_rows(
    plane: NDArray[np.generic],
    tap: NDArray[np.intp],
    columns: Taps,
    weights: NDArray[np.generic],
) -> NDArray[np.generic]:
    """Return rows of the plane, interpolated along them; each source row is computed once."""
    lowest = int(tap.min())
    some = plane[lowest : int(tap.max()) + 1].astype(weights.dtype)
    with np.errstate(invalid="ignore", over="ignore"):
        mixed = some[:, columns.first] * (1 - weights) + some[:, columns.second] * weights
    return np.asarray(mixed[tap - lowest])


def _all_known(known: NDArray[np.bool_], tap: NDArray[np.intp], columns: Taps) -> NDArray[np.bool_]:
    """Return where both columns of a row are data."""
    rows = known[tap]
    return np.asarray(rows[:, columns.first] & rows[:, columns.second])
