"""Small raw inputs that tests make for themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile

from preprocessing.video_codec import encode_clip

CHANNELS = ("DNA", "ER", "RNA")


def make_images(folder: Path, count: int = 12, edge: int = 40) -> Path:
    """Write JPEG and PNG textures into two class folders."""
    rng = np.random.default_rng(0)
    for i in range(count):
        place = folder / ("fine" if i % 2 else "coarse")
        place.mkdir(parents=True, exist_ok=True)
        noise = rng.integers(0, 255, (edge, edge + i, 3), np.uint8)
        pixels = cv2.GaussianBlur(noise, (0, 0), 1 + 2 * (i % 2))
        cv2.imwrite(str(place / f"{i:03d}.{'png' if i % 3 == 0 else 'jpg'}"), pixels)
    return folder


def make_videos(folder: Path, count: int = 4, frames: int = 16, edge: int = 64) -> Path:
    """Write H.264 videos in which a textured square moves (3, 1) px a frame over a still
    background."""
    rng = np.random.default_rng(1)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        ground = cv2.GaussianBlur(rng.integers(0, 255, (edge, edge, 3), np.uint8), (0, 0), 2)
        thing = cv2.GaussianBlur(rng.integers(0, 255, (20, 20, 3), np.uint8), (0, 0), 1)
        clip = np.repeat(ground[None], frames, 0)
        for t in range(frames):
            x, y = 3 * t % (edge - 20), 10 + t
            clip[t, y : y + 20, x : x + 20] = thing
        (folder / f"video_{i}.mp4").write_bytes(encode_clip(clip, 25.0))
    return folder


def make_fields(folder: Path, wells: int = 3, edge: int = 48) -> Path:
    """Write 16-bit microscopy fields, one TIFF a channel, named like a plate."""
    rng = np.random.default_rng(2)
    folder.mkdir(parents=True, exist_ok=True)
    for well in range(wells):
        for site in (1, 2):
            for number, channel in enumerate(CHANNELS):
                plane = rng.integers(0, 4096, (edge, edge)).astype(np.uint16)
                name = f"P1_B{well + 1:02d}_s{site}_w{number + 1}_{channel}.tif"
                tifffile.imwrite(folder / name, plane)
    return folder


FIELD_PATTERN = r"(?P<plate>P\d+)_(?P<well>[A-P]\d\d)_s(?P<site>\d+)_w\d_(?P<channel>\w+)\.tif$"


def make_stacks(folder: Path, count: int = 3, edge: int = 48, channels: int = 3) -> Path:
    """Write 16-bit microscopy fields whose channels are the pages of one TIFF."""
    rng = np.random.default_rng(4)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = rng.integers(0, 4096, (channels, edge, edge)).astype(np.uint16)
        tifffile.imwrite(folder / f"stack_{i}.tif", pixels, photometric="minisblack")
    return folder


def make_tiles(folder: Path, count: int = 6, edge: int = 32) -> Path:
    """Write 16-bit GeoTIFF tiles with four named bands, a CRS and nodata 0."""
    import rasterio
    from rasterio.transform import from_origin

    rng = np.random.default_rng(3)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = rng.integers(1, 4000, (4, edge, edge)).astype(np.uint16)
        pixels[:, : i % 3] = 0
        profile = {
            "driver": "GTiff",
            "width": edge,
            "height": edge,
            "count": 4,
            "dtype": "uint16",
            "crs": "EPSG:32633",
            "transform": from_origin(500000 + 320 * i, 5000000, 10, 10),
            "nodata": 0,
        }
        with rasterio.open(folder / f"tile_{i}.tif", "w", **profile) as tile:
            tile.write(pixels)
            tile.descriptions = ("B02", "B03", "B04", "B08")
    return folder
