"""Bands on one grid, and the tiles of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import DecodeError
from preprocessing.images import resize
from preprocessing.raster_files import RasterImage


def stack_channels(planes: Sequence[tuple[str, NDArray[np.generic]]]) -> NDArray[np.generic]:
    """Return (C, H, W) of named (H, W) planes, in their order; mixed dtypes widen to hold all.

    Raises:
        DecodeError: shape_mismatch, naming the channels and their shapes.
    """
    shapes = {plane.shape for _, plane in planes}
    if len(shapes) > 1:
        seen = ", ".join(f"{name} {'x'.join(map(str, plane.shape))}" for name, plane in planes)
        raise DecodeError("shape_mismatch", f"channels of one field differ in shape: {seen}")
    return np.stack([plane for _, plane in planes])


def merge_channels(images: Sequence[RasterImage], names: Sequence[str]) -> RasterImage:
    """Return one image of files that hold a channel each.

    Georeferenced bands of different resolutions are brought to the finest grid (`resample_to`);
    anything else must agree in shape.

    Args:
        images: one image a channel; each with a single channel.
        names: the channels' names, in the order of `images`.

    Raises:
        DecodeError: shape_mismatch.
    """
    for name, image in zip(names, images, strict=True):
        if image.array.shape[0] != 1:
            raise DecodeError(
                "shape_mismatch", f"{name}: {image.array.shape[0]} channels in a file, expected 1"
            )
    if all(image.bounds is not None for image in images):
        images = resample_to(images, names)
    array = stack_channels([(n, image.array[0]) for n, image in zip(names, images, strict=True)])
    valid = np.concatenate([image.valid_CHW for image in images])
    finest = min(images, key=lambda image: image.pixel_size or (0.0, 0.0))
    metadata = {**finest.metadata, "descriptions": list(names)}
    return replace(finest, array=array, valid_CHW=valid, channels=list(names), metadata=metadata)


def resample_to(images: Sequence[RasterImage], names: Sequence[str]) -> list[RasterImage]:
    """Return georeferenced images on the grid of the one with the most pixels.

    Values are interpolated linearly, pixels being areas; a band with invalid pixels takes the
    nearest value instead, so that nodata never mixes into data.

    Raises:
        DecodeError: shape_mismatch, if they cover different ground or use different CRSs.
    """
    finest = max(images, key=lambda image: image.array[0].size)
    done = []
    for name, image in zip(names, images, strict=True):
        if image.crs != finest.crs or not _same_ground(image, finest):
            raise DecodeError(
                "shape_mismatch",
                f"{name} covers {image.bounds} in {image.crs}, "
                f"other bands cover {finest.bounds} in {finest.crs}",
            )
        done.append(_resampled(image, finest.array.shape[1:]))
    return done


def _same_ground(image: RasterImage, finest: RasterImage) -> bool:
    """Tell whether two images have the same bounds, to half a pixel of the coarser one."""
    if image.bounds is None or finest.bounds is None:
        return False
    grace = 0.5 * max(image.pixel_size or (0.0, 0.0))
    pairs = zip(image.bounds, finest.bounds, strict=True)
    return all(abs(a - b) <= grace for a, b in pairs)


def _resampled(image: RasterImage, shape: tuple[int, ...]) -> RasterImage:
    """Return an image whose planes have the shape (H, W)."""
    if image.array.shape[1:] == shape:
        return image
    size = shape[1], shape[0]
    whole = bool(image.valid_CHW.all())
    mode = cv2.INTER_LINEAR if whole else cv2.INTER_NEAREST_EXACT
    wide = image.array.dtype if image.array.dtype.kind == "f" else np.dtype(np.float64)
    planes = [resize(plane.astype(wide), size, mode) for plane in image.array]
    array = np.stack(planes)
    if image.array.dtype.kind != "f":
        array = np.rint(array)
    valid = [resize(v.astype(np.uint8), size, cv2.INTER_NEAREST_EXACT) for v in image.valid_CHW]
    return replace(
        image, array=array.astype(image.array.dtype), valid_CHW=np.stack(valid).astype(bool)
    )


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
