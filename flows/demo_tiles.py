"""Satellite tiles for the demo: twelve 16-bit Sentinel-2 bands, georeferenced and dated."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import numpy as np
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from flows.demo_textures import Field, pixel_grid, value_noise

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SIZE = 64
NODATA = 0
CORNER = (600_000.0, 5_100_000.0)
"upper left corner of the scene in EPSG:32632, in metres"
SPECTRA: dict[str, tuple[int, ...]] = {
    "water": (620, 560, 480, 330, 300, 260, 250, 220, 210, 200, 130, 100),
    "leaf": (350, 380, 620, 390, 900, 2100, 2700, 2850, 3000, 2900, 1650, 800),
    "needle": (300, 290, 420, 300, 560, 1300, 1600, 1700, 1800, 1750, 850, 420),
    "soil": (900, 1050, 1350, 1750, 1950, 2100, 2250, 2350, 2500, 2450, 3000, 2600),
    "roof": (1500, 1650, 1750, 1850, 1900, 1980, 2050, 2150, 2150, 2100, 2350, 2200),
    "road": (1000, 1020, 1050, 1100, 1130, 1160, 1180, 1200, 1220, 1210, 1350, 1300),
}
"surface reflectance times 10,000 in each band"


def _water(rng: np.random.Generator) -> dict[str, Field]:
    shore = value_noise(rng, SIZE, SIZE, (40, 40), 3) + rng.uniform(-0.35, -0.05)
    land = np.clip((shore - 0.55) * 12, 0, 1)
    waves = 0.85 + 0.3 * value_noise(rng, SIZE, SIZE, (3, 9), 2)
    return {"water": (1 - land) * waves, "leaf": land * 0.6, "soil": land * 0.4}


def _crop(rng: np.random.Generator) -> dict[str, Field]:
    rows, columns = pixel_grid(SIZE, SIZE)
    turn = rng.uniform(0, np.pi)
    across = columns * np.cos(turn) + rows * np.sin(turn)
    along = rows * np.cos(turn) - columns * np.sin(turn)
    wide, long = rng.uniform(9, 15), rng.uniform(18, 30)
    plot = (np.floor(across / wide) * 7 + np.floor(along / long) * 13).astype(int) % 17
    green = rng.uniform(0.05, 1.0, 17).astype(np.float32)[plot]
    furrows = 0.92 + 0.08 * np.sin(across * 2.2)
    return {"leaf": green * furrows, "soil": (1 - green) * furrows}


def _urban(rng: np.random.Generator) -> dict[str, Field]:
    step = int(rng.integers(9, 14))
    street = np.zeros((SIZE, SIZE), np.float32)
    street[int(rng.integers(step)) :: step] = 1
    street[:, int(rng.integers(step)) :: step] = 1
    parks = (value_noise(rng, SIZE, SIZE, (16, 16), 2) > 0.68) * (1 - street)
    roofs = (
        np.clip(0.4 + 1.2 * rng.random((SIZE // 2, SIZE // 2)), 0, 1.5).repeat(2, 0).repeat(2, 1)
    )
    blocks = (1 - street) * (1 - parks)
    return {"road": street, "leaf": parks * 0.8, "roof": blocks * roofs.astype(np.float32)}


def _forest(rng: np.random.Generator) -> dict[str, Field]:
    crowns = 0.6 + 0.8 * value_noise(rng, SIZE, SIZE, (2.5, 2.5), 2)
    kind = np.clip(value_noise(rng, SIZE, SIZE, (24, 24), 2) * 2 - 0.6, 0, 1)
    return {"needle": crowns * (1 - kind), "leaf": crowns * kind * 0.75}


COVERS: dict[str, Callable[[np.random.Generator], dict[str, Field]]] = {
    "crop": _crop,
    "forest": _forest,
    "urban": _urban,
    "water": _water,
}


def paint_tile(cover: str, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the (12, 64, 64) uint16 bands of one tile under its own sun and haze."""
    shares = COVERS[cover](rng)
    scene = sum(np.asarray(SPECTRA[name])[:, None, None] * share for name, share in shares.items())
    haze = rng.uniform(0, 500) * np.linspace(1, 0.1, len(BANDS))[:, None, None]
    sun = rng.uniform(0.55, 1.25)
    noise = rng.normal(0, 20, (len(BANDS), SIZE, SIZE))
    return np.clip(sun * scene + haze + noise, 1, 16_000).astype(np.uint16)


def cut_by_swath(bands: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
    """Return the tile with nodata beyond the oblique edge of the satellite's swath."""
    rows, columns = pixel_grid(SIZE, SIZE)
    edge = rng.uniform(0.15, 0.5) * SIZE + rng.uniform(-0.4, 0.4) * rows
    return np.where(columns < edge, np.uint16(NODATA), bands)


def encode_tile(bands: NDArray[np.uint16], place: tuple[int, int], day: date) -> bytes:
    """Return the bytes of a GeoTIFF: band names, 10 m pixels in EPSG:32632, time of sensing.

    Args:
        bands: (12, 64, 64) uint16.
        place: row and column of the tile in its scene.
        day: date of the acquisition.
    """
    left, top = CORNER[0] + place[1] * SIZE * 10, CORNER[1] - place[0] * SIZE * 10
    profile = {
        "driver": "GTiff",
        "count": len(BANDS),
        "height": SIZE,
        "width": SIZE,
        "dtype": "uint16",
        "crs": "EPSG:32632",
        "transform": from_origin(left, top, 10, 10),
        "nodata": NODATA,
        "compress": "deflate",
        "predictor": 2,
        "interleave": "band",
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as tile:
            tile.write(bands)
            tile.descriptions = BANDS
            tile.update_tags(
                TIFFTAG_DATETIME=f"{day:%Y:%m:%d} 10:20:31",
                SENSING_TIME=f"{day:%Y-%m-%d}T10:20:31Z",
            )
        return bytes(memory.read())
