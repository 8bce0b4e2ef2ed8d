"""Bands on one grid, and the tiles of a grid."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.raster_reader import (
    Box,
    RasterImage,
    RasterReader,
    Window,
    all_valid,
    reader_of,
)
from preprocessing.raster_resample import resampled


def stack_channels(planes: Sequence[tuple[str, NDArray[np.generic]]]) -> NDArray[np.generic]:
    """Return (C, H, W) of named (H, W) planes, in their order; mixed dtypes widen to hold all.

    Raises:
        DecodeError: shape_mismatch, naming the channels and their shapes.
    """
    _check_shapes([(name, plane.shape) for name, plane in planes])
    return np.stack([plane for _, plane in planes])


def _check_shapes(shapes: Sequence[tuple[str, tuple[int, ...]]]) -> None:
    """Refuse channels of different shapes."""
    if len({shape for _, shape in shapes}) > 1:
        seen = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes)
        raise DecodeError("shape_mismatch", f"channels of one field differ in shape: {seen}")


def merge_channels(
    images: Sequence[RasterImage], names: Sequence[str], nearest: Collection[str] = ()
) -> RasterImage:
    """Return one image of files that hold a channel each, as `merge_readers` does."""
    merged = merge_readers([reader_of(image) for image in images], names, nearest)
    array, valid = merged.read(merged.box)
    return RasterImage(
        array=array,
        valid_CHW=valid,
        channels=merged.channels,
        pixel_size=merged.pixel_size,
        metadata=merged.metadata,
        crs=merged.crs,
        bounds=merged.bounds,
    )


def merge_readers(
    readers: Sequence[RasterReader], names: Sequence[str], nearest: Collection[str] = ()
) -> RasterReader:
    """Return one raster of files that hold a channel each; mixed dtypes widen to hold all.

    Georeferenced bands of different resolutions come to the grid of the one with the most pixels
    (`raster_resample` says how); anything else must agree in shape.

    Args:
        readers: one raster a channel; each with a single channel.
        names: the channels' names, in the order of `readers`.
        nearest: the channels whose values are codes, which are never interpolated.

    Raises:
        DecodeError: shape_mismatch.
    """
    for name, reader in zip(names, readers, strict=True):
        if reader.shape[0] != 1:
            raise DecodeError(
                "shape_mismatch", f"{name}: {reader.shape[0]} channels in a file, expected 1"
            )
    largest = max(readers, key=lambda reader: reader.shape[1] * reader.shape[2])
    if all(reader.bounds is not None for reader in readers):
        _check_ground(readers, names, largest)
    else:
        _check_shapes([(n, r.shape[1:]) for n, r in zip(names, readers, strict=True)])
    grid = largest.shape[1:]
    dtype = np.result_type(*(reader.dtype for reader in readers))
    masked = any(reader.masked for reader in readers)

    def read(box: Box) -> Window:
        shape = (len(readers), box[2] - box[0], box[3] - box[1])
        values = np.empty(shape, dtype)
        valid = np.empty(shape, np.bool_) if masked else all_valid(shape)
        for channel, (reader, name) in enumerate(zip(readers, names, strict=True)):
            window = _on_grid(reader, grid, box, nearest=name in nearest)
            values[channel] = window[0][0]
            if masked:
                valid[channel] = window[1][0]
        return values, valid

    # Names and numbers are those of the file with the smallest pixels.
    finest = min(readers, key=lambda reader: reader.pixel_size or (0.0, 0.0))
    return replace(
        finest,
        shape=(len(readers), *grid),
        dtype=dtype,
        read=read,
        block=_block(readers, grid),
        masked=masked,
        channels=list(names),
        metadata={**finest.metadata, "descriptions": list(names)},
    )


def _on_grid(reader: RasterReader, grid: tuple[int, int], box: Box, *, nearest: bool) -> Window:
    """Return the box of a grid of (H, W) pixels, resampled if the raster has others."""
    if reader.shape[1:] == grid:
        return reader.read(box)
    return resampled(reader, grid, box, nearest=nearest)


def _block(readers: Sequence[RasterReader], grid: tuple[int, int]) -> tuple[int, int]:
    """Return the largest block of any band, in pixels of the grid."""
    rows = max(r.block[0] * grid[0] // r.shape[1] for r in readers)
    columns = max(r.block[1] * grid[1] // r.shape[2] for r in readers)
    return max(1, rows), max(1, columns)


def _check_ground(
    readers: Sequence[RasterReader], names: Sequence[str], finest: RasterReader
) -> None:
    """Refuse bands of different ground, or in different CRSs."""
    for name, reader in zip(names, readers, strict=True):
        if reader.crs != finest.crs or not _same_ground(reader, finest):
            raise DecodeError(
                "shape_mismatch",
                f"{name} covers {reader.bounds} in {reader.crs}, "
                f"other bands cover {finest.bounds} in {finest.crs}",
            )


def _same_ground(reader: RasterReader, finest: RasterReader) -> bool:
    """Tell whether two rasters have the same bounds, to half a pixel of the coarser one."""
    if reader.bounds is None or finest.bounds is None:
        return False
    grace = 0.5 * max(reader.pixel_size or (0.0, 0.0))
    pairs = zip(reader.bounds, finest.bounds, strict=True)
    return all(abs(a - b) <= grace for a, b in pairs)


def tile_boxes(
    height: int, width: int, size: int, overlap: int = 0
) -> list[tuple[int, int, int, int]]:
    """Return the (top, left, bottom, right) boxes that cover a raster with tiles of one size.

    The last tile of a row or column is moved inward, so that it is whole and overlaps more. An edge
    shorter than `size` gives tiles of its own length.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(
            f"tile_boxes: size is {size}, overlap {overlap}; 0 <= overlap < size is needed."
        )
    tops, lefts = _starts(height, size, overlap), _starts(width, size, overlap)
    h, w = min(size, height), min(size, width)
    return [(top, left, top + h, left + w) for top in tops for left in lefts]


def _starts(length: int, size: int, overlap: int) -> list[int]:
    """Return where the tiles along one edge begin."""
    if length <= size:
        return [0]
    return [*range(0, length - size, size - overlap), length - size]
