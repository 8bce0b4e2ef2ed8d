"""Exact sums of pixel values, merged without loss: the same mean and variance in whatever order parts are merged."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of squares per channel, as exact numbers."""

    count: tuple[int, ...]
    total: tuple[Fraction, ...]
    squares: tuple[Fraction, ...]

    @classmethod
    def empty(cls) -> Moments:
        """Return the moments of nothing: merging them changes nothing."""
        return cls((), (), ())

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both together.

        Where one has fewer channels than the other (grey beside colour), each channel keeps its own count.
        """
        size = max(len(self.count), len(other.count))
        count = tuple(a + b for a, b in zip(_pad(self.count, size), _pad(other.count, size), strict=True))
        total = tuple(a + b for a, b in zip(_pad(self.total, size), _pad(other.total, size), strict=True))
        squares = tuple(a + b for a, b in zip(_pad(self.squares, size), _pad(other.squares, size), strict=True))
        return Moments(count, total, squares)

    def mean(self) -> list[float]:
        """Return the mean of each channel; 0 where nothing was counted."""
        return [float(t / n) if n else 0.0 for n, t in zip(self.count, self.total, strict=True)]

    def variance(self) -> list[float]:
        """Return the biased variance of each channel."""
        return [
            float(s / n - (t / n) ** 2) if n else 0.0
            for n, t, s in zip(self.count, self.total, self.squares, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as text, so that nothing is rounded."""
        return {
            "count": list(self.count),
            "total": [str(value) for value in self.total],
            "squares": [str(value) for value in self.squares],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Moments:
        """Return the moments of `to_json`."""
        return cls(
            tuple(content["count"]),
            tuple(Fraction(text) for text in content["total"]),
            tuple(Fraction(text) for text in content["squares"]),
        )


def _pad(values: tuple[Any, ...], size: int) -> tuple[Any, ...]:
    return values + (0,) * (size - len(values))


def measure(array: NDArray[Any], *, channels_last: bool, valid: NDArray[np.bool_] | None = None) -> Moments:
    """Return the moments of an array's channels.

    Args:
        array: (..., C) or, with two axes, one channel; (C, H, W) where `channels_last` is false.
        valid: (H, W) bool, pixels to count; with channels first only.
    """
    if channels_last:
        planes = [array] if array.ndim == 2 else [array[..., c] for c in range(array.shape[-1])]
    else:
        planes = [plane if valid is None else plane[valid] for plane in array]
    sums = [_sums(np.ascontiguousarray(plane).ravel()) for plane in planes]
    return Moments(*(tuple(column) for column in zip(*sums, strict=True)))  # type: ignore[arg-type]


def _sums(values: NDArray[Any]) -> tuple[int, Fraction, Fraction]:
    if values.dtype.kind in "iu":
        return values.size, Fraction(int(values.sum(dtype=np.int64))), Fraction(_integer_squares(values))
    finite = values[np.isfinite(values)].astype(np.float64)
    total = math.fsum(finite)
    squares = math.fsum(finite * finite)
    return finite.size, Fraction(total), Fraction(squares)


def _integer_squares(values: NDArray[Any]) -> int:
    """Return the exact sum of squares of integers."""
    if values.dtype == np.uint8:
        counts = np.bincount(values, minlength=256)
        return int((counts * np.arange(256, dtype=np.int64) ** 2).sum())
    if values.dtype.itemsize <= 2:
        wide = values.astype(np.int64)
        return int(np.dot(wide, wide)) if values.size < 2**30 else sum(int(v) ** 2 for v in values)
    return sum(int(v) ** 2 for v in values)
