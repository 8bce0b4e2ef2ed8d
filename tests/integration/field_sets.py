"""Raw files of fields and scenes that the demo has none of: slides, radar, places over time."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path

import cv2
import numpy as np
import rasterio
import tifffile
from numpy.typing import NDArray
from rasterio.transform import from_origin

from flows.demo_textures import value_noise
from flows.demo_tiles import COVERS, NODATA, encode_tile, paint_tile

SLIDE = 1536
STAINS = {"dense": (6.0, (120, 70, 160)), "loose": (22.0, (215, 130, 175))}
"size of a structure in pixels, colour of the stain"
BACKSCATTER = {
    "water": (-22.0, -29.0), "leaf": (-10.5, -16.5), "needle": (-9.0, -14.5),
    "soil": (-13.0, -20.0), "roof": (-4.0, -11.0), "road": (-15.0, -23.0),
}  # fmt: skip
"dB of each cover in VV and VH"
LOOKS = 4
DAYS = (date(2021, 2, 9), date(2021, 5, 20), date(2021, 8, 3), date(2022, 10, 11))
GREEN = {2: 0.5, 5: 1.0, 8: 0.85, 10: 0.65}
"how strongly a place reflects in each month"


def paint_slide(stain: str, rng: np.random.Generator, edge: int = SLIDE) -> NDArray[np.uint8]:
    """Return a slide (edge, edge, 3) uint8: white glass with pieces of tissue on a third of it."""
    size, colour = STAINS[stain]
    canvas = np.full((edge, edge), 0, np.uint8)
    for _ in range(3):
        centre = rng.integers(edge // 5, 4 * edge // 5, 2)
        axes = rng.integers(edge // 8, edge // 4, 2)
        cv2.ellipse(
            canvas, centre.tolist(), axes.tolist(), float(rng.uniform(0, 180)), 0, 360, 1, -1
        )
    texture = value_noise(rng, edge, edge, (size, size), 2)[..., None]
    stained = np.asarray(colour) * (0.55 + 0.6 * texture)
    glass = np.full((edge, edge, 3), 243.0)
    picture = np.where(canvas[..., None] > 0, stained, glass)
    return np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)


def write_slide(path: Path, pixels: NDArray[np.uint8], compression: str = "jpeg") -> None:
    """Write a pyramid of tiles, as scanners do: the full picture and two smaller ones."""
    options = {"tile": (256, 256), "photometric": "rgb", "compression": compression}
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, subifds=2, **options)
        for step in (4, 16):
            file.write(pixels[::step, ::step], subfiletype=1, **options)


def slides(folder: Path) -> list[str]:
    """Make two slides of each stain; returns the words of their ingest."""
    rng = np.random.default_rng(7)
    for stain in STAINS:
        (folder / stain).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            write_slide(folder / stain / f"{stain}_{number}.tif", paint_slide(stain, rng))
    words = ["--modality", "microscopy", "--tile", "128", "--min-tissue", "0.5"]
    return [*words, "--labels", "parent", "--heldout", "0.2"]


def paint_radar(cover: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return VV and VH (2, 64, 64) in dB, with the speckle of a few looks."""
    shares = COVERS[cover](rng)
    power = [
        sum(share * 10 ** (BACKSCATTER[name][band] / 10) for name, share in shares.items())
        for band in (0, 1)
    ]
    scene = np.maximum(np.stack(power), 1e-4)
    return (10 * np.log10(scene * rng.gamma(LOOKS, 1 / LOOKS, scene.shape))).astype(np.float32)


def radar(folder: Path) -> list[str]:
    """Make twelve radar tiles of each cover, a file a band; returns the words of their ingest."""
    rng = np.random.default_rng(8)
    for cover in COVERS:
        (folder / cover).mkdir(parents=True, exist_ok=True)
        for number in range(12):
            tile = paint_radar(cover, rng)
            for name, band in zip(("VV", "VH"), tile, strict=True):
                write_band(folder / cover / f"{cover}_{number:02d}_{name}.tif", band)
    pattern = r"(?P<scene>\w+_\d+)_(?P<band>VV|VH)\.tif$"
    words = ["--modality", "satellite", "--pattern", pattern]
    return [*words, "--labels", "parent", "--heldout", "0.1"]


def write_band(path: Path, band: NDArray[np.float32]) -> None:
    """Write one georeferenced band."""
    profile = {"driver": "GTiff", "count": 1, "dtype": "float32", "crs": "EPSG:32632"}
    profile |= {"height": band.shape[0], "width": band.shape[1]}
    with rasterio.open(path, "w", transform=from_origin(6e5, 5.1e6, 10, 10), **profile) as file:
        file.write(band, 1)


def series(folder: Path) -> list[str]:
    """Make eight places of each cover, four days each; returns the words of their ingest."""
    rng = np.random.default_rng(9)
    for number, cover in enumerate(COVERS):
        (folder / cover).mkdir(parents=True, exist_ok=True)
        for place in range(8):
            scene = paint_tile(cover, rng)
            for day in DAYS:
                seen = np.maximum(scene * GREEN[day.month], NODATA + 1).astype(np.uint16)
                name = f"{cover}{place:02d}_{day:%Y%m%d}.tif"
                (folder / cover / name).write_bytes(encode_tile(seen, (number, place), day))
    pattern = r"(?P<scene>\w+\d+)_(?P<date>\d{8})\.tif$"
    words = ["--modality", "satellite", "--pattern", pattern]
    return [*words, "--labels", "parent", "--heldout", "0.1"]


FIELD_SETS: dict[str, Callable[[Path], list[str]]] = {
    "slides": slides,
    "radar": radar,
    "series": series,
}
"Datasets of small recipes by name: what makes the raw files, and says how they are ingested."
