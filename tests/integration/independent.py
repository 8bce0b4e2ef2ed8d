"""Readers of raw files that share no code with ours: Pillow, PyAV by time, tifffile, rasterio."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import rasterio
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image, ImageOps

LEAST_PSNR = 20.0
"""dB between a source frame and the stored H.264 frame (crf 20): of photographs over 30, of test
patterns with saturated edges, whose colours are stored at half the size, over 22"""
LAG = 1.5
"dB by which a single stored frame may be nearer to a neighbour: the codec copies what hardly moves"
ALIKE = 2.0
"dB above the noise of storing at which neighbours are so near to each other that none can be told"


def picture(data: bytes) -> NDArray[np.uint8]:
    """Return upright RGB as Pillow sees it."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def planes(path: Path, satellite: bool) -> NDArray[Any]:
    """Return (C, H, W) of a raster."""
    if path.suffix == ".zarr":
        return np.asarray(zarr.open(str(path), mode="r")["0"])[0, :, 0]
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return np.moveaxis(arrays["img"], -1, 0)
    if path.suffix == ".png":
        return np.asarray(Image.open(path))[None]
    if satellite:
        with rasterio.open(path) as file:
            return np.asarray(file.read())
    pages = tifffile.imread(path, _multifile=False)
    return pages[None] if pages.ndim == 2 else pages


def all_frames(data: bytes) -> NDArray[np.uint8]:
    """Return (T, H, W, 3) of an mp4 by one plain pass."""
    with av.open(io.BytesIO(data)) as source:
        return np.stack([f.to_ndarray(format="rgb24") for f in source.decode(video=0)])


@lru_cache(maxsize=1)
def shown_frames(path: Path, short_side: int) -> list[NDArray[np.uint8]]:
    """Return every frame of a video in the order of its presentation, upright, scaled down."""
    found = []
    with av.open(str(path)) as source:
        for frame in source.decode(video=0):
            pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            scale = min(1.0, short_side / min(pixels.shape[:2]))
            size = round(pixels.shape[1] * scale), round(pixels.shape[0] * scale)
            small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
            found.append((frame.pts, small))
    return [pixels for _, pixels in sorted(found, key=lambda pair: pair[0])]


def psnr(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Return the ratio of peak to noise in dB."""
    error = ((left.astype(np.float64) - right) ** 2).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def assert_right_frames(
    path: Path, ids: list[int], stored: NDArray[np.uint8], short_side: int
) -> None:
    """Each stored frame is like the source's frame of its id, and no neighbour is more so.

    Where a scene stands still, neighbours are the same but for noise that storing takes away.
    """
    height, width = stored.shape[1:3]  # an odd edge lost one pixel
    source = [frame[:height, :width] for frame in shown_frames(path, short_side)]
    own = np.array([psnr(source[i], stored[k]) for k, i in enumerate(ids)])
    assert own.min() > LEAST_PSNR, f"{path.name}: frames {ids}: {own}"
    for shift in (-2, -1, 1, 2):
        places = [k for k, i in enumerate(ids) if 0 <= i + shift < len(source)]
        if not places:
            continue
        other = np.array([psnr(source[ids[k] + shift], stored[k]) for k in places])
        still = np.mean([psnr(source[ids[k] + shift], source[ids[k]]) for k in places])
        where = f"{path.name}: frames {ids} against those {shift} away: {own} {other}"
        assert (own[places] > other - LAG).all(), where
        assert own[places].mean() > other.mean() or still > own[places].mean() + ALIKE, where
