"""Small raw files made in memory, and where the shared ones are."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import tifffile
from av.video.frame import VideoFrame
from numpy.typing import NDArray

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data is not here")


def smooth(height: int, width: int, *, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Return a picture with texture, little noise and little colour, as photos have."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, channels + 1), np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    mixed = blurred[..., :1] + 0.2 * blurred[..., 1:]
    low, high = mixed.min(), mixed.max()
    return ((mixed - low) / (high - low) * 255).astype(np.uint8)


def picture(ext: str, pixels: NDArray[np.generic], *parameters: int) -> bytes:
    """Encode RGB or grey pixels."""
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    return bytes(cv2.imencode(ext, stored, parameters)[1])


def numbered_video(
    frames: int,
    *,
    gop: int = 12,
    bframes: int = 0,
    format: str = "mp4",
    times: list[int] | None = None,
) -> bytes:
    """Return an H.264 video whose frame k is flat grey of level 5 + 4k; `times` in 1/1000 s."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format) as target:
        stream = target.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = Fraction(1, 1000)
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.options = {"g": str(gop), "bf": str(bframes), "crf": "10", "threads": "1"}
        for k in range(frames):
            frame = VideoFrame.from_ndarray(
                np.full((48, 64, 3), 5 + 4 * k, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = (times or range(0, 40 * frames, 40))[k], Fraction(1, 1000)
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    return buffer.getvalue()


def numbers_of(frames: NDArray[np.uint8]) -> list[int]:
    """Return which frames of a numbered video these are."""
    return np.rint((frames.mean((1, 2, 3)) - 5) / 4).astype(int).tolist()


def moving_clip(frames: int = 8) -> NDArray[np.uint8]:
    """Return frames whose background moves by (-2, 0) and a square in them by (7, 3) pixels."""
    ground, square = smooth(192, 256), smooth(64, 64, seed=1)
    clip = []
    for t in range(frames):
        frame = ground[20:148, 40 + 2 * t : 168 + 2 * t].copy()
        frame[16 + 3 * t : 80 + 3 * t, 8 + 7 * t : 72 + 7 * t] = square[:64, :64]
        clip.append(frame)
    return np.stack(clip)


def tiff(array: NDArray[np.generic], **options: object) -> bytes:
    """Return a TIFF of the array."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def geotiff(
    array_CHW: NDArray[np.generic],
    *,
    pixel: float = 10.0,
    crs: str | None = "EPSG:32633",
    **options: object,
) -> bytes:
    """Return a GeoTIFF whose upper left corner is at (500000, 5700000)."""
    from rasterio.io import MemoryFile
    from rasterio.transform import from_origin

    count, height, width = array_CHW.shape
    place = {"crs": crs, "transform": from_origin(500000, 5700000, pixel, pixel)} if crs else {}
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width}
    with MemoryFile() as memory:
        with memory.open(**{**profile, **place, **options}, dtype=array_CHW.dtype) as file:
            file.write(array_CHW)
        return bytes(memory.read())
