"""Per-channel mean and variance that merge without loss: shards in any order give equal numbers.

Sums are kept as exact fractions. Those of integers are exact; those of floats are exact sums of
the float64 sums of single arrays, so a merge never rounds and its order cannot matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

_CHUNK = 2**20
"values summed at once; 2**20 squares of 16-bit numbers stay exact in float64"
_BYTES = 2**30
"values of a channel measured at once, of 8 bits"


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares of each channel; no channels at all is the neutral element."""

    count: tuple[int, ...]
    total: tuple[int | Fraction, ...]
    squares: tuple[int | Fraction, ...]

    @classmethod
    def empty(cls) -> Moments:
        """Return the moments of nothing, which merge with any others."""
        return cls((), (), ())

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets of values.

        Raises:
            ValueError: the two have different numbers of channels.
        """
        if not self.count or not other.count:
            return other if not self.count else self
        if len(self.count) != len(other.count):
            raise ValueError(
                f"Moments.merge: {len(self.count)} channels meet {len(other.count)}. Samples of "
                "one dataset must have the same channels; ingest them as two datasets."
            )
        return Moments(
            tuple(a + b for a, b in zip(self.count, other.count, strict=True)),
            tuple(a + b for a, b in zip(self.total, other.total, strict=True)),
            tuple(a + b for a, b in zip(self.squares, other.squares, strict=True)),
        )

    def mean(self) -> list[float]:
        """Return the mean of each channel; 0 for a channel without a value."""
        pairs = zip(self.total, self.count, strict=True)
        return [float(Fraction(total) / count) if count else 0.0 for total, count in pairs]

    def variance(self) -> list[float]:
        """Return the population variance of each channel; 0 for one without a value."""
        values = []
        for count, total, squares in zip(self.count, self.total, self.squares, strict=True):
            spread = squares - Fraction(total * total, count) if count else 0
            values.append(float(spread / count) if count else 0.0)
        # Sums of floats are rounded once per array: a constant channel can come out below 0.
        return [max(0.0, value) for value in values]

    def to_json(self) -> dict[str, list[int] | list[str]]:
        """Return what JSON can hold; the sums as text, since they pass 2**53."""
        return {
            "count": list(self.count),
            "total": [str(value) for value in self.total],
            "squares": [str(value) for value in self.squares],
        }

    @classmethod
    def from_json(cls, fields: dict[str, list[int] | list[str]]) -> Moments:
        """Return the moments that `to_json` wrote."""
        return cls(
            tuple(int(value) for value in fields["count"]),
            tuple(_number(value) for value in fields["total"]),
            tuple(_number(value) for value in fields["squares"]),
        )


ByChannels = dict[int, Moments]
"Moments of samples that differ in their number of channels, each number apart."


def merge_apart(left: ByChannels, right: ByChannels) -> ByChannels:
    """Return the moments of both sets of samples, for each number of channels."""
    both = sorted({*left, *right})
    none = Moments.empty()
    return {number: left.get(number, none).merge(right.get(number, none)) for number in both}


def apart(moments: Moments) -> ByChannels:
    """Return the moments of samples of one kind under their number of channels."""
    return {len(moments.count): moments} if moments.count else {}


def apart_to_json(moments: ByChannels) -> dict[str, Any]:
    """Return what JSON can hold."""
    return {str(number): moments[number].to_json() for number in sorted(moments)}


def apart_from_json(fields: dict[str, Any]) -> ByChannels:
    """Return the moments that `apart_to_json` wrote."""
    return {int(number): Moments.from_json(each) for number, each in fields.items()}


def most_common(moments: ByChannels) -> Moments:
    """Return the moments of the number of channels that most values have."""
    kinds = sorted(moments.values(), key=lambda each: (-sum(each.count), len(each.count)))
    return kinds[0] if kinds else Moments.empty()


def _number(text: int | str) -> int | Fraction:
    """Return an exact number; integers stay integers, which are added ten times as fast."""
    value = Fraction(text)
    return value.numerator if value.denominator == 1 else value


def measure(
    array: NDArray[np.generic],
    channels_last: bool,
    valid: NDArray[np.bool_] | None = None,
) -> Moments:
    """Return the moments of each channel of an array.

    Args:
        array: (..., C) if `channels_last`, else (C, ...); two axes are one channel. Any real dtype.
        valid: (H, W) for all channels, or one bool for each value of `array`; False is left out.
            Values that are not finite are always left out.
    """
    if array.ndim == 2:
        array, channels_last = array[None], False
        valid = valid[None] if valid is not None else None
    if channels_last and array.dtype == np.uint8 and valid is None and array.shape[-1] <= 4:
        return _byte_moments(array.view(np.uint8))
    planes = np.moveaxis(array, -1, 0) if channels_last else array
    masks = _masks(planes, valid, channels_last)
    return _join([_plane_moments(p, m) for p, m in zip(planes, masks, strict=True)])


def _masks(
    planes: NDArray[np.generic], valid: NDArray[np.bool_] | None, channels_last: bool
) -> Sequence[NDArray[np.bool_] | None]:
    """Return the mask of each channel's plane."""
    if valid is None:
        return [None] * len(planes)
    if valid.ndim == planes.ndim:
        return list(np.moveaxis(valid, -1, 0) if channels_last else valid)
    return [np.broadcast_to(valid, planes.shape[1:])] * len(planes)


def _byte_moments(array: NDArray[np.uint8]) -> Moments:
    """Return the moments of each channel of a uint8 array (..., C).

    OpenCV gives mean and deviation in float64; the integer sums that they came from are found again
    by rounding, exactly as long as count * 255**2 is far below 2**52.
    """
    channels = array.shape[-1]
    count = array.size // channels
    totals, squares = np.zeros(channels, np.int64), np.zeros(channels, np.int64)
    rows = array.reshape(-1, 1, channels)
    for begin in range(0, count, _BYTES):
        chunk = rows[begin : begin + _BYTES]
        mean, deviation = (value.ravel() for value in cv2.meanStdDev(chunk))
        total = np.rint(mean * len(chunk))
        squares += np.rint(len(chunk) * deviation**2 + total**2 / len(chunk)).astype(np.int64)
        totals += total.astype(np.int64)
    return Moments((count,) * channels, tuple(totals.tolist()), tuple(squares.tolist()))


def _plane_moments(plane: NDArray[np.generic], mask: NDArray[np.bool_] | None) -> Moments:
    """Return the moments of one channel."""
    values = plane.ravel() if mask is None else plane[mask]
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    total = squares = Fraction(0)
    for begin in range(0, len(values), _CHUNK):
        chunk = values[begin : begin + _CHUNK]
        if chunk.dtype.kind in "iu" and chunk.dtype.itemsize > 2:
            wide = chunk.astype(object)
            total += Fraction(int(wide.sum()))
            squares += Fraction(int((wide * wide).sum()))
        else:
            wide = chunk.astype(np.float64)
            total += Fraction(float(wide.sum()))
            squares += Fraction(float(np.einsum("i,i->", wide, wide)))
    return Moments((len(values),), (total,), (squares,))


def _join(channels: Sequence[Moments]) -> Moments:
    return Moments(
        tuple(channel.count[0] for channel in channels),
        tuple(channel.total[0] for channel in channels),
        tuple(channel.squares[0] for channel in channels),
    )
